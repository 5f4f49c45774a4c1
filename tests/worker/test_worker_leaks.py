"""Nothing is left behind: objects, tasks, descriptors, memory."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import unix_connect

from worker.serving import UnixWire, Worker

# Enough for a leak of one small object per round to show; the soak test takes many more.
ROUNDS = 300
PATHS = [
    "/hello",
    "/stream-short",
    "/echo",
    "/trailers",
    "/hints",
    "/raises",
    "/unread",
    "/returns-nothing",
    "/context",
]


@pytest.fixture(params=["uvloop", "asyncio"])
def quiet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(f"leaks-{request.param}")
    flags = ["--loop", request.param, "--log-level", "critical"]
    with Worker(folder, "applications:app", *flags) as worker:
        yield worker


def measure(worker: Worker) -> dict[str, Any]:
    with worker.wire() as wire:
        found: dict[str, Any] = wire.get("/measure").json()
    return found


def one_round(worker: Worker, wire: UnixWire, number: int) -> UnixWire:
    """One request of every kind, and some that end badly."""
    for path in PATHS:
        wire.request("POST", path, "Expect: 100-continue", body=b"x" * 100)
        response = wire.response()
        if response.closes:
            wire.close()
            wire = worker.wire()
    if number % 10 == 0:
        with unix_connect(str(worker.path), "ws://worker/echo") as socket:
            socket.send("x" * 1000)
            assert socket.recv() == "x" * 1000
        with worker.wire() as tasks:
            assert tasks.get("/as-task").status == 200
        with worker.wire() as leaving:
            leaving.request("GET", "/watch?streaming")
            leaving.head()
        with worker.wire() as malformed:
            malformed.send("nonsense\r\n\r\n")
            assert malformed.response().status == 400
    return wire


def test_nothing_is_left_behind(quiet: Worker) -> None:
    wire = quiet.wire()
    for number in range(60):
        wire = one_round(quiet, wire, number)
    before = measure(quiet)
    for number in range(ROUNDS):
        wire = one_round(quiet, wire, number)
    after = measure(quiet)
    wire.close()
    assert after["objects"] - before["objects"] < 50
    assert after["tasks"] == before["tasks"]
    assert after["descriptors"] == before["descriptors"]
    assert after["rss"] - before["rss"] < 3_000_000


@pytest.mark.soak
def test_memory_stays_flat_over_many_requests(quiet: Worker) -> None:
    requests = int(os.environ.get("LEAK_REQUESTS", "500000"))
    asyncio.run(hammer(quiet, 50_000))
    before = measure(quiet)
    asyncio.run(hammer(quiet, requests))
    after = measure(quiet)
    assert after["rss"] - before["rss"] < 2_000_000, (before, after)
    assert after["objects"] - before["objects"] < 50, (before, after)


async def hammer(worker: Worker, requests: int) -> None:
    """Mixed requests over 32 connections."""
    each = requests // 32
    bodies = {
        0: b"GET /hello HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
        1: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
        2: b"GET /trailers HTTP/1.1\r\nHost: a\r\n\r\n",
        3: b"GET /scope/%20?q HTTP/1.1\r\nHost: a\r\nX-Real-IP: 10.0.0.1\r\n\r\n",
    }
    ends = {0: b"hello", 1: b"x" * 1000, 2: b"x-last: 2\r\n\r\n", 3: b"}"}

    async def client() -> None:
        reader, writer = await asyncio.open_unix_connection(str(worker.path))
        for number in range(each):
            writer.write(bodies[number % 4])
            seen = b""
            while not seen.endswith(ends[number % 4]):
                piece = await reader.read(65536)
                assert piece, "the worker hung up"
                seen += piece
        writer.close()

    await asyncio.gather(*(client() for _ in range(32)))
