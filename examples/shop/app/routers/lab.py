"""Endpoints that behave badly, or oddly, on purpose: for tests, benchmarks and trying things out.

Every real application has some of these by accident.
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from ..database import SessionDep, Sighting, engine

router = APIRouter(prefix="/lab", tags=["lab"])

Seconds = Annotated[float, Query(ge=0, le=600)]
Size = Annotated[int, Path(ge=0, le=64 * 1024 * 1024)]


class Worker(BaseModel):
    """Who answered."""

    worker: int
    thread: str


def _me() -> Worker:
    return Worker(worker=os.getpid(), thread=threading.current_thread().name)


@router.get("/worker")
async def worker() -> Worker:
    """The process that answers, at once."""
    return _me()


@router.get("/sync")
def sync() -> Worker:
    """The same from a plain `def`, which runs in the thread pool."""
    return _me()


@router.get("/slow")
async def slow(seconds: Seconds = 1.0) -> Worker:
    """Waits without holding up anybody."""
    await asyncio.sleep(seconds)
    return _me()


@router.get("/block")
async def block(seconds: Seconds = 0.2) -> Worker:
    """Blocks the event loop: nothing else runs in this worker meanwhile."""
    time.sleep(seconds)  # the mistake that this endpoint is there to show
    return _me()


@router.get("/cpu")
def cpu(rounds: Annotated[int, Query(ge=1, le=10_000_000)] = 10_000) -> dict[str, str]:
    """Burns CPU time in a thread."""
    digest = b""
    for _ in range(rounds):
        digest = hashlib.sha256(digest).digest()
    return {"digest": digest.hex()}


@lru_cache(maxsize=16)
def _text(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@router.get("/text/{size}")
async def text(size: Size) -> Response:
    """So many bytes of plain text, with a content length."""
    return Response(_text(size), media_type="text/plain")


@lru_cache(maxsize=16)
def _records(size: int) -> list[dict[str, int | str]]:
    record: dict[str, int | str] = {"id": 1000, "name": "singletree", "note": "one to each horse"}
    return [record] * max(1, size // (len(json.dumps(record, separators=(",", ":"))) + 1))


@router.get("/json/{size}")
async def json_of_size(size: Size) -> list[dict[str, int | str]]:
    """About so many bytes of JSON."""
    return _records(size)


@router.get("/stream")
async def stream(
    chunks: Annotated[int, Query(ge=0, le=100_000)] = 20,
    size: Annotated[int, Query(ge=1, le=1024 * 1024)] = 64,
    interval: Seconds = 0.0,
) -> StreamingResponse:
    """A body in chunks whose length nobody knows beforehand."""

    async def body() -> AsyncIterator[bytes]:
        for number in range(chunks):
            if number and interval:
                await asyncio.sleep(interval)
            yield _text(size)

    return StreamingResponse(body(), media_type="text/plain")


class Echo(Response):
    """Sends each piece of the request's body back as soon as it is there.

    It reads and writes by turns itself: a `StreamingResponse` would, on some servers, read the
    body away while it looks out for the client's leaving.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(media_type=request.headers.get("content-type", "text/plain"))
        del self.headers["content-length"]
        self.request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for piece in self.request.stream():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.api_route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def echo(request: Request) -> Response:
    """Sends the request's body back while it is still coming in."""
    return Echo(request)


@router.post("/digest")
async def digest(request: Request) -> dict[str, int | str]:
    """Reads the body and tells its size and digest."""
    sha256 = hashlib.sha256()
    size = 0
    async for piece in request.stream():
        sha256.update(piece)
        size += len(piece)
    return {"size": size, "sha256": sha256.hexdigest()}


@router.post("/early")
async def early() -> Response:
    """Refuses without having read the body."""
    return PlainTextResponse("Not today.\n", status_code=409)


@router.api_route("/request", methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def request_seen(request: Request) -> dict[str, object]:
    """The request as the application sees it."""
    return {
        "method": request.method,
        "path": request.url.path,
        "raw_path": request.scope.get("raw_path", b"").decode("latin-1"),
        "query": request.scope["query_string"].decode("latin-1"),
        "root_path": request.scope.get("root_path", ""),
        "scheme": request.url.scheme,
        "http_version": request.scope["http_version"],
        "client": list(request.client) if request.client else None,
        "headers": [(name, value) for name, value in request.headers.items()],
        "worker": os.getpid(),
    }


@router.get("/status/{code}")
async def status(code: Annotated[int, Path(ge=200, le=599)]) -> Response:
    """An answer with this status, and a body where one may be."""
    if code in (204, 304):
        return Response(status_code=code)
    return PlainTextResponse(f"{code}\n", status_code=code)


@router.get("/headers")
async def headers() -> Response:
    """An answer with header fields that belong to one connection only, and two cookies."""
    response = JSONResponse({"ok": True})
    response.headers["connection"] = "x-private, close"
    response.headers["x-private"] = "not for the client"
    response.headers["keep-alive"] = "timeout=1"
    response.headers["x-public"] = "for the client"
    response.set_cookie("one", "1")
    response.set_cookie("two", "2")
    return response


@router.get("/error")
async def error() -> None:
    """Raises what no handler catches."""
    raise RuntimeError("the lab exploded, as asked")


@router.get("/refuse")
async def refuse() -> None:
    """Raises what FastAPI turns into an answer."""
    raise HTTPException(418, "I'm a teapot.", headers={"x-teapot": "short and stout"})


def _note(key: str, what: str) -> None:
    with Session(engine) as session:
        session.add(Sighting(key=key, what=what))
        session.commit()


@router.get("/patient/{key}")
async def patient(key: str) -> StreamingResponse:
    """Streams without end, and notes under `key` when its client has gone."""

    async def body() -> AsyncIterator[bytes]:
        await run_in_threadpool(_note, key, "started")
        try:
            while True:
                yield b"still here\n"
                await asyncio.sleep(0.05)
        finally:
            _note(key, "client gone")

    return StreamingResponse(body(), media_type="text/plain")


@router.get("/waiting/{key}")
async def waiting(key: str, request: Request) -> dict[str, bool]:
    """Answers nothing until its client has gone, which it notes under `key`."""
    await run_in_threadpool(_note, key, "started")
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    await run_in_threadpool(_note, key, "client gone")
    return {"gone": True}


@router.get("/sightings/{key}")
def sightings(key: str, session: SessionDep) -> list[str]:
    """What was noted under a key, in order."""
    query = select(Sighting.what).where(Sighting.key == key).order_by(Sighting.id)
    return list(session.scalars(query))


@router.post("/exit")
async def leave(code: Annotated[int, Query(ge=0, le=255)] = 1) -> None:
    """Ends the worker's process at once, as a crash in a C library would."""
    os._exit(code)
