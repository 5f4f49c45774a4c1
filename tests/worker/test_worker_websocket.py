"""WebSockets, by the `websockets` client and as raw frames."""

import base64
import json
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import pytest
from running import eventually
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, unix_connect

from worker.conftest import Serve
from worker.serving import UnixWire, Worker

Frame = tuple[int, bytes]


def connect(worker: Worker, path: str, **more: Any) -> ClientConnection:
    socket: ClientConnection = unix_connect(str(worker.path), f"ws://worker{path}", **more)
    return socket


def closed_with(receive: Callable[[], object]) -> tuple[int, str]:
    """The close code and reason that the other side sends."""
    with pytest.raises(ConnectionClosed) as caught:
        receive()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


class RawSocket:
    """A WebSocket whose frames the test makes itself."""

    def __init__(self, worker: Worker, path: str = "/echo", *fields: str) -> None:
        self.wire: UnixWire = worker.wire()
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
        self.wire.request("GET", path, *lines, "Sec-WebSocket-Version: 13", *fields)
        self.head = self.wire.head()
        assert self.head.status == 101

    def send(self, first: int, payload: bytes, masked: bool = True) -> None:
        """A frame by its first byte."""
        size = len(payload)
        mask_bit = 0x80 if masked else 0
        head = bytes([first, mask_bit | (size if size < 126 else 126 if size < 65536 else 127)])
        if size >= 126:
            head += struct.pack(">H" if size < 65536 else ">Q", size)
        key = os.urandom(4) if masked else b""
        data = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) if masked else payload
        self.wire.send(head + key + data)

    def receive(self) -> Frame:
        """The next frame from the server."""
        first, second = self.wire.exactly(2)
        assert not second & 0x80, "a server does not mask"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self.wire.exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.wire.exactly(8))
        return first, self.wire.exactly(size)

    def closes_with(self) -> int:
        """The code of the close frame that comes next, and then the end of the connection."""
        first, payload = self.receive()
        assert first == 0x88, (first, payload)
        assert not self.wire.more()
        return int(struct.unpack(">H", payload[:2])[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()


def test_text_and_bytes_both_ways(worker: Worker) -> None:
    with connect(worker, "/echo") as socket:
        for message in (
            "",
            "hello",
            "h\u00e9 \U0001f40e",
            b"",
            b"\x00\xff",
            "x" * 200_000,
            b"y" * 70_000,
        ):
            socket.send(message)
            assert socket.recv() == message


def test_the_scope(worker: Worker) -> None:
    more = {"subprotocols": ["one", "two"], "additional_headers": {"X-Real-IP": "203.0.113.7"}}
    with connect(worker, "/scope?a=b", **more) as socket:
        found = json.loads(socket.recv())
    assert found.pop("headers")
    assert found.pop("state")["from_lifespan"] == "here"
    assert found == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope",
        "raw_path": {"bytes": "/scope"},
        "query_string": {"bytes": "a=b"},
        "root_path": "",
        "client": ["203.0.113.7", 0],
        "server": [str(worker.path), None],
        "subprotocols": ["one", "two"],
        "extensions": {"websocket.http.response": {}},
    }
    with connect(worker, "/scope", additional_headers={"X-Forwarded-Proto": "https"}) as socket:
        assert json.loads(socket.recv())["scheme"] == "wss"


def test_subprotocols_headers_and_close_codes(worker: Worker) -> None:
    with connect(worker, "/subprotocol", subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "two"
        assert socket.response is not None
        assert socket.response.headers["x-extra"] == "yes"
        assert closed_with(socket.recv) == (3001, "enough")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 4999])
def test_the_application_hears_how_it_ended(worker: Worker, code: int) -> None:
    with connect(worker, "/echo") as socket:
        socket.close(code, "reason")
    assert disconnect(worker) == [code, "reason"]


def test_an_end_without_a_code_and_without_a_close(worker: Worker) -> None:
    with RawSocket(worker) as socket:
        socket.send(0x88, b"")
        assert socket.receive() == (0x88, b"")
        assert not socket.wire.more()
    assert disconnect(worker) == [1005, ""]
    with RawSocket(worker):
        pass
    assert disconnect(worker) == [1006, ""]


def disconnect(worker: Worker) -> object:
    with worker.wire() as wire:
        return eventually(lambda: wire.get("/disconnect").json(), "it was told")


def test_refusals(worker: Worker) -> None:
    for path, status in [("/refuse", 403), ("/raises-first", 500), ("/returns-first", 500)]:
        with pytest.raises(InvalidStatus) as caught:
            connect(worker, path)
        assert caught.value.response.status_code == status
    worker.await_words("the application ended without answering the handshake")
    worker.await_words("WEBSOCKET /raises-first: exception")


