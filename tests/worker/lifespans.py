"""Applications that start, or do not."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

number = 42


@contextlib.asynccontextmanager
async def _fails(_app: Starlette) -> AsyncIterator[None]:
    if number:
        raise ConnectionError("no database here")
    yield


@contextlib.asynccontextmanager
async def _fails_at_the_end(_app: Starlette) -> AsyncIterator[None]:
    yield
    raise ConnectionError("the database is gone")


starlette_fails = Starlette(lifespan=_fails)
starlette_fails_at_the_end = Starlette(lifespan=_fails_at_the_end)


async def without(scope: Message, receive: Receive, send: Send) -> None:
    """Knows nothing of lifespans."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"without"})


async def says_failed(scope: Message, receive: Receive, send: Send) -> None:
    """Fails in words only."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "out of luck"})


def make() -> Any:
    """A factory."""
    return without


def make_badly() -> Any:
    """A factory that fails."""
    raise KeyError("SECRET")


def wsgi(environ: Any, start_response: Any) -> Any:
    """No ASGI at all."""
