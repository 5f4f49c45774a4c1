"""HTTP/2 from clients: over TLS by ALPN, and in clear text by its preface.

The library `h2` plays the client, stream by stream; where a client must do what no library would
let it, the frames are written by hand.
"""

import hashlib
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import h2.errors
import pytest
from running import OWN, Evener, Origins, Serve, Served, Start, eventually
from test_tls import Authority, secure
from wire2 import SECONDS, Answer, Streams, frame, head, literal

CODES = h2.errors.ErrorCodes
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 2, 3, 4, 6, 8, 9,
)  # fmt: skip
END_STREAM, END_HEADERS = 1, 4
MEGABYTES = 8 * 1024 * 1024


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def misbehaving(serve: Serve, origin: Origins, more: str = "") -> Served:
    """A proxy before one origin that does what paths tell it to."""
    address = origin("one").address
    served: Served = serve(
        f'{more}\n[[route]]\ncluster = "a"\n[cluster.a]\nendpoints = ["{address}"]\n'
        'policy = "round_robin"\n'
    )
    return served


def events(served: Served) -> list[str]:
    """What the origin has noted."""
    noted: list[str] = served.get("/events").json()
    return noted


def test_requests_of_all_sizes_over_tls(start: Start, authority: Authority) -> None:
    evener = secure(start, *authority.flags())
    with Streams(evener.port, authority.context()) as client:
        seen = json.loads(client.get("/lab/request").body)
        assert seen["scheme"] == "https"
        for size in (0, 1, 1024, 16384, 65537, MEGABYTES):
            assert len(client.get(f"/lab/text/{size}").body) == size
            body = bytes(range(256)) * (size // 256 + 1)
            for fields in ([], [("content-length", str(len(body)))]):
                answer = client.answer(client.ask("POST", "/lab/digest", *fields, body=body))
                assert hashlib.sha256(body).hexdigest() in answer.body.decode()
        streamed = client.get("/lab/stream?chunks=200&size=1000&interval=0.001")
        assert len(streamed.body) == 200_000


def test_many_streams_at_once(start: Start) -> None:
    """Slow answers hold up nobody, and each goes to its own stream."""
    evener = start(*OWN)
    with Streams(evener.port) as client:
        slow = client.ask("GET", "/lab/slow?seconds=0.5")
        sizes = {client.ask("GET", f"/lab/text/{size}"): size for size in range(0, 50_000, 500)}
        for stream, size in sizes.items():
            assert len(client.answer(stream).body) == size
        assert not client.answers[slow].ended
        assert client.answer(slow).status == 200
    line = '"GET /lab/slow?seconds=0.5 HTTP/2.0" 200'
    eventually(lambda: line in evener.words(), "the line of the access log")


def test_what_the_origin_gets(serve: Serve, origin: Origins) -> None:
    """A request of HTTP/1.1, with what a proxy adds, and cookies in one field."""
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        answer = client.get("/head", ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"))
        lines = answer.body.decode().split("\r\n")
        assert lines[0] == "GET /head HTTP/1.1"
        assert "Host: test" in lines
        assert "Cookie: a=1; b=2" in lines
        assert "X-Forwarded-For: 127.0.0.1" in lines
        assert not [line for line in lines if line.lower().startswith(("te:", "connection:"))]
        stream = client.ask("POST", "/head", ends=False)
        client.send(stream, b"hello")
        client.h2.send_headers(stream, [("x-sum", "5")], end_stream=True)
        client.flush()
        body = client.answer(stream).body.decode()
        assert "Transfer-Encoding: chunked" in body
        assert "5\r\nhello\r\n0\r\nx-sum: 5\r\n" in body, "trailers are passed on"


def test_trailers_and_interim_responses(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        answer = client.get("/trailers")
        assert (answer.body, answer.trailers) == (b"hello", [("x-digest", "abc")])
        assert client.get("/hints").interim == [103, 102]
        told = client.answer(client.ask("HEAD", "/head"))
        assert (told.status, told.body, told.ended) == (200, b"", True)
        assert int(told.one("content-length") or 0) > 0
        assert told.one("connection") is None
        assert told.one("transfer-encoding") is None


def test_a_cancelled_stream_cancels_its_request(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        stream = client.ask("GET", "/never")
        eventually(lambda: "asked /never" in events(served), "it arrived")
        client.cancel(stream)
        eventually(lambda: "closed /never" in events(served), "it was cancelled")
        other = client.ask("GET", "/never")
        eventually(lambda: events(served).count("asked /never") == 2, "it arrived")
        assert client.get("/head").status == 200, "the connection goes on"
        assert not client.answers[other].ended
    eventually(lambda: events(served).count("closed /never") == 2, "so does closing")


def test_a_worker_that_dies_in_its_answer_resets_the_stream(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        for path in ("/close-in-chunk", "/close-before-last-chunk", "/bad-chunk-end"):
            answer = client.get(path)
            assert not answer.ended
            assert answer.reset == CODES.INTERNAL_ERROR, path
        answer = client.answer(client.ask("POST", "/close-in-head", body=b""))
        assert answer.status == 502, "nothing was with the client yet"
        assert client.get("/head").status == 200


def test_an_early_answer_stops_the_body(serve: Serve, origin: Origins) -> None:
    """The client gets the answer, and is told that the rest of the body is not wanted."""
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        stream = client.ask("POST", "/early-close", ends=False)
        client.send(stream, b"x" * 10_000)
        answer = client.answers[stream]
        client.until(lambda: answer.ended and answer.reset is not None, "answer and reset")
        assert (answer.status, answer.body, answer.reset) == (409, b"no thanks", CODES.NO_ERROR)
        assert client.get("/head").status == 200


def test_bounds_hold_as_in_http1(serve: Serve, origin: Origins) -> None:
    served = misbehaving(
        serve,
        origin,
        '[limits]\nbody = "10k"\nhead = "8k"\n[timeouts]\nbody_gap = "1s"\nsend_gap = "1s"\n',
    )
    with Streams(served.port) as client:
        for fields in ([("content-length", "20000")], []):
            stream = client.ask("POST", "/head", *fields, ends=False)
            client.send(stream, b"x" * 20_000)
            assert client.answer(stream).status == 413
        assert client.get("/head", ("x-big", "y" * 9_000)).status == 431
        stuck = client.ask("POST", "/head", ends=False)
        client.send(stuck, b"x")
        assert client.answer(stuck).status == 408
        assert client.get("/head", ("x-small", "y" * 5_000)).status == 200


def test_backpressure_both_ways(serve: Serve, origin: Origins) -> None:
    """Neither a client that does not read nor a worker that does not fills our memory."""
    served = misbehaving(serve, origin, '[timeouts]\nsend_gap = "2s"\n')
    before = memory(served)
    with Streams(served.port, opens_windows=False) as client:
        streams = [client.ask("GET", "/flood") for _ in range(8)]
        client.until(
            lambda: sum(len(client.answers[s].body) for s in streams) >= 65_535, "a window's worth"
        )
        client.until(
            lambda: all(client.answers[s].reset is not None for s in streams),
            "streams that nobody reads are given up",
        )
    with Streams(served.port) as client:
        stream = client.ask("POST", "/never-reads", ends=False)
        sent = 0
        while sent < 64 * MEGABYTES:
            window = client.h2.local_flow_control_window(stream)
            if window == 0 and not client.look(0.5):
                break
            if client.answers[stream].reset is not None or client.answers[stream].ended:
                break
            size = min(window, 16_384)
            if size:
                client.h2.send_data(stream, b"x" * size)
                client.flush()
                sent += size
        assert sent < 16 * MEGABYTES
    assert memory(served) - before < 24 * 1024, "KiB"


def memory(served: Evener) -> int:
    """The program's memory, in KiB."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found.group(1))


def test_websockets(start: Start) -> None:
    """Extended CONNECT (RFC 8441): several sockets and requests on one connection."""
    evener = start(*OWN)
    with Streams(evener.port) as client:
        assert client.get("/lab/worker").status == 200
        assert client.h2.remote_settings.enable_connect_protocol == 1
        fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
        sockets = [client.ask("CONNECT", "/live/echo", *fields, ends=False) for _ in range(3)]
        for number, stream in enumerate(sockets):
            answer = client.begun(stream)
            assert answer.status == 200
            assert answer.one("sec-websocket-accept") is None
            assert answer.one("upgrade") is None
            text = b"hello %d" % number
            client.send(stream, bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
            expected = bytes([0x81, len(text)]) + text
            assert client.body(stream, len(expected)) == expected
        assert client.get("/lab/text/10").status == 200
        client.send(sockets[0], bytes([0x88, 0x80, 0, 0, 0, 0]))
        client.until(lambda: client.answers[sockets[0]].ended, "a close is answered by one")
        client.cancel(sockets[1])
        refused = client.ask("CONNECT", "/lab/worker", *fields, ends=False)
        assert client.begun(refused).status >= 400
        other = [(":protocol", "connect-udp")]
        assert client.answer(client.ask("CONNECT", "/x", *other)).status in (400, 405, 501)
        assert client.get("/lab/worker").status == 200


def test_the_application_is_told_what_its_client_speaks(start: Start) -> None:
    """`http_version` is that of each request's client, though all share connections to workers."""
    evener = start(*OWN)
    with Streams(evener.port) as client, evener.wire() as wire:
        for _ in range(3):
            answer = client.get("/lab/request")
            assert json.loads(answer.body)["http_version"] == "2"
            assert wire.get("/lab/request").json()["http_version"] == "1.1"


def test_a_drain_lets_streams_finish(start: Start) -> None:
    evener = start(*OWN)
    with Streams(evener.port) as client:
        client.get("/lab/worker")
        slow = client.ask("GET", "/lab/slow?seconds=1")
        eventually(lambda: evener.ask_api("/v1/workers") is not None, "it answers")
        evener.signal(signal.SIGTERM)
        client.until(lambda: client.goodbye is not None, "GOAWAY")
        assert client.goodbye == CODES.NO_ERROR
        assert client.answer(slow).status == 200
        assert client.wait_for_end() == CODES.NO_ERROR
    assert evener.process.wait(20) == 0


def test_idle_connections_are_closed_and_say_so(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin, '[timeouts]\nkeep_alive = "1s"\nheader_read = "1s"\n')
    with Streams(served.port) as client:
        assert client.get("/head").status == 200
        began = time.monotonic()
        assert client.wait_for_end() == CODES.NO_ERROR
        assert 0.5 < time.monotonic() - began < 5
    with Streams(served.port) as client:
        assert client.wait_for_end() == CODES.NO_ERROR, "one that never asks, too"
    with served.wire() as wire:
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM")
        wire.rest()


def test_it_can_be_switched_off(start: Start, serve: Serve, origin: Origins) -> None:
    address = origin("one").address
    served = serve(
        '[[listener]]\naddress = "127.0.0.1:PORT"\nhttp2 = false\n[[route]]\ncluster = "a"\n'
        f'[cluster.a]\nendpoints = ["{address}"]\n'
    )
    with served.wire() as wire:
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert wire.response().status == 505


def test_no_request_is_lost_over_reloads_and_deaths(start: Start) -> None:
    """Workers are replaced and killed under a load of streams; every request is answered."""
    evener = start(*OWN, "--workers", "2", workers=2)
    command = ["h2load", "-D", "8", "-c", "8", "-m", "16", evener.url("/lab/text/1000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        for round_ in range(3):
            evener.tell("reload")
            victim = min(evener.ready())
            subprocess.run(["kill", "-9", str(victim)], check=True)
            eventually(lambda: len(evener.ready()) == 2, f"two workers, round {round_}", 30)
        out, _ = load.communicate(timeout=60)
    done = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    assert done, out
    answered, succeeded, failed, errored = map(int, done.groups())
    assert answered == succeeded > 1000, out
    assert failed == errored == 0, out


def test_memory_is_steady_over_many_streams(serve: Serve, origin: Origins) -> None:
    alone = 'shards = 1\n[[listener]]\naddress = "127.0.0.1:PORT"'
    served = misbehaving(serve, origin, alone)
    command = ["h2load", "-n", "20000", "-c", "4", "-m", "32", served.url("/who")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    before = memory(served)
    for _ in range(3):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert memory(served) - before < 4 * 1024, "KiB"


CURL = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--max-time", "15"]


def test_curl_and_httpx(start: Start, authority: Authority) -> None:
    import httpx

    evener = secure(start, *authority.flags())
    url = f"https://localhost:{evener.port}/lab/worker"
    for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
        command = [*CURL, flag, "--cacert", str(authority.pem), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert done.stdout == f"{version} 200"
    with httpx.Client(http2=True, verify=authority.context(), timeout=15) as client:
        answer = client.post(url.replace("worker", "digest"), content=b"x" * 100_000)
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
    plain = start(*OWN)
    command = [*CURL, "--http2-prior-knowledge", plain.url("/lab/worker")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "2 200"


# Floods: each is answered by the end of the connection, and others are served meanwhile.


def flooded(served: Served, flood: bytes, times: int, first: bytes = b"") -> int | None:
    """Sends a flood until the other side has had enough; how it said goodbye."""
    with Streams(served.port) as client:
        assert client.get("/head").status == 200
        client.raw(first)
        for _ in range(times):
            if not client.raw(flood):
                break
        goodbye = client.wait_for_end()
    assert served.get("/head").status == 200, "others are served"
    return goodbye


@pytest.mark.parametrize(
    ("name", "flood", "times"),
    [
        ("ping", frame(PING, 0, 0, b"12345678") * 100, 400),
        ("settings", frame(SETTINGS, 0, 0) * 100, 400),
        ("settings changes", frame(SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff") * 100, 400),
        ("priority", frame(PRIORITY, 0, 1, b"\0\0\0\3\x10") * 100, 400),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 100, 400),
        ("unknown frames", frame(0xEE, 0, 0) * 100, 400),
    ],
)
def test_floods_of_control_frames(
    serve: Serve, origin: Origins, name: str, flood: bytes, times: int
) -> None:
    served = misbehaving(serve, origin)
    before = memory(served)
    # None: the connection was reset before the goodbye could be read.
    assert flooded(served, flood, times) in (CODES.ENHANCE_YOUR_CALM, None), name
    assert memory(served) - before < 8 * 1024, "KiB"


def test_rapid_reset(serve: Serve, origin: Origins) -> None:
    """Streams opened and reset at once (CVE-2023-44487) reach few workers."""
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        assert client.get("/head").status == 200
        for number in range(3, 20_003, 2):
            opened = frame(HEADERS, END_STREAM | END_HEADERS, number, head("/never"))
            cancelled = frame(RST_STREAM, 0, number, b"\0\0\0\x08")
            if not client.raw(opened + cancelled):
                break
        assert client.wait_for_end() in (CODES.ENHANCE_YOUR_CALM, None)
    assert events(served).count("asked /never") < 500
    assert served.get("/head").status == 200


def test_slow_resets_of_honest_clients_are_no_flood(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        for _ in range(150):
            client.cancel(client.ask("GET", "/slow?1"))
        assert client.get("/head").status == 200


def test_continuation_flood(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    piece = frame(CONTINUATION, 0, 3, literal("x", "y" * 200) * 4)
    before = memory(served)
    goodbye = flooded(served, piece, 20_000, frame(HEADERS, END_STREAM, 3, head("/head")))
    assert goodbye in (CODES.ENHANCE_YOUR_CALM, CODES.COMPRESSION_ERROR, CODES.PROTOCOL_ERROR, None)
    assert memory(served) - before < 8 * 1024, "KiB"
    empty = frame(CONTINUATION, 0, 3)
    goodbye = flooded(served, empty * 10, 20_000, frame(HEADERS, END_STREAM, 3, head("/head")))
    assert goodbye in (CODES.ENHANCE_YOUR_CALM, CODES.PROTOCOL_ERROR, None)


def test_hpack_bomb(serve: Serve, origin: Origins) -> None:
    """One large field in the table, named again and again: a few bytes that mean megabytes."""
    served = misbehaving(serve, origin)
    before = memory(served)
    # Literal with incremental indexing: it becomes entry 62.
    large = b"\x40" + literal("x-bomb", "y" * 3_900)[1:]
    with Streams(served.port) as client:
        # What it says is not decoded: the library knows nothing of these streams.
        block = head("/head") + large
        client.raw(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        for number in range(3, 203, 2):
            bomb = head("/head") + b"\xbe" * 12_000
            client.raw(frame(HEADERS, END_STREAM | END_HEADERS, number, bomb))
            if client.closed:
                break
        # Refused, every one of them, or the connection has been ended.
        seen = b""
        client.socket.settimeout(SECONDS)
        while not client.closed and seen.count(b"431") < 10:
            try:
                piece = client.socket.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            seen += piece
    assert memory(served) - before < 16 * 1024, "KiB"
    assert served.get("/head").status == 200


def test_floods_of_empty_data(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    first = frame(HEADERS, END_HEADERS, 3, head("/head", method="POST"))
    for flood in (frame(DATA, 0, 3) * 100, frame(DATA, 8, 3, b"\xff" + bytes(255)) * 100):
        before = memory(served)
        goodbye = flooded(served, flood, 2_000, first)
        assert goodbye in (CODES.ENHANCE_YOUR_CALM, CODES.FLOW_CONTROL_ERROR, None)
        assert memory(served) - before < 8 * 1024, "KiB"


# What must be refused (RFC 9113), by frames that no library sends.


MALFORMED = {
    "upper case": [("X-Upper", "1")],
    "connection": [("connection", "close")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "te": [("te", "gzip")],
    "two hosts": [("host", "other")],
    "a late pseudo field": [("x", "1"), (":path", "/again")],
    "an unknown pseudo field": [(":unknown", "1")],
    "a length that lies": [("content-length", "5")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_reset_their_stream(serve: Serve, origin: Origins, name: str) -> None:
    served = misbehaving(serve, origin)
    with Streams(served.port) as client:
        assert client.get("/head").status == 200
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, [(":method", "GET")], end_stream=True)
        client.h2.data_to_send()  # Only so that the library knows of the stream.
        block = head("/head", MALFORMED[name])
        client.raw(frame(HEADERS, END_STREAM | END_HEADERS, stream, block))
        client.answers.setdefault(stream, Answer())
        answer = client.answers[stream]
        client.until(lambda: answer.ended or answer.reset is not None or client.closed, "a refusal")
        # A connection may be ended for what only a broken client sends.
        refusals = (answer.reset, client.goodbye)
        assert CODES.PROTOCOL_ERROR in refusals or answer.status == 400
    assert served.get("/head").status == 200
    assert not [line for line in events(served) if "broken" in line]


def test_broken_connections_end(serve: Serve, origin: Origins) -> None:
    served = misbehaving(serve, origin)
    for wrong, codes in [
        (frame(DATA, 0, 0, b"x"), (CODES.PROTOCOL_ERROR,)),
        (frame(HEADERS, END_STREAM | END_HEADERS, 2, head()), (CODES.PROTOCOL_ERROR,)),
        (frame(PING, 0, 0, b"short"), (CODES.FRAME_SIZE_ERROR,)),
        (frame(HEADERS, END_STREAM | END_HEADERS, 3, b"\xff\xff\xff\xff\xff"),
         (CODES.COMPRESSION_ERROR,)),
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), (CODES.PROTOCOL_ERROR,)),
        (frame(CONTINUATION, END_HEADERS, 3, b""), (CODES.PROTOCOL_ERROR,)),
        (b"\xff\xff\xff\0\0\0\0\0\3", (CODES.FRAME_SIZE_ERROR,)),
        (frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x05"), (CODES.PROTOCOL_ERROR,)),
        (frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"),
         (CODES.FLOW_CONTROL_ERROR,)),
    ]:  # fmt: skip
        with Streams(served.port) as client:
            assert client.get("/head").status == 200
            client.raw(wrong)
            # `h2` says the general code where a special one would do.
            assert client.wait_for_end() in (*codes, CODES.PROTOCOL_ERROR), wrong
    with served.wire() as wire:
        wire.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + frame(SETTINGS, 0, 0))
        wire.rest()
