"""The command line of a worker: what the supervisor, or a person, may ask of it.

Names and meanings are uvicorn's where it has them. A worker is usually started by `evener run`,
with the descriptors of its listening socket, its vitals page and its ready pipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evener.lifespan import Mode


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a worker was asked to do."""

    app: str
    app_dir: str
    factory: bool
    env_file: str | None
    leader_hook: str | None
    root_path: str
    lifespan: Mode
    loop: Literal["auto", "uvloop", "asyncio"]
    log_level: str
    socket_fd: int | None
    page_fd: int | None
    ready_fd: int | None
    uds: str | None
    host: str
    port: int
    backlog: int
    server: str | None
    proxy_headers: bool | None
    limit_max_requests: int
    limit_max_requests_jitter: int
    timeout_keep_alive: float
    timeout_graceful_shutdown: float
    ws_max_size: int
    ws_per_message_deflate: bool
    ws_ping_interval: float
    ws_ping_timeout: float


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line; ends the program with a message if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m evener.worker",
        description="One worker of Evener: an ASGI server on one event loop.",
        allow_abbrev=False,
    )
    parser.add_argument("app", metavar="APP", help="the application, as module:attribute")
    _add_application(parser)
    _add_listening(parser)
    _add_limits(parser)
    return Options(**vars(parser.parse_args(arguments)))


def _add_application(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("application")
    group.add_argument("--app-dir", default=".", help="where to import it from")
    group.add_argument("--factory", action="store_true", help="APP makes the application")
    group.add_argument("--env-file", help="file of environment variables, read before APP")
    group.add_argument("--leader-hook", help="module:function that the leader calls")
    group.add_argument("--root-path", default="", help="path that the application is mounted at")
    group.add_argument("--lifespan", choices=["auto", "on", "off"], default="auto")
    group.add_argument("--loop", choices=["auto", "uvloop", "asyncio"], default="auto")
    group.add_argument(
        "--log-level",
        choices=["critical", "error", "warning", "info", "debug", "trace"],
        default="info",
    )


def _add_listening(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    group.add_argument("--socket-fd", type=int, help="a listening socket that it was given")
    group.add_argument("--page-fd", type=int, help="the vitals page")
    group.add_argument("--ready-fd", type=int, help="pipe to say `ready` on")
    group.add_argument("--uds", help="unix socket to listen on, if no socket was given")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on otherwise")
    group.add_argument("--port", type=int, default=8000)
    group.add_argument("--backlog", type=_positive, default=2048)
    group.add_argument("--server", help='HOST:PORT for scope["server"], if not the socket\'s own')
    group.add_argument(
        "--proxy-headers",
        action=argparse.BooleanOptionalAction,
        help="whether to believe X-Real-IP and X-Forwarded-Proto; by default on unix sockets only",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--limit-max-requests", type=_count, default=0, metavar="N")
    group.add_argument("--limit-max-requests-jitter", type=_count, default=0, metavar="N")
    group.add_argument("--timeout-keep-alive", type=_seconds, default=0.0, metavar="S")
    group.add_argument("--timeout-graceful-shutdown", type=_seconds, default=30.0, metavar="S")
    group.add_argument("--ws-max-size", type=_positive, default=16 * 1024 * 1024, metavar="BYTES")
    group.add_argument("--ws-per-message-deflate", type=_boolean, default=True, metavar="BOOL")
    group.add_argument("--ws-ping-interval", type=_seconds, default=20.0, metavar="S")
    group.add_argument("--ws-ping-timeout", type=_seconds, default=20.0, metavar="S")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return number


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True}
    known |= {"false": False, "0": False, "no": False, "off": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return known[text.lower()]