def test_denial_responses(worker: Worker) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(worker, "/deny")
    response = caught.value.response
    assert (response.status_code, response.body) == (429, b"come back")
    assert response.headers["x-why"] == "no room"
    with worker.wire() as wire:
        found = eventually(lambda: wire.get("/denied").json(), "it was told")
    assert found == "websocket.disconnect"


def test_the_end_of_the_application_closes(worker: Worker) -> None:
    with connect(worker, "/returns") as socket:
        assert closed_with(socket.recv) == (1000, "")
    with connect(worker, "/raises") as socket:
        assert closed_with(socket.recv) == (1011, "")
    worker.await_words("ValueError: raised in the socket")


def test_sending_to_whoever_has_gone(worker: Worker) -> None:
    for close in (True, False):
        with RawSocket(worker, "/after-disconnect") as socket:
            if close:
                socket.send(0x88, struct.pack(">H", 1000))
                assert socket.closes_with() == 1000
        assert disconnect(worker) == "OSError ClientDisconnected"


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ("[{'type': 'websocket.send'}]", "'websocket.send': one of 'bytes' and 'text'"),
        ("[{'type': 'websocket.send', 'text': 'a', 'bytes': b'b'}]", "only one of"),
        ("[{'type': 'websocket.send', 'text': b'a'}]", "'text' must be a str, not bytes"),
        ("[{'type': 'websocket.send', 'bytes': 'a'}]", "'bytes' must be bytes, not str"),
        ("[{'type': 'websocket.send', 'text': '\\ud800'}]", "lone surrogates"),
        ("[{'type': 'websocket.accept'}]", "'websocket.accept': the handshake has already"),
        ("[{'type': 'websocket.close', 'code': 1006}]", "'websocket.close': 'code' must be"),
        ("[{'type': 'websocket.close', 'reason': 'x' * 124}]", "at most 123 bytes"),
        ("[{'type': 'http.response.start', 'status': 200}]", "no such message"),
        ("[{'type': 'websocket.http.response.start', 'status': 403}]", "already been answered"),
    ],
)
def test_a_malformed_message_is_named(worker: Worker, messages: str, rule: str) -> None:
    messages = messages.replace("'x' * 124", repr("x" * 124))
    with connect(worker, "/message") as socket:
        socket.send(messages)
        answer = socket.recv()
    assert isinstance(answer, str)
    assert answer.startswith("MessageError: ")
    assert rule in answer


def test_fragments_pings_and_utf8_across_them(worker: Worker) -> None:
    with RawSocket(worker) as socket:
        text = "h\u00e9llo \U0001f40e".encode()
        socket.send(0x01, text[:2])
        socket.send(0x89, b"ping")
        socket.send(0x00, text[2:9])
        socket.send(0x80, text[9:])
        assert socket.receive() == (0x8A, b"ping")
        assert socket.receive() == (0x81, text)
        for byte in b"\x82\x81\x00\x00\x00\x00\xaa":
            socket.wire.send(bytes([byte]))
        assert socket.receive() == (0x82, b"\xaa")


@pytest.mark.parametrize(
    ("first", "payload", "code"),
    [
        (0x81, b"\xff", 1007),
        (0x01, b"\xed\xa0\x80", 1007),
        (0x83, b"", 1002),
        (0xC1, b"", 1002),
        (0x80, b"", 1002),
        (0x09, b"", 1002),
        (0x89, b"x" * 126, 1002),
        (0x88, b"\x03", 1002),
        (0x88, struct.pack(">H", 1005), 1002),
        (0x88, struct.pack(">H", 1000) + b"\xff", 1007),
    ],
)
def test_violations(worker: Worker, first: int, payload: bytes, code: int) -> None:
    with RawSocket(worker) as socket:
        socket.send(first, payload)
        assert socket.closes_with() == code
    found = disconnect(worker)
    assert isinstance(found, list)
    assert found[0] == code


def test_unmasked_frames_are_a_violation(worker: Worker) -> None:
    with RawSocket(worker) as socket:
        socket.send(0x81, b"a", masked=False)
        assert socket.closes_with() == 1002
    disconnect(worker)


