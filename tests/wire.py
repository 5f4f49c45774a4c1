"""HTTP/1.1 as bytes on a socket: what a well-behaved client library would not let a test do."""

import json
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

SECONDS = 15.0


@dataclass
class Response:
    """An answer as it came over the wire."""

    status: int
    version: str
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Every value of a field, by its name in lower case."""
        return [value for key, value in self.fields if key.lower() == name]

    def one(self, name: str) -> str | None:
        """The value of a field that comes at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return "close" in ",".join(self.all("connection")).lower()


class Wire:
    """One connection. Every wait has a deadline; a closed connection is an `EOFError`."""

    def __init__(self, port: int, seconds: float = SECONDS, source: str | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.socket.close()

    def send(self, data: bytes | str) -> None:
        """Sends all of it; text as ISO 8859-1."""
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def request(
        self, method: str, path: str, *fields: str, body: bytes = b"", host: str = "test"
    ) -> None:
        """Sends a request, with a content length if it has a body."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def get(self, path: str, *fields: str) -> Response:
        """Sends a GET and reads the answer."""
        self.request("GET", path, *fields)
        return self.response()

    def post(self, path: str, body: bytes, *fields: str) -> Response:
        """Sends a POST and reads the answer."""
        self.request("POST", path, *fields, body=body)
        return self.response()

    def more(self) -> bool:
        """Waits for more bytes; False when the other side has closed."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """All bytes up to a mark, which is taken away."""
        while mark not in self.buffer:
            if not self.more():
                raise EOFError(f"closed before {mark!r}; there was {self.buffer[:200]!r}")
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError(f"closed after {len(self.buffer)} of {size} bytes")
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def head(self) -> Response:
        """The next head, informational or final, without its body."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, reason = (lines[0] + " ").split(" ", 2)
        return Response(int(status), version, reason.strip(), _fields(lines[1:]))

    def response(self, to: str = "GET") -> Response:
        """The next final answer with its body."""
        while True:
            response = self.head()
            if response.status >= 200 or response.status == 101:
                break
        self.body_of(response, to)
        return response

    def body_of(self, response: Response, to: str = "GET") -> None:
        """Reads the body that belongs to a head."""
        lengths = response.all("content-length")
        if to == "HEAD" or response.status in (101, 204, 304):
            return
        if "chunked" in ",".join(response.all("transfer-encoding")):
            assert not lengths, "both lengths and chunks"
            while piece := self.chunk():
                response.body += piece
            while line := self.until(b"\r\n"):
                response.trailers += _fields([line.decode("latin-1")])
        elif lengths:
            assert len(set(lengths)) == 1
            response.body = self.exactly(int(lengths[0]))
        else:
            response.body = self.rest()

    def chunk(self) -> bytes:
        """The next chunk; empty for the last, whose trailers are left to be read."""
        size = int(self.until(b"\r\n").partition(b";")[0], 16)
        if size == 0:
            return b""
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        while self.more():
            pass
        found, self.buffer = self.buffer, b""
        return found

    def is_closed(self) -> bool:
        """Waits until the other side closes; False when it sends something instead."""
        return not self.buffer and not self.more()


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
