"""What hooks are handed: the `server`, as gunicorn's arbiter looks, and the `worker`.

The true arbiter is the Rust program, whose process id `server.pid` is: signals sent to it do what
they do to gunicorn. Here is what its hooks see of it, kept up to date by the nursery.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from random import randint
from typing import Any

from evener.gunicorn.config import Config

BOOTING = "[booting]"


class Listener:
    """A socket that clients connect to. The program has it; here is what can be said about it."""

    def __init__(self, text: str, name: Any) -> None:
        self._text = text
        self._name = name
        self.cfg_addr = name

    def getsockname(self) -> Any:
        """Host and port, or a path."""
        return self._name

    def __str__(self) -> str:
        return self._text


def listeners(addresses: list[str], configured: list[Any]) -> list[Listener]:
    """What the program listens on, told as texts, in the order of `bind`."""
    found = []
    for text, asked in zip(addresses, [*configured, *addresses], strict=False):
        host, _, port = text.partition("://")[2].rpartition(":")
        if host and port.isdigit():
            found.append(Listener(text, (host.strip("[]"), int(port))))
        else:
            path = asked if isinstance(asked, str) else text
            found.append(Listener(f"unix:{path}", path))
    return found


class Worker:
    """One worker, in the nursery and in the worker itself."""

    def __init__(self, age: int, server: Server) -> None:
        self.age = age
        self.pid: Any = BOOTING
        self.ppid = server.pid
        self.cfg = server.cfg
        self.log = server.log
        self.app = server.app
        self.sockets = server.LISTENERS
        self.timeout = server.timeout / 2.0
        self.booted = False
        self.aborted = False
        self.alive = True
        self.reloader = None
        # uvicorn's worker class calls it `wsgi`, gunicorn's own `asgi`.
        self.wsgi: Any = None
        self.asgi: Any = None
        self.nr = 0
        most, jitter = server.cfg.max_requests, server.cfg.max_requests_jitter
        self.max_requests = most + randint(0, jitter) if most else sys.maxsize  # noqa: S311

    def notify(self) -> None:
        """Nothing to do: that the worker is alive is seen on its vitals page."""

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"


class Application:
    """What gunicorn calls `app`: the application by name, with its settings."""

    def __init__(self, cfg: Config, target: str, load: Callable[[], Any]) -> None:
        self.cfg = cfg
        self.app_uri = target
        self.callable: Any = None
        self._load = load

    def wsgi(self) -> Any:
        """The application itself, imported once."""
        if self.callable is None:
            self.callable = self._load()
        return self.callable

    def load(self) -> Any:
        """The same."""
        return self.wsgi()


class Server:
    """The program as hooks see it."""

    SIGNALS: tuple[int, ...] = ()

    def __init__(self, pid: int, app: Application, log: Any, ask: Callable[[int], None]) -> None:
        self.pid = pid
        self._ask = ask
        self.master_pid = 0
        self.master_name = "Master"
        self.reexec_pid = 0
        self.systemd = "LISTEN_FDS" in os.environ
        self.pidfile: Any = None
        self.worker_age = 0
        self.WORKERS: dict[int, Worker] = {}
        self.LISTENERS: list[Any] = []
        self.START_CTX = {"args": sys.argv, "cwd": os.environ.get("PWD"), 0: sys.executable}
        self._num_workers: int | None = None
        self.log = log
        self.follow(app)
        self._stats = {"start_time": time.time(), "workers_spawned": 0, "reloads": 0}

    def follow(self, app: Application) -> None:
        """Takes over new settings."""
        self.app = app
        self.cfg = app.cfg
        self.address = app.cfg.address
        self.timeout = app.cfg.timeout
        self.proc_name = app.cfg.proc_name
        named = app.cfg.worker_class
        self.worker_class: type = named if isinstance(named, type) else Worker

    @property
    def num_workers(self) -> int | None:
        """How many workers are wanted; setting it asks the program for so many."""
        return self._num_workers

    @num_workers.setter
    def num_workers(self, count: int) -> None:
        # The program answers by telling us the new count, and with it the hook.
        self._ask(count)

    def count(self, count: int, *, quiet: bool = False) -> None:
        """Notes how many are wanted, and lets the hook know."""
        before, self._num_workers = self._num_workers, count
        if not quiet:
            self.cfg.nworkers_changed(self, count, before)