def test_handshakes_that_are_none(worker: Worker) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ["Upgrade: websocket", "Connection: Upgrade"]
    for fields, status in [
        ([key, "Sec-WebSocket-Version: 12"], 426),
        ([key], 426),
        (["Sec-WebSocket-Version: 13"], 400),
        (["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"], 400),
    ]:
        with worker.wire() as wire:
            response = wire.get("/echo", *upgrade, *fields)
            assert response.status == status
            if status == 426:
                assert response.one("sec-websocket-version") == "13"
    with worker.wire() as wire:
        # Another protocol is nothing that we speak: the request is served as HTTP.
        assert wire.get("/hello", "Upgrade: h2c", "Connection: Upgrade").body == b"hello"


def test_messages_are_bounded(serve: Serve) -> None:
    worker = serve("applications:app", "--ws-max-size", "1000")
    with connect(worker, "/echo", compression=None) as socket:
        socket.send("x" * 1000)
        assert socket.recv() == "x" * 1000
    inflated = "x" * 1_000_000  # small on the wire, too big when it is inflated
    for message, compression in [
        ("x" * 1001, None),
        (["x" * 600, "x" * 600], None),
        (inflated, "deflate"),
    ]:
        with connect(worker, "/echo", compression=compression) as socket:
            # The refusal may overtake the end of the sending.
            code, reason = closed_with(partial(send_and_receive, socket, message))
        assert (code, reason) == (1009, "message too big")


def send_and_receive(socket: ClientConnection, message: str | Sequence[str]) -> object:
    socket.send(message)
    return socket.recv()


@pytest.mark.parametrize("server_takeover", [True, False])
@pytest.mark.parametrize("client_takeover", [True, False])
@pytest.mark.parametrize("bits", [None, 9, 15])
def test_compression(
    worker: Worker, server_takeover: bool, client_takeover: bool, bits: int | None
) -> None:
    offer = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not server_takeover,
        client_no_context_takeover=not client_takeover,
        server_max_window_bits=bits,
        client_max_window_bits=bits or True,
    )
    with connect(worker, "/echo", extensions=[offer], compression=None) as socket:
        assert len(socket.protocol.extensions) == 1
        for message in (
            "short",
            "again and again " * 500,
            os.urandom(50_000),
            "again and again " * 500,
        ):
            socket.send(message)
            assert socket.recv() == message
        socket.send(["in ", "pieces ", "x" * 5000])
        assert socket.recv() == "in pieces " + "x" * 5000


def test_compression_can_be_turned_off(serve: Serve) -> None:
    worker = serve("applications:app", "--ws-per-message-deflate", "false")
    with connect(worker, "/echo") as socket:
        assert socket.protocol.extensions == []


def test_compressed_garbage(worker: Worker) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    with RawSocket(worker, "/echo", offer) as socket:
        assert (socket.head.one("sec-websocket-extensions") or "").startswith("permessage-deflate")
        socket.send(0xC1, b"\xff" * 20)
        assert socket.closes_with() == 1007
    disconnect(worker)


def test_a_reader_that_does_not_read(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as wire, RawSocket(worker, "/hold") as socket:
        socket.wire.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 10_000:
                socket.wire.send(b"\x82\xfe\xff\xff\0\0\0\0" + bytes(65535))
                sent += 1
        # What the worker holds is bounded; the rest stays with the sender.
        assert sent * 65535 < 2_000_000
        rss = wire.get("/measure").json()["rss"]
        assert rss < 200_000_000


def test_a_sender_waits_for_a_slow_reader(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as wire, RawSocket(worker, "/blast") as socket:
        last = -1

        def rests() -> bool:
            nonlocal last
            now = wire.get("/flooded").json()
            same, last = now == last and now > 0, now
            return bool(same)

        eventually(rests, "it comes to rest", every=0.3)
        assert last * 65536 < 2_000_000
        for _ in range(1024):
            assert socket.receive() == (0x82, bytes(65536))


def test_pings_and_a_dead_peer(serve: Serve) -> None:
    flags = ["--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.3"]
    worker = serve("applications:app", *flags)
    with RawSocket(worker) as socket:
        for _ in range(3):
            first, payload = socket.receive()
            assert first == 0x89
            socket.send(0x8A, payload)
        started = time.monotonic()
        assert socket.receive()[0] == 0x89
        first, payload = socket.receive()
        assert (first, payload[:2]) == (0x88, struct.pack(">H", 1011))
        assert time.monotonic() - started < 2
    assert disconnect(worker) == [1011, "keepalive ping timeout"]


def test_many_at_once(worker: Worker) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(worker, "/echo")) for _ in range(30)]
        for number, socket in enumerate(sockets):
            socket.send(str(number))
        assert [socket.recv() for socket in sockets] == [str(number) for number in range(30)]
