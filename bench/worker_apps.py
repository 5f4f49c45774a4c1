"""The applications that `bench/worker.py` measures servers with."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!"
LARGE = b"x" * 65536
CHUNK = b"x" * 100


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
    await send({"type": "http.response.body", "body": HELLO})


async def hello(_request: Request) -> Response:
    """Plain text by Starlette."""
    return PlainTextResponse("Hello, world!")


async def large(_request: Request) -> Response:
    """64 kB."""
    return Response(LARGE)


async def twenty(_request: Request) -> Response:
    """A stream of 20 chunks."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield CHUNK

    return StreamingResponse(chunks())


starlette = Starlette(routes=[Route("/", hello), Route("/large", large), Route("/stream", twenty)])

fastapi = FastAPI()


class Item(BaseModel):
    """What is posted: about 1 kB of JSON."""

    name: str
    price: float
    tags: list[str] = []
    description: str = ""


@fastapi.get("/items/{item_id}")
async def read(item_id: int, q: str | None = None) -> dict[str, Any]:
    """A typical read."""
    return {"item_id": item_id, "q": q}


@fastapi.post("/items")
async def create(item: Item) -> dict[str, Any]:
    """A typical write."""
    return {"name": item.name, "tags": len(item.tags), "description": len(item.description)}


@fastapi.get("/sync")
def sync() -> dict[str, Any]:
    """An endpoint that runs in the thread pool."""
    return {"hello": "world"}


@fastapi.get("/fast")
async def fast() -> Response:
    """Answers at once."""
    return Response(b"ok")


@fastapi.get("/block")
async def block() -> Response:
    """Holds the event loop for 200 ms, as a forgotten blocking call does."""
    time.sleep(0.2)  # noqa: ASYNC251
    return Response(b"ok")


tails = fastapi
