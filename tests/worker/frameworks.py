"""Starlette and FastAPI applications as people write them: what the framework tests ask for."""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import socketio  # type: ignore[import-untyped]
from fastapi import BackgroundTasks, Depends, FastAPI, Request, UploadFile, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LARGE_FILE = Path(tempfile.gettempdir()) / "evener-worker-test-file"


async def _where(request: Request) -> Response:
    path, root = request.scope["path"], request.scope["root_path"]
    return JSONResponse({"path": path, "root_path": root, "url": str(request.url)})


mounted = Starlette(routes=[Route("/where", _where)])


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """A file to be sent, and something in the state."""
    LARGE_FILE.write_bytes(bytes(range(256)) * 40_000)
    yield {"greeting": "from lifespan"}
    LARGE_FILE.unlink(missing_ok=True)
    print("fastapi shutdown", flush=True)


class Timing(BaseHTTPMiddleware):
    """The middleware that everyone writes first."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Adds a header."""
        request.state.through = "middleware"
        response = await call_next(request)
        response.headers["x-timing"] = "measured"
        return response


app = FastAPI(
    lifespan=lifespan,
    middleware=[
        Middleware(CORSMiddleware, allow_origins=["https://example.org"], allow_credentials=True),
        Middleware(GZipMiddleware, minimum_size=500),
        Middleware(SessionMiddleware, secret_key="for tests only"),  # noqa: S106
        Middleware(Timing),
    ],
)
log: list[str] = []


async def resource() -> AsyncIterator[str]:
    """A dependency that has to be closed."""
    log.append("opened")
    try:
        yield "resource"
    finally:
        log.append("closed")


class Item(BaseModel):
    """Something to post."""

    name: str
    price: float


@app.get("/items/{number}")
async def item(number: int, request: Request) -> dict[str, Any]:
    """State, path and middleware."""
    return {
        "number": number,
        "greeting": request.state.greeting,
        "through": request.state.through,
    }


@app.post("/items")
async def create(item: Item) -> Item:
    """Validated JSON."""
    return item


@app.get("/sync")
def sync() -> dict[str, str]:
    """In the thread pool."""
    return {"from": "thread"}


@app.get("/long")
async def long() -> dict[str, str]:
    """Long enough to be compressed."""
    return {"text": "compress me " * 200}


@app.get("/session")
async def session(request: Request) -> dict[str, int]:
    """Counts in a cookie."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return {"visits": request.session["visits"]}


@app.get("/stream")
async def stream() -> StreamingResponse:
    """Through all the middlewares."""

    async def lines() -> AsyncIterator[str]:
        for number in range(10):
            yield f"line {number}\n"
            await asyncio.sleep(0.001)

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/endless")
async def endless() -> StreamingResponse:
    """Until the client goes; its cleanup is in the log."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.005)
        finally:
            log.append("endless closed")

    return StreamingResponse(lines())


@app.get("/file")
async def file() -> FileResponse:
    """10 MB from disk."""
    return FileResponse(LARGE_FILE)


@app.get("/background")
async def background(tasks: BackgroundTasks) -> dict[str, bool]:
    """Work after the response."""
    tasks.add_task(_later)
    return {"started": True}


async def _later() -> None:
    await asyncio.sleep(0.05)
    log.append("background")


@app.get("/depends")
async def depends(got: Annotated[str, Depends(resource)]) -> dict[str, str]:
    """A dependency with a cleanup."""
    return {"got": got}


@app.get("/group")
async def group() -> list[int]:
    """anyio's task groups need a current task."""
    results: list[int] = []

    async def work(number: int) -> None:
        await anyio.sleep(0.01 * (3 - number))
        results.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(work, number)
    with anyio.move_on_after(0.01) as limit:
        await anyio.sleep(10)
    assert limit.cancelled_caught
    return results


@app.post("/upload")
async def upload(files: list[UploadFile]) -> list[dict[str, Any]]:
    """Files of any size."""
    return [
        {
            "name": file.filename,
            "size": file.size,
            "sum": hashlib.sha256(await file.read()).hexdigest(),
        }
        for file in files
    ]


@app.get("/events")
async def events() -> EventSourceResponse:
    """Server-sent events by sse-starlette."""

    async def three() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"id": str(number), "data": f"event {number}"}

    return EventSourceResponse(three())


@app.get("/events/endless")
async def endless_events() -> EventSourceResponse:
    """Events until the client goes."""

    async def forever() -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                yield {"data": "tick"}
                await asyncio.sleep(0.005)
        finally:
            log.append("events closed")

    return EventSourceResponse(forever())


@app.get("/boom")
async def boom() -> None:
    """Fails through all the middlewares."""
    raise RuntimeError("boom in FastAPI")


@app.get("/log")
async def read_log() -> list[str]:
    """What was noted; it is empty afterwards."""
    found, log[:] = list(log), []
    return found


@app.websocket("/ws")
async def socket(websocket: WebSocket) -> None:
    """Answers with JSON."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_json({"you said": text})
    log.append("socket closed")


server = socketio.AsyncServer(async_mode="asgi")
events_app = socketio.ASGIApp(server, socketio_path="socket.io")


async def message(sid: str, data: Any) -> None:
    """Answers whoever sends something."""
    await server.emit("answer", {"you said": data}, to=sid)


server.on("message", message)
