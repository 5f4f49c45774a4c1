"""Whatever a worker does, its client gets one clear outcome and the next request is served."""

import json
import threading
import time

import pytest
from running import Evener, Start, eventually, origin_command

BROKEN_HEADS = [
    "bad-length",
    "bad-status",
    "bad-version",
    "bare-lf",
    "both-lengths",
    "close",
    "close-in-head",
    "close-in-status",
    "fold",
    "garbage",
    "huge-head",
    "many-fields",
    "nul",
    "space-before-colon",
    "split",
    "two-lengths",
    "unasked-upgrade",
    "unknown-coding",
]


@pytest.mark.parametrize("path", BROKEN_HEADS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_broken_answer_is_a_502(edge: Evener, path: str, method: str) -> None:
    with edge.wire() as wire:
        wire.request(method, f"/{path}")
        response = wire.response()
        assert response.status == 502, response
        assert response.body
        if not response.closes:
            assert wire.get("/who").status == 200
    assert edge.get("/who").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "close-in-body",
        "close-in-chunk",
        "close-before-last-chunk",
        "bad-chunk-size",
        "bad-chunk-end",
    ],
)
def test_an_answer_cut_short_never_looks_whole(edge: Evener, path: str) -> None:
    with edge.wire() as wire:
        wire.request("GET", f"/{path}")
        try:
            response = wire.response()
        except EOFError:
            pass  # cut off, which is what a client can notice
        else:
            assert response.status == 502, response
    assert edge.get("/who").status == 200


def test_a_worker_that_never_answers_is_a_504(edge: Evener) -> None:
    started = time.monotonic()
    with edge.wire() as wire:
        response = wire.get("/never")
        assert response.status == 504
    assert 0.9 < time.monotonic() - started < 5, "the first-byte timeout is one second"


def test_an_answer_in_single_bytes_is_fine(edge: Evener) -> None:
    with edge.wire() as wire:
        assert wire.get("/slow-head").body == b"slow"
        assert wire.get("/who").status == 200


@pytest.mark.parametrize("path", ["/early", "/early-close"])
def test_an_early_answer_reaches_a_client_that_still_sends(edge: Evener, path: str) -> None:
    size = 50_000_000
    with edge.wire() as wire:
        wire.send(f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
        stopped = threading.Event()

        def send() -> None:
            try:
                for _ in range(size // 100_000):
                    wire.send(b"x" * 100_000)
            except OSError:
                pass  # the edge need not take what nobody reads
            finally:
                stopped.set()

        sender = threading.Thread(target=send)
        sender.start()
        started = time.monotonic()
        assert wire.response().status == 409
        assert time.monotonic() - started < 2, "it did not wait for the body"
        wire.close()
        sender.join(10)
        assert stopped.is_set()


def test_bytes_after_an_answer_are_nobody_elses_answer(edge: Evener) -> None:
    for path in ("/two-answers", "/tail-after-204"):
        for _ in range(4):
            with edge.wire() as wire:
                assert wire.get(path).body in (b"one", b"")
                assert "worker" in json.loads(wire.get("/who").body)


def test_connections_to_a_worker_are_used_again(edge: Evener) -> None:
    with edge.wire() as wire:
        assert max(wire.get("/who").json()["nth"] for _ in range(20)) >= 5


def test_a_connection_that_went_stale_is_not_noticed(edge: Evener) -> None:
    with edge.wire() as wire:
        for _ in range(50):
            assert wire.get("/stale").body == b"one"


def test_a_client_that_stops_reading_stops_the_worker(start: Start) -> None:
    """Backpressure: of 64 MiB only what fits into socket buffers leaves the worker."""
    one = ["--workers", "1", "--worker-command", origin_command()]
    edge = start(*one, ready_path="/who")
    with edge.wire() as wire:
        wire.request("GET", "/flood")
        assert wire.head().status == 200

        def sent() -> int:
            events = edge.get("/events").json()
            return max((int(e.split()[1]) for e in events if e.startswith("flood ")), default=0)

        before, now = -1, eventually(sent, "it has begun")
        deadline = time.monotonic() + 20
        while now != before and time.monotonic() < deadline:
            time.sleep(0.3)
            before, now = now, sent()
        assert 0 < now < 48 * 1024 * 1024, f"{now} bytes went out to a client that reads nothing"
        wire.socket.settimeout(30)
        assert len(wire.exactly(64 * 1024 * 1024)) == 64 * 1024 * 1024
    with edge.wire() as wire:
        assert wire.get("/who").status == 200
