"""HTTP between the wire and `receive` and `send`."""

import os
import signal

import pytest
from running import eventually

from worker.conftest import Serve
from worker.serving import Worker

HEAD = "GET / HTTP/1.1\r\nHost: a\r\n"


def test_keep_alive_and_pipelining(worker: Worker) -> None:
    with worker.wire() as wire:
        for _ in range(3):
            assert wire.get("/hello").body == b"hello"
        wire.send(
            b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /slow?0.05 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        bodies = [wire.response().body for _ in range(3)]
    assert bodies == [b"hello", b"slow", b"abc"]


def test_bodies_of_any_kind(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.post("/echo", b"short").body == b"short"
        assert wire.post("/echo", b"").body == b""
        wire.request("GET", "/echo")
        response = wire.response()
        assert (response.body, response.one("x-sizes")) == (b"", "[0]")
        wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send("5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert wire.response().body == b"hello world"
        # The connection is fit for the next request.
        assert wire.get("/hello").body == b"hello"


def test_a_body_that_comes_byte_by_byte(worker: Worker) -> None:
    with worker.wire() as wire:
        text = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in text + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n":
            wire.send(byte)
        assert wire.response().body == b"abcde"


def test_a_large_body_comes_in_pieces(worker: Worker) -> None:
    size = 20_000_000
    with worker.wire() as wire:
        found = wire.post("/length", bytes(size)).json()
    assert found["total"] == size
    assert found["pieces"] > 10
    assert found["largest"] <= 256 * 1024


def test_a_malformed_chunk_is_refused(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send("zz\r\n")
        assert wire.response().status == 400
        assert not wire.more()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (f"{HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
def test_a_malformed_head_is_refused(worker: Worker, text: str, status: int) -> None:
    with worker.wire() as wire:
        wire.send(text)
        response = wire.response()
        assert (response.status, response.closes) == (status, True)
        assert not wire.more()


def test_an_unread_body_does_not_spoil_the_connection(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.post("/unread", b"x" * 100_000).body == b"did not read it"
        assert wire.get("/hello").body == b"hello"


def test_an_endless_unread_body_ends_the_connection(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.send("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert wire.response().body == b"did not read it"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:  # the socket's own time limit ends it if nothing else does
                wire.send(bytes(65536))


def test_continue_is_sent_when_the_application_reads(worker: Worker) -> None:
    head = "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with worker.wire() as wire:
        wire.send(head.format("/echo"))
        assert wire.head().status == 100
        wire.send("ok")
        assert wire.response().body == b"ok"
    with worker.wire() as wire:
        wire.send(head.format("/unread"))
        response = wire.head()
        wire.body_of(response)
        assert (response.status, response.closes) == (200, True)


def test_streams_leave_as_they_come(worker: Worker) -> None:
    with worker.wire() as wire, worker.wire() as other:
        wire.request("GET", "/gated")
        head = wire.head()
        assert head.one("transfer-encoding") == "chunked"
        assert wire.chunk() == b"first"
        other.get("/open-gate")
        assert wire.chunk() == b"second"
        assert not wire.chunk()
    with worker.wire() as wire:
        assert wire.get("/stream").body == b"01234"


def test_a_stream_waits_for_a_slow_reader(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as wire, worker.wire() as other:
        wire.request("GET", "/flood")
        wire.head()
        at_rest = _settled(lambda: int(other.get("/flooded").json()))
        # What it could send is in the buffers of both sockets and of the server: far from all.
        assert at_rest * 65536 < 2_000_000
        rest = _read_all(wire)
    assert rest > 64 * 1024 * 1024


def _settled(look: object) -> int:
    """The value once it has stopped changing."""
    last = -1

    def still() -> bool:
        nonlocal last
        now = look()  # type: ignore[operator]
        same = now == last and now > 0
        last = now
        return bool(same)

    eventually(still, "it comes to rest", every=0.3)
    return last


def _read_all(wire: object) -> int:
    total = 0
    while piece := wire.chunk():  # type: ignore[attr-defined]
        total += len(piece)
    return total + 1


def test_a_large_body_is_sent_whole(worker: Worker) -> None:
    with worker.wire() as wire:
        body = wire.get("/large").body
    assert body == bytes(range(256)) * 32768


def test_bodies_and_headers_of_other_types(worker: Worker) -> None:
    with worker.wire() as wire:
        response = wire.get("/views")
    assert response.body == b"bytearray memoryview"
    assert (response.one("x-one"), response.one("x-two")) == ("1", "2")


def test_a_whole_body_gets_its_length(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.get("/hello").one("content-length") == "5"
        wire.request("HEAD", "/hello")
        response = wire.response(to="HEAD")
        assert (response.one("content-length"), response.one("transfer-encoding")) == ("5", None)
        assert wire.get("/hello").body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(worker: Worker, status: int) -> None:
    with worker.wire() as wire:
        response = wire.get(f"/status?{status}")
        assert response.status == status
        assert response.one("transfer-encoding") is None
        assert wire.get("/hello").body == b"hello"


def test_trailers(worker: Worker) -> None:
    with worker.wire() as wire:
        response = wire.get("/trailers", "TE: trailers")
        assert response.body == b"data"
        assert response.trailers == [("x-sum", "1"), ("x-last", "2")]
        assert wire.get("/hello").body == b"hello"


def test_early_hints(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.request("GET", "/hints")
        hint = wire.head()
        assert hint.status == 103
        assert hint.all("link") == ["</style.css>; rel=preload; as=style", "</app.js>; rel=preload"]
        assert wire.response().body == b"hinted"


def test_framing_is_the_servers_own(worker: Worker) -> None:
    with worker.wire() as wire:
        response = wire.get("/hop")
        assert response.one("transfer-encoding") is None
        # Named for the edge, which removes it together with what it names.
        assert response.one("connection") == "keep-alive, x-foo"
        assert (response.body, response.one("x-foo")) == (b"hop", "1")
        assert wire.get("/dated").all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
        assert len(wire.get("/hello").all("date")) == 1
        assert wire.get("/close").closes
        assert not wire.more()


def test_http_1_0(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = wire.response()
        assert response.one("connection") == "keep-alive"
        wire.send("GET /stream HTTP/1.0\r\n\r\n")
        head = wire.head()
        assert (head.one("transfer-encoding"), head.closes) == (None, True)
        while wire.more():
            pass
        assert wire.buffer == b"01234"


def test_the_client_goes_while_the_application_waits(worker: Worker) -> None:
    for query in ("", "streaming"):
        with worker.wire() as wire, worker.wire() as other:
            wire.request("GET", f"/watch?{query}")
            if query:
                wire.head()
                wire.chunk()
            eventually(lambda: _watched(other) is None, "it has begun")
            wire.close()
            found = eventually(lambda: _watched(other), "it has noticed")
            assert found == ["http.disconnect", "http.disconnect", "OSError ClientDisconnected"]


def test_the_client_goes_while_the_application_streams(worker: Worker) -> None:
    with worker.wire() as wire, worker.wire() as other:
        wire.request("GET", "/stream-until-gone")
        wire.head()
        wire.chunk()
        wire.close()
        found = eventually(lambda: _watched(other), "it has noticed")
        assert found == ["OSError", "ClientDisconnected"]
    # That a client goes away is no error of the application's.
    assert "stream-until-gone: exception" not in worker.words()


def _watched(wire: object) -> object:
    return wire.get("/watched").json()  # type: ignore[attr-defined]


def test_the_client_goes_in_the_middle_of_its_body(worker: Worker) -> None:
    with worker.wire() as wire, worker.wire() as other:
        wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        wire.close()
        assert other.get("/hello").status == 200


def test_a_client_that_only_ends_its_sending_is_answered(worker: Worker) -> None:
    import socket

    with worker.wire() as wire:
        wire.request("GET", "/slow?0.1")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.response().body == b"slow"
        assert not wire.more()


def test_disconnect_follows_a_complete_response(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.get("/after-end").status == 200
        assert wire.get("/hello").status == 200


def test_contexts_are_kept_apart(worker: Worker) -> None:
    with worker.wire() as wire, worker.wire() as other:
        wire.request("GET", "/context")
        other.request("GET", "/context")
        pipelined = b"GET /context HTTP/1.1\r\nHost: a\r\n\r\n"
        wire.send(pipelined * 2)
        bodies = [wire.response().body, other.response().body]
        bodies += [wire.response().body, wire.response().body]
    assert bodies == [b"untouched"] * 4


def test_awaitables_do_what_coroutines_do(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.get("/as-task").json() == ["http.request", 0, True]


def test_the_task_looks_like_one(worker: Worker) -> None:
    with worker.wire() as wire:
        found = wire.get("/who").json()
    assert found["all"] is True


def test_a_stuck_worker_shows_where(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as wire:
        wire.request("GET", "/block?1")
        eventually(lambda: _cpu_waits(worker.process.pid), "it blocks")
        os.kill(worker.process.pid, signal.SIGUSR1)
        assert wire.response().body == b"blocked"
    assert "in block" in worker.await_words("applications.py")


def _cpu_waits(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as channel:  # noqa: PTH123
        return "nanosleep" in channel.read()
