"""HTTP/1.1 as clients speak it: connections kept, bodies both ways, upgrades, forwarding fields."""

import hashlib
import json
import socket
import threading
from functools import partial
from pathlib import Path

import pytest
from running import Evener, Start, eventually, origin_command
from wire import Wire

MEBIBYTE = 1024 * 1024


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return framed + b"0\r\n" + trailers + b"\r\n"


def seen(
    edge: Evener, *fields: str, path: str = "/head", method: str = "GET"
) -> dict[str, list[str]]:
    """The header fields that a worker gets when these are sent."""
    with edge.wire() as wire:
        wire.request(method, path, *fields)
        head = wire.response().body.partition(b"\r\n\r\n")[0].decode("latin-1")
    found: dict[str, list[str]] = {}
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        found.setdefault(name.lower(), []).append(value.strip())
    return found


def test_a_connection_serves_many_requests(shop: Evener) -> None:
    with shop.wire() as wire:
        for _ in range(50):
            response = wire.get("/lab/text/1024")
            assert (response.status, len(response.body)) == (200, 1024)


def test_pipelined_requests_are_answered_in_order(shop: Evener) -> None:
    sizes = [1, 70_000, 2, 0, 5000, 3]
    with shop.wire() as wire:
        for size in sizes:
            wire.request("GET", f"/lab/text/{size}")
        assert [len(wire.response().body) for _ in sizes] == sizes


def test_pipelined_posts_keep_their_bodies_apart(shop: Evener) -> None:
    bodies = [b"one", b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000]
    with shop.wire() as wire:

        def send() -> None:
            for body in bodies:
                wire.request("POST", "/lab/digest", body=body)

        sender = threading.Thread(target=send)
        sender.start()
        for body in bodies:
            expected = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            assert wire.response().json() == expected
        sender.join()


def test_connection_close_is_honoured(shop: Evener) -> None:
    with shop.wire() as wire:
        assert wire.get("/lab/worker", "Connection: close").closes
        assert wire.is_closed()


def test_a_last_answer_arrives_whole(shop: Evener) -> None:
    """However slowly it is read, and though something follows what was to be the last request."""
    with shop.wire() as wire:
        wire.request("GET", "/lab/text/200000", "Connection: close")
        eventually(lambda: shop.metric("evener_connections_open") == 0, "it was closed")
        assert len(wire.response().body) == 200_000
        assert wire.is_closed()
    with shop.wire() as wire:
        assert len(wire.get("/lab/text/8000000", "Connection: close").body) == 8_000_000
        assert wire.is_closed()
    last = "GET /lab/text/100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for more in ["\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "x" * 100_000]:
        with shop.wire() as wire:
            wire.send(last + more)
            assert len(wire.response().body) == 100_000
            assert wire.is_closed()


