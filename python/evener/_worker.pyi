"""The extension module: an ASGI server on one event loop (`crates/worker`)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Self, TypeAlias

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]

def end_with_parent(parent: int) -> bool:
    """Has this process end with its parent; False while its parent is another."""

class MessageError(RuntimeError):
    """The application sent a message that breaks a rule of the ASGI specification."""

class ClientDisconnected(OSError):
    """The client is gone: what was sent can no longer reach it."""

class Done:
    """An awaitable that is done."""

    def __await__(self) -> Iterator[None]: ...

class Waiting:
    """An awaitable that waits if it has to."""

    def __await__(self) -> Iterator[Any]: ...

class Exchange:
    """An HTTP request or a WebSocket."""

    def receive(self) -> Waiting: ...
    def send(self, message: _Message) -> Done | Waiting: ...

class Run:
    """The coroutine of one request's task."""

    def __await__(self) -> Iterator[Any]: ...

class Server:
    """An ASGI server on one event loop."""

    def __new__(
        cls,
        app: Callable[[_Message, _Receive, _Send], Awaitable[None]],
        *,
        event_loop: asyncio.AbstractEventLoop,
        listener: int,
        page: int | None = None,
        root_path: str = "",
        state: dict[str, Any] | None = None,
        server: tuple[str, int | None] | None = None,
        trusted: bool | None = None,
        keep_alive: float = 0.0,
        requests_max: int = 0,
        message_bytes_max: int = 16_777_216,
        deflate: bool = True,
        ping_interval: float = 0.0,
        ping_timeout: float = 0.0,
        on_error: Callable[[dict[str, Any] | None, BaseException], None],
        on_event: Callable[..., None],
    ) -> Self: ...
    def start(self) -> None: ...
    def on_ready(self) -> None: ...
    def on_turn_end(self) -> None: ...
    def drain(self) -> None: ...
    def close_websockets(self, most: int, code: int, reason: str) -> int: ...
    def disconnect_all(self) -> None: ...
    def tasks(self) -> list[asyncio.Task[None]]: ...
    def stop(self) -> None: ...
    @property
    def busy(self) -> int: ...
    @property
    def started(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def connections(self) -> int: ...
