"""gunicorn's `proxy_protocol`, beside gunicorn's own: the same bytes, the same answers."""

import ipaddress
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recording import EVENER, GUNICORN, Recorded
from running import eventually
from test_gunicorn_settings import TELLING
from wire import Wire

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, body: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


FOUR = (
    socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack("!2H", 4711, 80)
)
SIX = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!2H", 4711, 80)
)
HEADERS = {
    "none": b"",
    "text, IPv4": b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n",
    "text, IPv6": b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n",
    "text, unknown": b"PROXY UNKNOWN\r\n",
    "text, no address": b"PROXY TCP4 203.0.113.777 192.0.2.1 4711 80\r\n",
    "text, too few words": b"PROXY TCP4 203.0.113.7 192.0.2.1\r\n",
    "text, no protocol": b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 80\r\n",
    "binary, IPv4": binary(0x21, 0x11, FOUR),
    "binary, IPv4 and more": binary(0x21, 0x11, FOUR + b"\x04\x00\x01x"),
    "binary, IPv6": binary(0x21, 0x21, SIX),
    "binary, for itself": binary(0x20, 0x00, b""),
    "binary, another version": binary(0x31, 0x11, FOUR),
    "binary, too short": binary(0x21, 0x11, FOUR[:8]),
}
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def asked(port: int, header: bytes) -> tuple[int, str | None]:
    """The status, 0 if there is none, and the client's address that the application was told."""
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        stream.sendall(header + REQUEST)
        answer = b""
        try:
            while piece := stream.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    if status != 200:
        return status, None
    # gunicorn's may be in one chunk.
    told = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return status, str(ipaddress.ip_address(told["client"][0]))


def answers(program: list[str], folder: Path, settings: str) -> dict[str, tuple[int, str | None]]:
    """What comes of each header."""
    folder.mkdir()
    (folder / "telling.py").write_text(TELLING)
    settings = f"workers = 1\n{settings}\n"
    running = Recorded(program, folder, settings=settings, app="telling:app", worker_class="asgi")
    try:
        running.wait(1)
        return {name: asked(running.port, header) for name, header in HEADERS.items()}
    finally:
        running.stop()


@pytest.mark.parametrize(
    "settings",
    [
        'proxy_protocol = "off"',
        "proxy_protocol = True",
        'proxy_protocol = "v1"',
        'proxy_protocol = "v2"',
        'proxy_protocol = "auto"\nproxy_allow_ips = "10.0.0.1"',
        'proxy_protocol = "auto"\nproxy_allow_ips = "*"',
        'proxy_protocol = "auto"\nproxy_allow_ips = "10.0.0.0/8,127.0.0.0/8"',
    ],
)
def test_headers_mean_what_they_mean_to_gunicorn(tmp_path: Path, settings: str) -> None:
    with ThreadPoolExecutor() as pool:
        gunicorn = pool.submit(answers, GUNICORN, tmp_path / "gunicorn", settings)
        evener = pool.submit(answers, EVENER, tmp_path / "evener", settings)
        expected, told = gunicorn.result(), evener.result()
    assert told == expected
    assert told["none"] == (200, "127.0.0.1")
    trusted = "10.0.0.1" not in settings and "off" not in settings
    text = trusted and "v2" not in settings
    assert (told["text, IPv4"] == (200, "203.0.113.7")) is text


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Recorded]:
    """A program that takes headers of both versions, on a port and on a unix socket."""
    (tmp_path / "telling.py").write_text(TELLING)
    settings = 'workers = 1\nproxy_protocol = "auto"\nbind = [bind, "unix:socket"]\n'
    begun = Recorded(EVENER, tmp_path, settings=settings, app="telling:app")
    begun.wait(1)
    yield begun
    assert begun.stop() == 0


@pytest.mark.parametrize("name", ["none", "text, IPv4", "binary, IPv4"])
def test_bytes_that_come_one_by_one(running: Recorded, name: str) -> None:
    with Wire(running.port) as wire:
        for byte in HEADERS[name] + b"GET / HTTP/1.1\r\n":
            wire.send(bytes([byte]))
        wire.send(b"Host: test\r\n\r\n")
        first = wire.response()
        # The connection is that client's, and so is its next request.
        second = wire.get("/")
    expected = "127.0.0.1" if name == "none" else "203.0.113.7"
    assert [first.json()["client"][0], second.json()["client"][0]] == [expected] * 2


def test_on_a_unix_socket_everybody_may_send_one(running: Recorded) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(running.folder / "socket"))
        stream.sendall(HEADERS["binary, IPv6"] + REQUEST)
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    assert b'"client": ["2001:db8::7", ' in answer


def test_the_access_log_names_the_client(running: Recorded) -> None:
    assert asked(running.port, HEADERS["text, IPv4"])[0] == 200
    access = running.folder / "access"
    eventually(lambda: "203.0.113.7 - - " in access.read_text(), "its line")


def test_what_is_no_network_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    settings = 'proxy_protocol = True\nproxy_allow_ips = "10.0.0.0/99"'
    begun = Recorded(EVENER, tmp_path, settings=settings, app="telling:app")
    assert begun.process.wait(20) == 1
    assert "proxy_allow_ips: '10.0.0.0/99'" in begun.words()
    assert "gunicorn_config.py:" in begun.words()
