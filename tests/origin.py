"""A worker that misbehaves, as the path of each request tells it to.

It answers the readiness probe (`OPTIONS *`) as it should, listens on the socket it is given, and
ends on SIGTERM. Run by `evener run --worker-command`; it needs nothing but Python.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl

Behaviour = Callable[["Connection"], bool]
BEHAVIOURS: dict[str, Behaviour] = {}
EVENTS: list[str] = []
GO = threading.Semaphore(0)
NAME = os.environ.get("ORIGIN_NAME", "")


def behaviour(path: str) -> Callable[[Behaviour], Behaviour]:
    """Registers what happens at a path; it returns whether the connection stays open."""

    def register(function: Behaviour) -> Behaviour:
        BEHAVIOURS[path] = function
        return function

    return register


class Connection:
    """One connection from the edge, and the request that is being answered."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.buffer = b""
        self.requests = 0
        self.head = b""
        self.path = ""
        self.query = ""

    def serve(self) -> None:
        """Answers requests until one of them ends the connection."""
        with self.peer:
            try:
                while self.next_request():
                    self.requests += 1
                    if self.head.startswith(b"OPTIONS *"):
                        self.answer(b"")
                        continue
                    if not BEHAVIOURS.get(self.path, missing)(self):
                        return
            except OSError:
                EVENTS.append(f"broken {self.path}")

    def next_request(self) -> bool:
        """Reads the next head; False when the edge has closed."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.peer.recv(65536)
            if not data:
                return False
            self.buffer += data
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        target = self.head.split(b" ")[1].decode("latin-1")
        self.path, _, self.query = target.partition("?")
        return True

    def field(self, name: str) -> str:
        """The value of a header field, or nothing."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name:
                return value.strip()
        return ""

    def body(self) -> bytes:
        """Reads the whole body; the raw chunks if it is chunked."""
        if "chunked" in self.field("transfer-encoding"):
            while not (self.buffer.endswith(b"0\r\n\r\n") or b"0\r\n" in self.buffer[-200:]):
                data = self.peer.recv(65536)
                if not data:
                    break
                self.buffer += data
            found, self.buffer = self.buffer, b""
            return found
        size = int(self.field("content-length") or 0)
        while len(self.buffer) < size:
            data = self.peer.recv(65536)
            if not data:
                break
            self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def answer(self, body: bytes, status: str = "200 OK", *fields: str) -> bool:
        """Answers as a good server would."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.peer.sendall(data)

    def wait_for_close(self) -> None:
        """Waits until the edge closes, and notes that it did."""
        while self.peer.recv(65536):
            pass
        EVENTS.append(f"closed {self.path}")


def missing(it: Connection) -> bool:
    """Any path that has no behaviour."""
    it.body()
    return it.answer(b"no such behaviour", "404 Not Found")


@behaviour("/head")
def show_head(it: Connection) -> bool:
    """Answers with the request as it came: head, blank line, body."""
    head = it.head
    return it.answer(head + b"\r\n\r\n" + it.body())


@behaviour("/events")
def show_events(it: Connection) -> bool:
    """Answers with what was noted so far."""
    return it.answer(json.dumps(EVENTS).encode())


@behaviour("/who")
def who(it: Connection) -> bool:
    """Answers with the process, its name and how many requests this connection has had."""
    answer = {"worker": os.getpid(), "name": NAME, "nth": it.requests}
    return it.answer(json.dumps(answer).encode())


@behaviour("/slow")
def slow(it: Connection) -> bool:
    """Answers after a while, given in the query in seconds."""
    time.sleep(float(it.query or 1))
    return it.answer(json.dumps({"worker": os.getpid()}).encode())


@behaviour("/slow-at")
def slow_at(it: Connection) -> bool:
    """Answers with its name, after as many seconds as the query has for it; notes when it asked.

    It also notes when the edge has closed before it could answer.
    """
    seconds = float(dict(parse_qsl(it.query)).get(NAME, "0"))
    EVENTS.append(f"asked {it.head.split(b' ')[0].decode()}")
    it.peer.settimeout(seconds or None)
    try:
        if seconds and not it.peer.recv(1, socket.MSG_PEEK):
            EVENTS.append("closed /slow-at")
            return False
    except TimeoutError:
        pass
    it.peer.settimeout(None)
    if it.head.startswith(b"HEAD"):
        it.send(OK + b"Content-Length: 160\r\n\r\n")
        return True
    body = it.body()
    return it.answer(json.dumps({"name": NAME, "length": len(body)}).encode())


@behaviour("/busy-at")
def busy_at(it: Connection) -> bool:
    """Answers 503 at once if the query names it, else with its name after a while."""
    if it.query == NAME:
        return it.answer(b"busy", "503 Service Unavailable")
    time.sleep(1.5)
    return it.answer(json.dumps({"name": NAME}).encode())


@behaviour("/die-at")
def die_at(it: Connection) -> bool:
    """Waits until told to go on; the one that the query names then closes without an answer."""
    EVENTS.append("asked /die-at")
    GO.acquire(timeout=20)
    return it.query != NAME and it.answer(json.dumps({"name": NAME}).encode())


@behaviour("/never")
def never(it: Connection) -> bool:
    """Never answers."""
    EVENTS.append("asked /never")
    it.wait_for_close()
    return False


@behaviour("/never-reads")
def never_reads(it: Connection) -> bool:
    """Reads no body and does not answer until told to by time."""
    time.sleep(2)
    return False


@behaviour("/early")
def early(it: Connection) -> bool:
    """Answers before it has read the body, and never reads it."""
    it.answer(b"no thanks", "409 Conflict")
    time.sleep(3)
    return False


@behaviour("/early-close")
def early_close(it: Connection) -> bool:
    """Answers before it has read the body, and closes."""
    it.answer(b"no thanks", "409 Conflict", "Connection: close")
    return False


@behaviour("/echo-as-it-comes")
def echo_as_it_comes(it: Connection) -> bool:
    """Sends each piece of the body back at once, close-delimited; the query is the media type."""
    kind = f"Content-Type: {it.query}\r\n" if it.query else ""
    it.send(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{kind}\r\n".encode())
    left = int(it.field("content-length") or 0)
    while left:
        data = it.buffer or it.peer.recv(65536)
        it.buffer = b""
        if not data:
            break
        it.send(data)
        left -= len(data)
    return False


@behaviour("/reply")
def reply(it: Connection) -> bool:
    """Answers as the query says: status, size of the body, fields (`f=Name:value`), chunked."""
    it.body()
    asked = parse_qs(it.query, keep_blank_values=True)
    body = b"0123456789abcdef" * (int(asked.get("size", ["0"])[0]) // 16)
    status = asked.get("status", ["200 OK"])[0]
    fields = [*asked.get("f", []), f"X-Origin: {NAME}"]
    bodiless = it.head.startswith(b"HEAD") or status[:3] in ("204", "304")
    if "chunked" not in asked:
        lines = [f"HTTP/1.1 {status}", *fields]
        lines += [] if status[:3] in ("204", "304") else [f"Content-Length: {len(body)}"]
        it.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if bodiless else body))
        return True
    lines = [f"HTTP/1.1 {status}", "Transfer-Encoding: chunked", *fields]
    it.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    for start in range(0, len(body) if not bodiless else 0, 4096):
        piece = body[start : start + 4096]
        it.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    if not bodiless:
        it.send(b"0\r\n\r\n")
    return True


@behaviour("/sse")
def server_sent_events(it: Connection) -> bool:
    """Sends an event, and the next one each time that `/sse-go` is asked for; three in all."""
    it.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    it.send(b"Transfer-Encoding: chunked\r\n\r\n")
    for number in range(3):
        event = f"data: {number}\n\n".encode()
        it.send(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        if number < 2:
            GO.acquire(timeout=20)
    it.send(b"0\r\n\r\n")
    return True


@behaviour("/sse-go")
def let_events_go(it: Connection) -> bool:
    """See `/sse`."""
    GO.release()
    return it.answer(b"")


@behaviour("/digest")
def digest(it: Connection) -> bool:
    """Reads the body piece by piece and answers with its length and its SHA-256.

    The one that the query names stops after the first piece, and reads no more.
    """
    left = int(it.field("content-length") or 0)
    digest, length = hashlib.sha256(), 0
    EVENTS.append("began /digest")
    if it.query == NAME:
        GO.acquire(timeout=30)
        return False
    while length < left:
        data = it.buffer[: left - length] or it.peer.recv(65536)
        it.buffer = it.buffer[len(data) :] if it.buffer else b""
        if not data:
            return False
        digest.update(data)
        length += len(data)
    answer = {
        "name": NAME,
        "length": length,
        "sha256": digest.hexdigest(),
        "coding": it.field("transfer-encoding"),
        "expect": it.field("expect"),
    }
    return it.answer(json.dumps(answer).encode())


@behaviour("/numbers")
def numbers(it: Connection) -> bool:
    """Sends as many bytes as the query says, in numbered lines, and notes how many went out."""
    size = int(it.query)
    it.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    for start in range(0, size, 65536):
        end = min(size, start + 65536)
        it.send(b"".join(b"%015d\n" % number for number in range(start // 16, end // 16)))
        EVENTS[:] = [event for event in EVENTS if not event.startswith("numbers ")]
        EVENTS.append(f"numbers {end}")
    return True


@behaviour("/slow-head")
def slow_head(it: Connection) -> bool:
    """Sends its answer byte by byte."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow":
        it.send(bytes([byte]))
        time.sleep(0.005)
    return True


