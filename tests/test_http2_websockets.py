"""WebSockets to endpoints that speak HTTP/2 (RFC 8441), for clients of either protocol."""

import base64
import hashlib
import os
import signal

from running import OWN, Serve, Served, Start, eventually
from test_grpc import Shop
from wire import Wire
from wire2 import Streams

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
READY = "[[route]]\npath = '/ready'\nrespond = 200"
FIELDS = [(":protocol", "websocket"), ("sec-websocket-version", "13")]


def before(serve: Serve, *ports: int, more: str = "", ready: str = "/lab/worker") -> Served:
    """A proxy before endpoints that speak HTTP/2, with one connection to each."""
    endpoints = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    served: Served = serve(
        'shards = 1\n[[listener]]\naddress = "127.0.0.1:PORT"\n'
        '[[route]]\ncluster = "c"\n[cluster.c]\nprotocol = "h2"\n'
        f"endpoints = [{endpoints}]\n{more}\n",
        ready_path=ready,
    )
    return served


def open_socket(wire: Wire, path: str, *fields: str) -> tuple[int, list[tuple[str, str]]]:
    """Asks for a WebSocket; status and fields of the answer, whose key was checked."""
    key = base64.b64encode(os.urandom(16)).decode()
    wire.request(
        "GET",
        path,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *fields,
    )
    answer = wire.head()
    if answer.status == 101:
        accept = base64.b64encode(
            hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()
        ).decode()
        assert answer.one("sec-websocket-accept") == accept
        assert (answer.one("upgrade") or "").lower() == "websocket"
    else:
        wire.body_of(answer)
    return answer.status, answer.fields


def text_frame(text: bytes, kind: int = 0x81) -> bytes:
    """A frame of a client, masked by zeros."""
    if len(text) < 126:
        return bytes([kind, 0x80 | len(text), 0, 0, 0, 0]) + text
    return bytes([kind, 0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text


def receive(wire: Wire) -> tuple[int, bytes]:
    """The next frame of the server: its kind and what is in it."""
    kind, size = wire.exactly(2)
    if size == 126:
        size = int.from_bytes(wire.exactly(2), "big")
    return kind & 0x0F, wire.exactly(size)


def test_a_client_of_http1_has_its_socket(start: Start, serve: Serve) -> None:
    """Several sockets and requests go over one connection to the endpoint; a close is answered."""
    endpoint = start(*OWN)
    served = before(serve, endpoint.port)
    sockets = [served.wire() for _ in range(5)]
    for number, wire in enumerate(sockets):
        assert open_socket(wire, "/live/echo")[0] == 101
        for text in (b"hello %d" % number, b"x" * 20_000):
            wire.send(text_frame(text))
            assert receive(wire) == (1, text)
    assert served.get("/lab/worker").status == 200
    sockets[0].send(text_frame(b"", 0x88))
    assert receive(sockets[0])[0] == 8
    assert sockets[0].is_closed()
    for wire in sockets:
        wire.close()
    eventually(lambda: in_flight(served) == 0, "no slot is kept")


def in_flight(served: Served) -> int:
    """Requests and tunnels that the endpoints have."""
    endpoints = served.ask_api("/api/v1/clusters")[0]["endpoints"]
    return sum(one["in_flight"] for one in endpoints)


def test_a_client_of_http2_has_its_socket(start: Start, serve: Serve) -> None:
    """Streams in front, streams behind."""
    served = before(serve, start(*OWN).port)
    with Streams(served.port) as client:
        streams = [client.ask("CONNECT", "/live/echo", *FIELDS, ends=False) for _ in range(3)]
        for stream in streams:
            answer = client.begun(stream)
            assert answer.status == 200
            assert answer.one("sec-websocket-accept") is None
            client.send(stream, text_frame(b"hello"))
            assert client.body(stream, 7) == b"\x81\x05hello"
        client.send(streams[0], text_frame(b"", 0x88))
        client.until(lambda: client.answers[streams[0]].ended, "a close is answered by one")
    eventually(lambda: in_flight(served) == 0, "no slot is kept")


def test_an_endpoint_may_refuse(start: Start, serve: Serve) -> None:
    """Its answer is passed on, and the connection goes on; a request without a key is malformed."""
    served = before(serve, start(*OWN).port)
    with served.wire() as wire:
        assert open_socket(wire, "/lab/worker")[0] >= 400
    with served.wire() as wire:
        wire.request("GET", "/live/echo", "Connection: Upgrade", "Upgrade: websocket")
        assert wire.response().status == 400
    assert served.get("/lab/worker").status == 200


def test_an_endpoint_that_dies_ends_the_sockets(start: Start, serve: Serve) -> None:
    """Clients see the end at once; others are served when it is back."""
    endpoint = start(*OWN)
    served = before(serve, endpoint.port)
    with served.wire() as wire:
        assert open_socket(wire, "/live/echo")[0] == 101
        endpoint.signal(signal.SIGKILL)
        assert not wire.more()
    eventually(lambda: in_flight(served) == 0, "no slot is kept")


def test_an_endpoint_that_takes_none_is_named(serve: Serve) -> None:
    """501, and one line in the log for each connection; other requests go there as before."""
    shop = Shop()
    try:
        served = before(serve, shop.port, more=READY, ready="/ready")
        usual = served.get("/").status
        for _ in range(3):
            with served.wire() as wire:
                assert open_socket(wire, "/live/echo")[0] == 501
        said = [line for line in served.words().splitlines() if "RFC 8441" in line]
        assert len(said) == 1, said
        assert f"127.0.0.1:{shop.port}" in said[0]
        assert served.get("/").status == usual
        assert served.metric("evener_upstream_connections_opened_total") == 1
    finally:
        shop.stop()


def test_the_first_request_of_a_connection_may_be_one(start: Start, serve: Serve) -> None:
    """It waits until the endpoint has said what it takes."""
    endpoint = start(*OWN)
    served = before(serve, endpoint.port, more=READY, ready="/ready")
    with served.wire() as wire:
        assert open_socket(wire, "/live/echo")[0] == 101
        wire.send(text_frame(b"hello"))
        assert receive(wire) == (1, b"hello")
    assert served.metric("evener_upstream_connections_opened_total") == 1
