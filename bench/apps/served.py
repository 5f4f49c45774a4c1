"""The applications that every server of the bench serves; the driver knows their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGE = b"x" * 65536
CHUNK = b"x" * 100
BLOCK_SECONDS = 0.2


async def raw(scope: Message, receive: Receive, send: Send) -> None:
    """The least that an ASGI application can do."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def hello(request: Request) -> Response:
    """Plain text by Starlette."""
    return PlainTextResponse("Hello, world!")


starlette = Starlette(routes=[Route("/", hello)])
app = FastAPI()


class Item(BaseModel):
    """What is posted: about 1 kB of JSON."""

    name: str
    price: float
    tags: list[str] = []
    description: str = ""


@app.get("/items/{item_id}")
async def read(item_id: int, q: str | None = None) -> dict[str, Any]:
    """A typical read."""
    return {"item_id": item_id, "q": q}


@app.post("/items")
async def create(item: Item) -> dict[str, Any]:
    """A typical write."""
    return {"name": item.name, "tags": len(item.tags), "description": len(item.description)}


@app.get("/sync")
def sync() -> dict[str, Any]:
    """An endpoint that runs in the thread pool."""
    return {"hello": "world"}


@app.get("/large")
async def large() -> Response:
    """64 kB."""
    return Response(LARGE)


@app.get("/stream")
async def stream() -> Response:
    """A stream of 20 chunks."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield CHUNK

    return StreamingResponse(chunks())


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Every message comes back."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


@app.get("/fast")
async def fast() -> Response:
    """Answers at once."""
    return Response(b"ok")


@app.get("/wait")
async def wait() -> Response:
    """Answers after 20 ms in which the loop is free, as after a query."""
    await asyncio.sleep(0.02)
    return Response(b"ok")


@app.get("/block")
async def block() -> Response:
    """Holds the event loop for 200 ms without using the CPU, as a forgotten blocking call does."""
    time.sleep(BLOCK_SECONDS)
    return Response(b"ok")


@app.get("/burn")
async def burn() -> Response:
    """Holds the event loop for 200 ms of its own CPU time, as a large computation does."""
    until = time.thread_time() + BLOCK_SECONDS
    while time.thread_time() < until:
        pass
    return Response(b"ok")
