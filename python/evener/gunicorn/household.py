"""The nursery's side of gunicorn: settings, the server's hooks, and what they are called with."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from evener.application import Application as AsgiApplication
from evener.application import CannotStart
from evener.gunicorn import config as addresses
from evener.gunicorn import log, worker_class
from evener.gunicorn.arbiter import Application, Server, Worker, listeners
from evener.gunicorn.config import Config
from evener.gunicorn.life import Life
from evener.gunicorn.loading import load_target
from evener.gunicorn.settings import Refused
from evener.gunicorn.sources import Sources

CONFIG_ERROR = 1


class Household:
    """Settings and server of one `evener gunicorn`."""

    def __init__(
        self,
        arguments: Sequence[str],
        supervisor: int,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._notes: list[str] = []
        self._sources = Sources(arguments, self._notes.append)
        self._supervisor = supervisor
        self._tell = tell
        self._set: dict[str, str | None] = {}
        self.cfg = self._load()
        if self.cfg.print_config or self.cfg.check_config:
            self._only_look()
        self.server: Server | None = None

    def _load(self) -> Config:
        self._notes.clear()
        worker_class.provide_if_needed()
        try:
            cfg = self._sources.load()
            self._target = self._sources.target(cfg)
            self._kwargs = worker_class.options(
                cfg.worker_class, given=cfg.is_given("worker_class")
            )
            for text in cfg.bind:
                try:
                    addresses.address(text)
                except ValueError as error:
                    raise Refused(f"{cfg.settings['bind'].source}: bind: {error}") from None
        except Refused as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(CONFIG_ERROR)
        return cfg

    def _only_look(self) -> None:
        """`--print-config` and `--check-config`: the application is imported, nothing is run."""
        if self.cfg.print_config:
            print(self.cfg)
        for note in self._notes:
            sys.stderr.write(f"warning: {note}\n")
        try:
            self._application(self.cfg).wsgi()
        except CannotStart as error:
            sys.stderr.write(f"\nError while loading the application:\n\n{error.report()}\n")
            sys.exit(CONFIG_ERROR)
        sys.stdout.flush()
        sys.exit(0)

    def _application(self, cfg: Config) -> Application:
        target = self._target

        def load() -> AsgiApplication:
            return load_target(target, cfg.chdir)

        return Application(cfg, target, load)

    def settings(self) -> dict[str, Any]:
        """What the program has to know, as plain values."""
        values = {}
        for name, setting in self.cfg.settings.items():
            value = setting.value
            if (
                isinstance(value, str | int | float | list | None)
                or name == "secure_scheme_headers"
            ):
                values[name] = value
        values["uid"], values["gid"] = self.cfg.uid, self.cfg.gid
        values["proc_name"] = self.cfg.proc_name
        return {
            "target": self._target,
            "values": values,
            "given": [name for name in self.cfg.settings if self.cfg.is_given(name)],
            "changed": [
                name
                for name, setting in self.cfg.settings.items()
                if self.cfg.is_given(name) and setting.value != setting.default
            ],
            "sources": {name: setting.source for name, setting in self.cfg.settings.items()},
            "kwargs": {
                name: value
                for name, value in self._kwargs.items()
                if isinstance(value, str | int | float | list | None)
            },
            "notes": self._notes,
            "directory": self.cfg.chdir,
            "logs": {
                "errors_in_python": log.errors_in_python(self.cfg),
                "access_in_python": log.access_in_python(self.cfg),
                "utc_offset": time.localtime().tm_gmtoff,
            },
        }

    def obey(self, words: dict[str, Any]) -> dict[str, Any] | None:
        """Does what the program orders of the server; what it is to be told."""
        server = self.server
        assert server is not None  # noqa: S101 - it is made before anything else is asked
        match words["do"]:
            case "exited":
                self.exited(words["pid"])
            case "call":
                self.call(words["hook"])
            case "count":
                server.count(words["count"])
            case "listening":
                server.LISTENERS = listeners(words["addresses"], self.cfg.address)
            case "note":
                for name, value in words["server"].items():
                    setattr(server, name, value)
            case "log":
                server.log.log(words["level"], "%s", words["text"])
            case "reopen":
                server.log.reopen_files()
            case "reload":
                self.reload()
                return {"loaded": self.settings()}
        return None

    def set_up(self, *, resumed: bool, upgraded_from: int) -> None:
        """Makes the server, as gunicorn's constructor does; imports the application if asked to."""
        app = self._application(self.cfg)
        server = self.server = Server(self._supervisor, app, log.make(self.cfg), self._ask)
        server.master_pid = upgraded_from
        if upgraded_from:
            server.master_name = "Master.2"
        self._set_environment()
        server.count(self.cfg.workers, quiet=resumed)
        if self.cfg.preload_app:
            app.wsgi()

    def reload(self) -> None:
        """Reads the settings again, in this process, and runs the hook."""
        assert self.server is not None  # noqa: S101 - it is made before anything else is asked
        self._unset_environment()
        before = self.server.app
        try:
            self.cfg = self._load()
        except SystemExit:
            self._set_environment()
            raise CannotStart("the new settings are refused") from None
        app = self._application(self.cfg)
        # As with gunicorn, a preloaded application stays; the nursery is renewed for a new one.
        app.callable = before.callable
        self.server.follow(app)
        self._set_environment()
        if hasattr(self.server.log, "setup"):
            self.server.log.setup(self.cfg)
        self.server.count(self.cfg.workers)
        self.cfg.on_reload(self.server)

    def _ask(self, count: int) -> None:
        self._tell({"count": count})

    def _set_environment(self) -> None:
        for name, value in self.cfg.env.items():
            self._set.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def _unset_environment(self) -> None:
        for name, before in self._set.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        self._set.clear()

    def unborn(self, age: int) -> Worker:
        """A worker that is about to be forked."""
        assert self.server is not None  # noqa: S101
        self.server.worker_age = age
        worker = Worker(age, self.server)
        self.cfg.pre_fork(self.server, worker)
        return worker

    def life(self, worker: Worker) -> Life:
        """The life of a worker that was just forked; called in its process."""
        assert self.server is not None  # noqa: S101
        return Life(self.server, worker)

    def exited(self, pid: int) -> None:
        """A worker is over."""
        assert self.server is not None  # noqa: S101
        worker = self.server.WORKERS.pop(pid, None)
        if worker is not None:
            self.cfg.child_exit(self.server, worker)

    def call(self, hook: str) -> None:
        """Runs a hook that takes the server only."""
        getattr(self.cfg, hook)(self.server)