@behaviour("/stream-forever")
def stream_forever(it: Connection) -> bool:
    """Sends chunks until the edge has gone."""
    it.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        while True:
            it.send(b"4\r\ntick\r\n")
            time.sleep(0.02)
    except OSError:
        EVENTS.append(f"closed {it.path}")
    return False


@behaviour("/flood")
def flood(it: Connection) -> bool:
    """Sends 64 MiB as fast as it can and notes how much went out."""
    piece = bytes(65536)
    it.send(f"HTTP/1.1 200 OK\r\nContent-Length: {1024 * len(piece)}\r\n\r\n".encode())
    for number in range(1024):
        it.send(piece)
        EVENTS[:] = [event for event in EVENTS if not event.startswith("flood ")]
        EVENTS.append(f"flood {(number + 1) * len(piece)}")
    return True


@behaviour("/hints")
def hints(it: Connection) -> bool:
    """Sends two informational answers before the final one."""
    it.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
    it.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    return it.answer(b"done")


@behaviour("/trailers")
def trailers(it: Connection) -> bool:
    """Sends a trailer after its chunks."""
    it.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\n\r\n")
    it.send(b"5;ext=1\r\nhello\r\n0\r\nX-Digest: abc\r\n\r\n")
    return True


@behaviour("/continue")
def go_on(it: Connection) -> bool:
    """Asks for the body only when it was offered with an expectation."""
    if it.field("expect").lower() == "100-continue":
        it.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return it.answer(it.body())


