"""HTTP/2 on a socket, stream by stream and frame by frame: what a client library hides."""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

SECONDS = 15.0


@dataclass
class Answer:
    """What came on one stream so far."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """Its status, or 0 if none has come."""
        return int(self.one(":status") or 0)

    def one(self, name: str) -> str | None:
        """The value of a field that comes at most once."""
        values = [value for key, value in self.fields if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class Streams:
    """One connection of HTTP/2. Every wait has a deadline."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None = None,
        *,
        window: int | None = None,
        opens_windows: bool = True,
        first: bytes = b"",
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", port), SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.sendall(first)
        self.socket: socket.socket = plain
        self.scheme = "http"
        if context:
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(plain, server_hostname="localhost")
            assert self.socket.selected_alpn_protocol() == "h2"
            self.scheme = "https"
        settings = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(settings)
        if window is not None:
            code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
            self.h2.local_settings[code] = window
        self.h2.initiate_connection()
        self.answers: dict[int, Answer] = {}
        self.buffer = b""
        self.goodbye: int | None = None
        self.closed = False
        self.opens_windows = opens_windows
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Sends what the library has to say."""
        self.socket.sendall(self.h2.data_to_send())

    def raw(self, data: bytes) -> bool:
        """Sends bytes past the library; False if the other side has closed."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.closed = True
        return not self.closed

    def ask(
        self,
        method: str,
        path: str,
        *fields: tuple[str, str],
        body: bytes | None = None,
        ends: bool = True,
        authority: str = "test",
    ) -> int:
        """Opens a stream with a request; `ends` says whether anything follows what is given."""
        stream: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", self.scheme), (":path", path)]
        head += [(":authority", authority)] if authority else []
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, [*head, *fields], end_stream=ends and body is None)
        self.flush()
        if body is not None:
            self.send(stream, body, ends=ends)
        return stream

    def send(self, stream: int, body: bytes, *, ends: bool = False) -> None:
        """Sends a body as fast as the windows let it."""
        while body:
            size = min(
                self.h2.local_flow_control_window(stream),
                self.h2.max_outbound_frame_size,
                len(body),
            )
            if size == 0:
                if not self.look():
                    raise AssertionError("the window never opened")
                if self.answers[stream].reset is not None or self.answers[stream].ended:
                    return
                continue
            self.h2.send_data(stream, body[:size])
            body = body[size:]
            self.flush()
        if ends:
            self.h2.end_stream(stream)
            self.flush()

    def look(self, seconds: float = SECONDS) -> bool:
        """Waits for bytes and notes what they say; False if none came in time, or ever will."""
        if self.closed:
            return False
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except (ConnectionResetError, ssl.SSLError):
            data = b""
        if not data:
            self.closed = True
            return False
        self.buffer += data
        for piece in self._frames():
            for event in self.h2.receive_data(piece):
                self._note(event)
        self.flush_if_open()
        return True

    def _frames(self) -> Iterator[bytes]:
        """The complete frames that have come, one by one."""
        while len(self.buffer) >= 9:
            size = 9 + int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < size:
                return
            piece, self.buffer = self.buffer[:size], self.buffer[size:]
            yield piece

    def flush_if_open(self) -> None:
        """Sends what the library has to say, unless nobody listens any more."""
        self.raw(self.h2.data_to_send())

    def _note(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goodbye = int(event.error_code or 0)
            # The library takes the connection for closed, but its streams go on.
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            return
        answer = self.answers.setdefault(getattr(event, "stream_id", 0) or 0, Answer())
        match event:
            case h2.events.ResponseReceived():
                answer.fields = [(str(k), str(v)) for k, v in event.headers]
            case h2.events.InformationalResponseReceived():
                answer.interim += [int(v) for k, v in event.headers if str(k) == ":status"]
            case h2.events.TrailersReceived():
                answer.trailers = [(str(k), str(v)) for k, v in event.headers]
            case h2.events.DataReceived():
                answer.body += event.data
                if self.opens_windows and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset():
                answer.reset = int(event.error_code)

    def until(self, done: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Reads until a condition holds."""
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or not self.look(left):
                if done():
                    return
                state = {
                    s: (a.status, len(a.body), a.ended, a.reset) for s, a in self.answers.items()
                }
                raise AssertionError(
                    f"never: {what}; closed {self.closed}, goodbye {self.goodbye}, {state}"
                )

    def answer(self, stream: int) -> Answer:
        """The complete answer of a stream, or how it was reset."""
        answer = self.answers[stream]
        self.until(lambda: answer.ended or answer.reset is not None, f"an answer on {stream}")
        return answer

    def begun(self, stream: int) -> Answer:
        """The answer of a stream once its head has come."""
        answer = self.answers[stream]
        self.until(lambda: answer.fields or answer.reset is not None, f"a head on {stream}")
        return answer

    def body(self, stream: int, size: int) -> bytes:
        """The body of a stream once so much of it has come."""
        answer = self.answers[stream]
        self.until(lambda: len(answer.body) >= size, f"{size} bytes on {stream}")
        return answer.body

    def get(self, path: str, *fields: tuple[str, str]) -> Answer:
        """One GET and its answer."""
        return self.answer(self.ask("GET", path, *fields))

    def cancel(self, stream: int) -> None:
        """Gives a stream up."""
        self.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.flush()

    def wait_for_end(self) -> int | None:
        """Reads until the other side closes; how it said goodbye."""
        self.until(lambda: self.closed, "the end of the connection")
        return self.goodbye


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as bytes (RFC 9113, 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def literal(name: str, value: str) -> bytes:
    """A header field as HPACK has it without index and without Huffman (RFC 7541, 6.2.2)."""

    def text(string: str) -> bytes:
        data, size = string.encode(), len(string)
        if size < 127:
            return bytes([size]) + data
        rest, number = b"\x7f", size - 127
        while number >= 128:
            rest += bytes([number % 128 + 128])
            number //= 128
        return rest + bytes([number]) + data

    return b"\x00" + text(name) + text(value)


def head(path: str = "/", fields: Iterable[tuple[str, str]] = (), method: str = "GET") -> bytes:
    """The block of a request."""
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
    return b"".join(literal(name, value) for name, value in [*pseudo, *fields])