def test_http10_closes_unless_asked_to_stay(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("GET /lab/text/10 HTTP/1.0\r\n\r\n")
        assert len(wire.response().body) == 10
        assert wire.is_closed()
    with shop.wire() as wire:
        for _ in range(2):
            wire.send("GET /lab/text/10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            response = wire.response()
            assert "keep-alive" in (response.one("connection") or "").lower()


def test_http10_gets_no_chunks(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("GET /lab/stream?chunks=3&size=5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = wire.response()
        assert not response.all("transfer-encoding")
        assert response.body == b"01234" * 3


def test_head_has_the_fields_and_no_body(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.request("GET", "/")
        full = wire.response()
        wire.request("HEAD", "/lab/text/10")
        response = wire.response(to="HEAD")
        assert response.status in (200, 405)  # FastAPI adds no HEAD to a GET
        assert wire.get("/lab/worker").status == 200
        assert full.status == 200


def test_head_to_a_chunked_answer(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.request("HEAD", "/nothing-204")
        assert wire.response(to="HEAD").status == 204
        assert wire.get("/who").status == 200


@pytest.mark.parametrize("path", ["/nothing-204", "/not-modified"])
def test_answers_without_a_body(edge: Evener, path: str) -> None:
    with edge.wire() as wire:
        response = wire.get(path)
        assert response.status in (204, 304)
        assert not response.all("transfer-encoding")
        assert wire.get("/who").status == 200


@pytest.mark.parametrize("size", [0, 1, 1023, 16_384, MEBIBYTE, 20 * MEBIBYTE])
def test_bodies_with_a_length(shop: Evener, size: int) -> None:
    body = (b"evener--" * (size // 8 + 1))[:size]
    with shop.wire() as wire:
        wire.socket.settimeout(60)
        answer = wire.post("/lab/digest", body).json()
        assert answer == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        assert len(wire.get(f"/lab/text/{size}").body) == size


@pytest.mark.parametrize("pieces", [[b"a"], [b"x" * 7] * 200, [b"y" * 300_000] * 4, []])
def test_chunked_bodies(shop: Evener, pieces: list[bytes]) -> None:
    with shop.wire() as wire:
        wire.send("POST /lab/digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send(chunked(*pieces))
        whole = b"".join(pieces)
        expected = {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
        assert wire.response().json() == expected
        assert wire.get("/lab/worker").status == 200


def test_a_chunked_body_in_single_bytes(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("POST /lab/digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in chunked(b"hello", b" ", b"world", trailers=b"X-A: b\r\n"):
            wire.send(bytes([byte]))
        assert wire.response().json()["size"] == 11
        assert wire.get("/lab/worker").status == 200


def test_a_body_streams_both_ways_at_once(shop: Evener) -> None:
    """Each piece comes back before the next is sent: nothing on the way waits for the whole."""
    with shop.wire() as wire:
        wire.send("POST /lab/echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send(b"4\r\none \r\n")
        head = wire.head()
        assert head.status == 200
        assert wire.chunk() == b"one "
        wire.send(b"4\r\ntwo \r\n")
        assert wire.chunk() == b"two "
        wire.send(b"0\r\n\r\n")
        assert wire.chunk() == b""
        assert wire.until(b"\r\n") == b""
        # An answer that begins before its request has ended may be the connection's last.
        assert wire.is_closed() if head.closes else wire.get("/lab/worker").status == 200


def test_a_large_body_streams_both_ways(shop: Evener) -> None:
    size = 8 * MEBIBYTE
    with shop.wire() as wire:
        wire.socket.settimeout(60)
        wire.send(f"POST /lab/echo HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
        sender = threading.Thread(target=wire.send, args=(b"z" * size,))
        sender.start()
        response = wire.response()
        sender.join()
        assert response.body == b"z" * size


def test_events_arrive_as_they_happen(shop: Evener) -> None:
    """The first event is here while the last is still two seconds away."""
    with shop.wire() as wire:
        wire.request("GET", "/live/events?count=3&interval=1")
        head = wire.head()
        assert "text/event-stream" in (head.one("content-type") or "")
        wire.socket.settimeout(0.8)
        assert b"id: 1\n" in wire.chunk()
        wire.socket.settimeout(5)
        assert b"id: 2\n" in wire.chunk()
        assert b"id: 3\n" in wire.chunk()
        assert wire.chunk() == b""


def test_continue_is_said_before_the_body_comes(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("POST /lab/digest HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n")
        wire.send("Expect: 100-continue\r\n\r\n")
        assert wire.head().status == 100
        wire.send("hello")
        assert wire.response().json()["size"] == 5


def test_continue_with_a_refused_body(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("POST /lab/early HTTP/1.1\r\nHost: t\r\nContent-Length: 500000\r\n")
        wire.send("Expect: 100-continue\r\n\r\n")
        assert wire.response().status == 409


def test_an_unknown_expectation_is_refused(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.request("GET", "/lab/worker", "Expect: miracles")
        assert wire.response().status in (200, 417)  # RFC 9110, 10.1.1 allows both


def test_informational_answers_pass_through(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.request("GET", "/hints")
        early = wire.head()
        assert (early.status, early.one("link")) == (103, "</a.css>")
        assert wire.response().body == b"done"


def test_informational_answers_are_not_for_http10(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.send("GET /hints HTTP/1.0\r\n\r\n")
        assert wire.head().status == 200


def test_response_trailers_pass_through(edge: Evener) -> None:
    with edge.wire() as wire:
        response = wire.get("/trailers", "TE: trailers")
        assert response.body == b"hello"
        assert response.trailers == [("X-Digest", "abc")]
        assert wire.get("/who").status == 200


@pytest.mark.parametrize("path", ["/http10", "/until-close"])
def test_answers_that_end_with_their_connection(edge: Evener, path: str) -> None:
    with edge.wire() as wire:
        assert wire.get(path).body in (b"old but gold", b"until the end")


def test_an_empty_reason_phrase(edge: Evener) -> None:
    with edge.wire() as wire:
        assert wire.get("/empty-reason").body == b"ok"
        assert wire.get("/who").status == 200


def test_an_upgrade_becomes_a_tunnel(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.request("GET", "/upgrade", "Connection: Upgrade", "Upgrade: echo")
        wire.send("sent before the answer")
        response = wire.head()
        assert (response.status, response.one("upgrade")) == (101, "echo")
        assert wire.exactly(22) == b"sent before the answer"
        wire.send(b"\x00\xff" * 100_000)
        assert wire.exactly(200_000) == b"\x00\xff" * 100_000
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest() == b"bye", "each direction closes on its own"


def test_an_upgrade_that_is_declined(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.request("GET", "/upgrade", "Connection: Upgrade", "Upgrade: other")
        assert wire.response().status == 426
        assert wire.get("/who").status == 200


def test_a_client_that_has_sent_all_may_close_its_side(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=0.3")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.response().status == 200
        assert wire.is_closed()


def test_the_application_learns_that_its_client_has_gone(shop: Evener, tmp_path: Path) -> None:
    for path in ("patient", "waiting"):
        key = f"{path}-{tmp_path.name}-{shop.port}"

        def noted(what: str, key: str = key) -> bool:
            return what in shop.get(f"/lab/sightings/{key}").json()

        with shop.wire() as wire:
            wire.request("GET", f"/lab/{path}/{key}")
            eventually(partial(noted, "started"), "it started")
        eventually(partial(noted, "client gone"), f"{path} noticed")


def test_the_worker_is_released_when_the_client_goes(edge: Evener) -> None:
    for path in ("/never", "/stream-forever"):
        with edge.wire() as wire:
            wire.request("GET", path)
            if path == "/stream-forever":
                assert wire.head().status == 200
            else:
                wire.socket.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    wire.more()

        def noted(path: str = path) -> bool:
            # Each worker keeps its own notes: ask both.
            return any(f"closed {path}" in edge.get("/events").json() for _ in range(4))

        eventually(noted, f"{path} was closed")


def test_hop_by_hop_fields_stop_at_the_edge(edge: Evener) -> None:
    fields = seen(
        edge,
        "Connection: X-Mine, keep-alive",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers, deflate",
        "Upgrade: something",
        "Proxy-Authorization: Basic abc",
        "X-Yours: 2",
    )
    gone = {"x-mine", "keep-alive", "proxy-connection", "upgrade"}
    assert not gone & fields.keys()
    assert fields["x-yours"] == ["2"]
    assert fields.get("te", ["trailers"]) == ["trailers"]
    with edge.wire() as wire:
        response = wire.get("/headers")
        assert not response.all("x-private")
        assert not response.all("keep-alive")
        assert response.one("x-public") == "1"
        assert response.all("set-cookie") == ["a=1", "b=2"]
        assert not response.closes


def test_connection_cannot_take_away_fields_that_matter(edge: Evener) -> None:
    fields = seen(edge, "Connection: host, x-forwarded-for, content-length", "X-A: b")
    assert fields["host"] == ["test"]
    assert fields["x-forwarded-for"] == ["127.0.0.1"]


def test_field_order_and_bytes_stay(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.request("GET", "/head?a=%2f%41", "X-B: 1", "x-a: \xfc", "X-B: 2", "Cookie: c=d; e=f")
        head = wire.response().body.decode("latin-1").split("\r\n")
        assert head[0] == "GET /head?a=%2f%41 HTTP/1.1"
        own = [line for line in head if line.lower().startswith(("x-b", "x-a", "cookie"))]
        assert [line.lower() for line in own] == [
            "x-b: 1",
            "x-a: \xfc",
            "x-b: 2",
            "cookie: c=d; e=f",
        ]


def test_forwarding_fields_are_set(edge: Evener) -> None:
    fields = seen(edge, "Accept: x")
    assert fields["x-forwarded-for"] == ["127.0.0.1"]
    assert fields["x-forwarded-proto"] == ["http"]
    assert fields["x-forwarded-host"] == ["test"]
    assert fields["x-real-ip"] == ["127.0.0.1"]


CLAIMS = [
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
    "X-Real-IP: 203.0.113.7",
]


def test_a_trusted_proxy_is_believed(start: Start) -> None:
    trusting = start(
        *("--worker-command", origin_command(), "--forwarded-allow-ips", "127.0.0.0/8"),
        ready_path="/who",
    )
    fields = seen(trusting, *CLAIMS)
    assert ",".join(fields["x-forwarded-for"]).replace(" ", "") == "203.0.113.7,127.0.0.1"
    assert fields["x-forwarded-proto"] == ["https"]
    assert fields["x-forwarded-host"] == ["shop.example"]
    assert fields["x-real-ip"] == ["203.0.113.7"]


def test_nobody_else_is_believed(start: Start) -> None:
    wary = start(
        *("--worker-command", origin_command(), "--forwarded-allow-ips", "10.0.0.0/8"),
        ready_path="/who",
    )
    fields = seen(wary, *CLAIMS, "Forwarded: for=203.0.113.7;proto=https")
    assert fields["x-forwarded-for"] == ["127.0.0.1"]
    assert fields["x-forwarded-proto"] == ["http"]
    assert fields["x-forwarded-host"] == ["test"]
    assert fields["x-real-ip"] == ["127.0.0.1"]


def test_the_application_sees_the_client(shop: Evener) -> None:
    with Wire(shop.port, source="127.0.0.9") as wire:
        request = wire.get("/lab/request?q=1").json()
    assert request["client"][0] == "127.0.0.9"
    assert (request["scheme"], request["query"], request["path"]) == ("http", "q=1", "/lab/request")


def test_header_adds_to_every_answer(start: Start) -> None:
    evener = start("--header", "X-Team: ash", "--header", "X-Pull: even", "--workers", "1")
    with evener.wire() as wire:
        assert wire.get("/lab/worker").one("x-team") == "ash"
        assert wire.get("/lab/nowhere").one("x-pull") == "even"


def test_root_path_reaches_the_application(start: Start) -> None:
    evener = start("--root-path", "/shop", "--workers", "1")
    assert evener.get("/lab/request").json()["root_path"] == "/shop"


def test_a_unix_socket_serves_too(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    evener = start("--uds", str(path), "--workers", "1", wait=False)
    eventually(path.exists, "the socket is there", 30)

    def answer() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(b"GET /lab/worker HTTP/1.0\r\nHost: t\r\n\r\n")
            words = b""
            while data := client.recv(65536):
                words += data
            return words

    eventually(lambda: b" 200 OK" in answer(), f"an answer\n{evener.words()}", 30)


def test_json_for_those_who_want_it(shop: Evener) -> None:
    with shop.wire() as wire:
        wire.send("GET / HTTP/1.1\r\nHost: t\r\nAccept: application/json\r\nX-A : b\r\n\r\n")
        # The head could not be read, so neither could Accept: any form will do.
        assert wire.response().status == 400
    with shop.wire() as wire:
        wire.send("POST / HTTP/1.0\r\nHost: t\r\nAccept: application/json\r\n\r\n")
        response = wire.response()
        assert response.status == 411
        if "json" in (response.one("content-type") or ""):
            json.loads(response.body)
