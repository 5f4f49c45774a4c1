"""The application with something around each request: the hooks `pre_request` and `post_request`,
and lines of the access log that Python's loggers are to write.

Used only if one of them was asked for, so that their absence costs nothing.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from evener.application import Application, Message, Receive, Send
from evener.gunicorn.arbiter import Worker
from evener.gunicorn.values import arity


class Request:
    """The request as these hooks see it."""

    def __init__(self, scope: Message) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        raw = scope.get("raw_path") or scope["path"].encode()
        self.uri: str = raw.decode("latin-1") + (f"?{self.query}" if self.query else "")
        self.raw_uri = self.uri
        self.fragment = ""
        major, _, minor = scope["http_version"].partition(".")
        self.version = (int(major), int(minor or 0))
        self.headers = [
            (name.decode("latin-1").upper(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ]
        self.scheme: str = scope["scheme"]
        self.remote_addr = scope["client"] or ("", 0)
        self.peer_addr = self.remote_addr
        self.trailers: list[tuple[str, str]] = []


class Response:
    """What was answered."""

    def __init__(self) -> None:
        self.status: Any = None
        self.status_code: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.sent = 0

    def note(self, message: Message) -> None:
        """Takes notice of a message of the application's."""
        if message["type"] == "http.response.start":
            self.status = self.status_code = message["status"]
            self.headers = [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))


def environ(request: Request) -> dict[str, Any]:
    """A WSGI environment of the request."""
    made = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "REMOTE_ADDR": request.remote_addr[0],
        "REMOTE_PORT": str(request.remote_addr[1]),
        "wsgi.url_scheme": request.scheme,
    }
    for name, value in request.headers:
        key = name.replace("-", "_")
        made[key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"] = value
    return made


def watched(
    app: Application,
    worker: Worker,
    before: Callable[..., Any] | None,
    after: Callable[..., Any] | None,
    write: Callable[..., Any] | None,
) -> Application:
    """The application with the hooks, and the access log's `write`, around each HTTP request."""
    taken = (arity(after) or 4) if after else 0
    looks = after is not None or write is not None

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        worker.nr += 1
        request, response = Request(scope), Response()
        began = time.monotonic()

        async def sent(message: Message) -> None:
            response.note(message)
            await send(message)

        try:
            if before is not None:
                before(worker, request)
            await app(scope, receive, sent if looks else send)
        except BaseException:
            # What the server answers then.
            response.status = response.status or 500
            raise
        finally:
            try:
                if write is not None:
                    took = timedelta(seconds=time.monotonic() - began)
                    write(response, request, environ(request), took)
                if after is not None:
                    after(*(worker, request, environ(request), response)[:taken])
            except Exception:  # as gunicorn: logged, and the answer stands
                worker.log.error("exception in post_request:\n%s", traceback.format_exc())

    return call