@behaviour("/refuse-expectation")
def refuse_expectation(it: Connection) -> bool:
    """Refuses without wanting the body."""
    return it.answer(b"", "417 Expectation Failed", "Connection: close") and False


@behaviour("/upgrade")
def upgrade(it: Connection) -> bool:
    """Switches to a protocol that echoes bytes, until the other side is done."""
    if it.field("upgrade") != "echo":
        return it.answer(b"", "426 Upgrade Required", "Upgrade: echo", "Connection: upgrade")
    it.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
    data = it.buffer
    while data or (data := it.peer.recv(65536)):
        it.send(data)
        data = b""
    it.send(b"bye")
    return False


@behaviour("/stale")
def stale(it: Connection) -> bool:
    """Answers well, and then closes without having said so."""
    it.answer(b"one")
    return False


@behaviour("/headers")
def headers(it: Connection) -> bool:
    """Sends fields that are for the edge only."""
    return it.answer(
        b"ok",
        "200 OK",
        "Connection: keep-alive, X-Private",
        "X-Private: secret",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "X-Public: 1",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
    )


def whole(raw: bytes, stays: bool = False) -> Behaviour:
    """A behaviour that reads the request, sends these bytes, and stays or closes."""

    def send(it: Connection) -> bool:
        it.body()
        it.send(raw)
        return stays

    return send


OK = b"HTTP/1.1 200 OK\r\n"
BEHAVIOURS |= {
    "/garbage": whole(b"\x16\x03\x01\x02\x00 what is this\r\n\r\n"),
    "/close": whole(b""),
    "/close-in-status": whole(b"HTTP/1.1 2"),
    "/close-in-head": whole(OK + b"Content-Le"),
    "/close-in-body": whole(OK + b"Content-Length: 100\r\n\r\nten bytes."),
    "/close-in-chunk": whole(OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nten bytes."),
    "/close-before-last-chunk": whole(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nten\r\n"),
    "/both-lengths": whole(
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "/two-lengths": whole(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "/bad-length": whole(OK + b"Content-Length: +5\r\n\r\nhello"),
    "/bare-lf": whole(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    "/fold": whole(OK + b"X-A: one\r\n two\r\nContent-Length: 5\r\n\r\nhello"),
    "/split": whole(OK + b"X-A: one\rX-B: two\r\nContent-Length: 5\r\n\r\nhello"),
    "/nul": whole(OK + b"X-A: o\x00ne\r\nContent-Length: 5\r\n\r\nhello"),
    "/space-before-colon": whole(OK + b"X-A : one\r\nContent-Length: 5\r\n\r\nhello"),
    "/unknown-coding": whole(OK + b"Transfer-Encoding: gzip\r\n\r\nhello"),
    "/bad-status": whole(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    "/bad-version": whole(b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "/huge-head": whole(OK + b"X-A: " + b"a" * 400_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    "/many-fields": whole(OK + b"X-A: a\r\n" * 5000 + b"Content-Length: 0\r\n\r\n"),
    "/bad-chunk-size": whole(OK + b"Transfer-Encoding: chunked\r\n\r\n5x\r\nhello\r\n0\r\n\r\n"),
    "/bad-chunk-end": whole(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"),
    "/unasked-upgrade": whole(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbytes"
    ),
    "/http10": whole(b"HTTP/1.0 200 OK\r\n\r\nold but gold"),
    "/until-close": whole(OK + b"\r\nuntil the end"),
    "/empty-reason": whole(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", True),
    "/nothing-204": whole(b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "/not-modified": whole(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n', True),
    "/two-answers": whole(
        OK + b"Content-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond", True
    ),
    "/tail-after-204": whole(b"HTTP/1.1 204 No Content\r\n\r\nstowaway", True),
}


def main() -> int:
    """Listens on the socket, or on a port of the loopback address, until SIGTERM."""
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path)
    where.add_argument("--port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    if arguments.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(arguments.socket))
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((arguments.host, arguments.port))
    listener.listen(1024)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=Connection(peer).serve, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
