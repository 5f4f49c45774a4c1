"""`pre_request` and `post_request`: the application with these hooks around each request.

Used only if one of them was given, so that their absence costs nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
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


def hooked(
    app: Application,
    worker: Worker,
    before: Callable[..., Any] | None,
    after: Callable[..., Any] | None,
) -> Application:
    """The application with the hooks around each HTTP request."""
    taken = (arity(after) or 4) if after else 0

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        worker.nr += 1
        request, response = Request(scope), Response()
        if before is not None:
            before(worker, request)

        async def sent(message: Message) -> None:
            response.note(message)
            await send(message)

        try:
            await app(scope, receive, send if after is None else sent)
        finally:
            if after is not None:
                try:
                    after(*(worker, request, environ(request), response)[:taken])
                except Exception:  # as gunicorn: logged, and the answer stands
                    worker.log.error("exception in post_request:\n%s", traceback.format_exc())

    return call
