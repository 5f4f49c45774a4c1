"""Bodies that are kept: requests taken whole before an endpoint is asked for, responses taken off
their endpoint before a slow client has them, on disk beyond what may lie in memory."""

import hashlib
import json
import signal
import socket
from pathlib import Path

import pytest
from running import Origin, Origins, Serve, Served, eventually
from wire import Wire
from wire2 import Streams

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 1024  # 256 KiB that are not all alike


def one(origin: Origin, *keys: str, route: str = "", more: str = "") -> str:
    """A file with one cluster of one endpoint."""
    return cluster([origin], *keys, route=route, more=more)


def cluster(origins: list[Origin], *keys: str, route: str = "", more: str = "") -> str:
    """A file with one cluster of these endpoints."""
    endpoints = ", ".join(f'"{origin.address}"' for origin in origins)
    lines = "\n".join(keys)
    head = f'{more}\n[[route]]\ncluster = "c"\n{route}\n'
    return f"{head}[cluster.c]\nendpoints = [{endpoints}]\n{lines}\n"


def spilled(served: Served) -> list[str]:
    """The files without a name that the program holds open."""
    found = []
    for link in Path(f"/proc/{served.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("/") and target.endswith("(deleted)") and "memfd:" not in target:
            found.append(target)
    return found


def memory(served: Served) -> int:
    """The most memory that the program has had so far, in bytes."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def begin(wire: Wire, method: str, path: str, length: int, *fields: str) -> None:
    """Sends a head that announces a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {length}", *fields]
    wire.send("\r\n".join(lines) + "\r\n\r\n")


def test_an_endpoint_is_not_touched_until_the_body_is_whole(serve: Serve, origin: Origins) -> None:
    """A slow upload holds no endpoint: the only one, with one slot, serves others meanwhile."""
    endpoint = origin("a")
    text = one(endpoint, "buffer_requests = true").replace(
        f'"{endpoint.address}"', f'{{ address = "{endpoint.address}", max_conns = 1 }}'
    )
    served = serve(text)
    body = b"slowly" * 10
    with served.wire() as slow:
        begin(slow, "POST", "/digest", len(body))
        for byte in body[:-1]:
            slow.send(bytes([byte]))
            if byte == body[0]:
                assert served.who() == "a"
        assert "began /digest" not in endpoint.events()
        slow.send(body[-1:])
        answer = slow.response()
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


def test_without_it_the_endpoint_gets_the_head_at_once(serve: Serve, origin: Origins) -> None:
    """Off by default; and a route says otherwise than its cluster."""
    endpoint = origin("a")
    served = serve(one(endpoint, "buffer_requests = true", route="buffer_requests = false"))
    with served.wire() as slow:
        begin(slow, "POST", "/digest", 2)
        eventually(lambda: "began /digest" in endpoint.events(), "the endpoint has the head")
        slow.send(b"ok")
        assert slow.response().status == 200


@pytest.mark.parametrize("framing", ["length", "chunks", "h2"])
def test_a_large_body_lies_on_disk(
    serve: Serve, origin: Origins, tmp_path: Path, framing: str
) -> None:
    """50 MiB arrive whole and in order, with a length, and in a bounded part of memory."""
    folder = tmp_path / "spill"
    folder.mkdir()
    endpoint = origin("a")
    served = serve(
        one(endpoint, more=f'[spill]\ndirectory = "{folder}"', route="buffer_requests = true")
    )
    served.who()
    before = memory(served)
    count = 50 * MIB // len(PIECE)
    if framing == "h2":
        with Streams(served.port) as streams:
            stream = streams.ask("POST", "/digest", ends=False)
            for number in range(count):
                streams.send(stream, PIECE, ends=number == count - 1)
            answer = json.loads(streams.answer(stream).body)
    else:
        with served.wire() as wire:
            if framing == "length":
                begin(wire, "POST", "/digest", count * len(PIECE))
            else:
                wire.send("POST /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(count):
                if framing == "length":
                    wire.send(PIECE)
                else:
                    wire.send(f"{len(PIECE):x}\r\n".encode() + PIECE + b"\r\n")
                if number == count // 2:
                    eventually(lambda: spilled(served), "a file without a name")
            if framing == "chunks":
                wire.send(b"0\r\n\r\n")
            answer = wire.response().json()
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(PIECE)
    assert answer["length"] == count * len(PIECE)
    assert answer["sha256"] == digest.hexdigest()
    assert answer["coding"] == ""
    assert memory(served) - before < 12 * MIB
    assert not list(folder.iterdir())
    eventually(lambda: not spilled(served), "the file is gone with the request")
    assert served.metric("evener_spilled_bytes_total") > 49 * MIB


def test_small_chunks_and_trailers_are_kept(serve: Serve, origin: Origins) -> None:
    """A body that ends in a trailer stays chunked, in memory and on disk."""
    endpoint = origin("a")
    for bound in ("1m", "100"):
        served = serve(one(endpoint, f'buffer_requests = {{ memory = "{bound}" }}'))
        with served.wire() as wire:
            wire.send("POST /head HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            wire.send(b"1\r\nx\r\n" * 300 + b"0\r\nX-Digest: abc\r\n\r\n")
            body = wire.response().body
        head, _, rest = body.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"content-length" not in head.lower()
        assert rest == b"12c\r\n" + b"x" * 300 + b"\r\n0\r\nX-Digest: abc\r\n\r\n", bound


def test_the_edge_asks_for_the_body_itself(serve: Serve, origin: Origins) -> None:
    """`Expect: 100-continue` is met by who keeps the body; the endpoint hears nothing of it."""
    served = serve(one(origin("a"), "buffer_requests = true"))
    with served.wire() as wire:
        begin(wire, "POST", "/digest", 5, "Expect: 100-continue")
        assert wire.head().status == 100
        wire.send(b"hello")
        answer = wire.head()
        assert answer.status == 200, "no second 100"
        wire.body_of(answer)
        assert answer.json()["expect"] == ""
        # One that does not wait for it is not told.
        begin(wire, "POST", "/digest", 5, "Expect: 100-continue")
        wire.send(b"hello")
        assert wire.response().status == 200


def test_bounds_hold_for_a_body_that_is_kept(serve: Serve, origin: Origins) -> None:
    """Too long: 413, announced or not. Standing still: 408. Malformed: 400."""
    route = (
        'buffer_requests = true\n[route.limits]\nbody = "1k"\n[route.timeouts]\nbody_gap = "300ms"'
    )
    served = serve(one(origin("a"), route=route))
    head = "POST /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.wire() as wire:
        wire.send(head + "800\r\n" + "x" * 2048)
        assert wire.response().status == 413
    with served.wire() as wire:
        begin(wire, "POST", "/digest", 2048)
        assert wire.response().status == 413
    with served.wire() as wire:
        begin(wire, "POST", "/digest", 10)
        assert wire.response().status == 408
    with served.wire() as wire:
        wire.send(head + "zz\r\n")
        assert wire.response().status == 400


def test_a_kept_body_goes_to_another_endpoint(serve: Serve, origin: Origins) -> None:
    """The endpoint that has read part of a body on disk dies: another one gets all of it."""
    first, second = origin("a"), origin("b")
    # The first is asked first: the other is a backup.
    text = cluster([first, second], "buffer_requests = true").replace(
        f'"{second.address}"', f'{{ address = "{second.address}", backup = true }}'
    )
    served = serve(text)
    count = 80
    with served.wire() as wire:
        begin(wire, "PUT", "/digest?a", count * len(PIECE))
        for _ in range(count):
            wire.send(PIECE)
        eventually(lambda: "began /digest" in first.events(), "the first has begun")
        first.stop()
        answer = wire.response().json()
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(PIECE)
    assert answer["name"] == "b"
    assert answer["sha256"] == digest.hexdigest()
    assert served.metric("evener_retries_total") >= 1
    eventually(lambda: not spilled(served), "the file is gone")


def test_a_full_disk_is_told_and_nothing_is_lost_but_the_request(
    serve: Serve, origin: Origins
) -> None:
    """Beyond the total: 507 and a line in the log; the next request is served."""
    served = serve(one(origin("a"), "buffer_requests = true", more='[spill]\ntotal = "1m"'))
    with served.wire() as wire:
        begin(wire, "POST", "/digest", 4 * MIB)
        try:
            for _ in range(16):
                wire.send(PIECE)
        except OSError:
            pass  # It is refused while it sends.
        answer = wire.response()
    assert answer.status == 507, answer
    assert answer.closes
    log = eventually(
        lambda: [line for line in served.words().splitlines() if "[spill]" in line],
        "the log says so",
    )
    assert "total" in log[0]
    eventually(lambda: not spilled(served), "the file is gone")
    with served.wire() as wire:
        begin(wire, "POST", "/digest", len(PIECE))
        wire.send(PIECE)
        assert wire.response().json()["length"] == len(PIECE)


def test_a_folder_that_cannot_be_used_is_found_at_the_start(serve: Serve, origin: Origins) -> None:
    """It names the folder and the setting; without buffering nobody asks for it."""
    missing = '[spill]\ndirectory = "/nowhere/at/all"'
    served = serve(one(origin("a"), "buffer_requests = true", more=missing), wait=False)
    assert served.process.wait(20) != 0
    assert "/nowhere/at/all" in served.words()
    assert "[spill]" in served.words()
    served = serve(one(origin("b"), more=missing))
    assert served.who() == "b"
    # And at a reload: what runs stays as it is.
    served.write(one(origin("c"), "buffer_requests = true", more=missing))
    served.signal(signal.SIGHUP)
    eventually(lambda: "/nowhere/at/all" in served.words(), "the reload is refused")
    assert served.who() == "b"


def test_a_client_that_leaves_leaves_nothing_behind(serve: Serve, origin: Origins) -> None:
    """Neither a file nor a socket, whether it leaves while it sends, or while it is answered."""
    endpoint = origin("a")
    served = serve(one(endpoint, "buffer_requests = true", "buffer_responses = true"))
    served.who()
    usual = served.sockets()
    with served.wire() as wire:
        begin(wire, "POST", "/digest", 100 * MIB)
        for _ in range(40):
            wire.send(PIECE)
        eventually(lambda: spilled(served), "a file without a name")
    eventually(lambda: not spilled(served), "the file of the upload is gone")
    assert "began /digest" not in endpoint.events()
    with served.wire() as wire:
        wire.request("GET", "/flood")
        eventually(lambda: spilled(served), "a file for the response")
    eventually(lambda: not spilled(served), "the file of the response is gone")
    # The one of the idle connection to the endpoint may stay.
    eventually(lambda: served.sockets() <= usual + 1, "the sockets are closed")
    assert served.who() == "a"


def slow_reader(port: int) -> Wire:
    """A connection whose client takes little at once."""
    wire = Wire.__new__(Wire)
    wire.socket = socket.socket()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.socket.settimeout(15)
    wire.socket.connect(("127.0.0.1", port))
    wire.buffer = b""
    return wire


def take(wire: Wire, size: int) -> bytes:
    """So many bytes, by a client that takes as much as it can from now on."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
    pieces, wire.buffer = [wire.buffer], b""
    size -= len(pieces[0])
    while size > 0:
        pieces.append(wire.socket.recv(min(size, MIB)))
        size -= len(pieces[-1])
        assert pieces[-1], f"closed with {size} bytes to come"
    return b"".join(pieces)


def with_one_slot(endpoint: Origin, *keys: str, more: str = "") -> str:
    """A cluster whose only endpoint serves one request at a time."""
    slot = f'{{ address = "{endpoint.address}", max_conns = 1 }}'
    return one(endpoint, *keys, more=more).replace(f'"{endpoint.address}"', slot)


def test_a_slow_reader_holds_no_endpoint(serve: Serve, origin: Origins) -> None:
    """64 MiB that nobody takes: the endpoint, with one slot, serves another request meanwhile."""
    endpoint = origin("a")
    served = serve(with_one_slot(endpoint, "buffer_responses = true"))
    served.who()
    before = memory(served)
    slow = slow_reader(served.port)
    slow.request("GET", "/flood")
    slow.until(b"\r\n\r\n")
    assert served.who() == "a"
    assert "flood 67108864" in endpoint.events()
    assert spilled(served)
    assert take(slow, 64 * MIB) == bytes(64 * MIB)
    assert slow.get("/who").json()["name"] == "a", "the connection goes on"
    slow.close()
    eventually(lambda: not spilled(served), "the file is gone")
    assert memory(served) - before < 12 * MIB


def test_without_it_a_slow_reader_holds_its_endpoint(serve: Serve, origin: Origins) -> None:
    """Off by default: the one slot stays taken, and the next request waits in vain."""
    endpoint = origin("a")
    served = serve(with_one_slot(endpoint, '[cluster.c.timeouts]\nqueue = "300ms"'))
    slow = slow_reader(served.port)
    slow.request("GET", "/flood")
    slow.until(b"\r\n\r\n")
    assert served.get("/who").status == 503
    slow.close()


def test_a_response_beyond_the_file_waits_for_its_client(serve: Serve, origin: Origins) -> None:
    """Past both bounds the endpoint is slowed down; every byte arrives, in order."""
    endpoint = origin("a")
    bounds = 'buffer_responses = { memory = "64k", file = "4m" }'
    served = serve(one(endpoint, bounds))
    slow = slow_reader(served.port)
    slow.request("GET", "/numbers?67108864")
    slow.until(b"\r\n\r\n")
    eventually(lambda: spilled(served), "a file for the response")
    eventually(lambda: _sent(endpoint) > 4 * MIB, "it is read ahead")
    assert _sent(endpoint) < 24 * MIB, "it waits"
    body = take(slow, 64 * MIB)
    slow.close()
    assert body == b"".join(b"%015d\n" % number for number in range(64 * MIB // 16))


def _sent(endpoint: Origin) -> int:
    sent = [int(event.split()[1]) for event in endpoint.events() if event.startswith("numbers ")]
    return max(sent, default=0)


@pytest.mark.parametrize("total", ["0", "1m"])
def test_a_response_for_which_there_is_no_place_still_arrives(
    serve: Serve, origin: Origins, total: str
) -> None:
    """A full disk slows the endpoint down and is logged; the client gets every byte."""
    more = f'[spill]\ntotal = "{total}"'
    served = serve(one(origin("a"), "buffer_responses = true", more=more))
    slow = slow_reader(served.port)
    slow.request("GET", "/numbers?16777216")
    slow.until(b"\r\n\r\n")
    eventually(lambda: "a response cannot be kept" in served.words(), "the log says so")
    body = take(slow, 16 * MIB)
    slow.close()
    assert body == b"".join(b"%015d\n" % number for number in range(MIB))


def test_events_are_not_held_back(serve: Serve, origin: Origins) -> None:
    """A client that keeps up gets each piece of a stream when it comes, also compressed."""
    endpoint = origin("a")
    served = serve(one(endpoint, "buffer_responses = true", route="compress = true"))
    for field in ("X-A: 1", "Accept-Encoding: gzip"):
        with served.wire() as wire:
            wire.request("GET", "/sse", field)
            wire.head()
            pieces = 0
            while wire.chunk():
                pieces += 1
                if pieces <= 2:
                    served.get("/sse-go")
        assert pieces >= 3


def test_kept_responses_over_http2(serve: Serve, origin: Origins) -> None:
    """A stream whose client opens no window holds no endpoint either."""
    endpoint = origin("a")
    served = serve(with_one_slot(endpoint, "buffer_responses = true"))
    size = 4 * MIB
    with Streams(served.port, opens_windows=False) as streams:
        stream = streams.ask("GET", f"/numbers?{size}")
        streams.begun(stream)
        eventually(lambda: _sent(endpoint) == size, "it is read ahead")
        assert served.who() == "a"
        streams.opens_windows = True
        streams.h2.increment_flow_control_window(size)
        streams.h2.increment_flow_control_window(size, stream)
        streams.flush()
        answer = streams.answer(stream)
    assert answer.body == b"".join(b"%015d\n" % number for number in range(size // 16))
    eventually(lambda: not spilled(served), "the file is gone")
