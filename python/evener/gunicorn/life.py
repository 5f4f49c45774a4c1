"""A worker's life with gunicorn's hooks in it."""

from __future__ import annotations

import linecache
import os
import pwd
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from evener import worker as serving
from evener.application import Application, CannotStart
from evener.flags import Options
from evener.gunicorn import log as logs
from evener.gunicorn.arbiter import Server, Worker
from evener.gunicorn.requests import watched

APP_LOAD_ERROR = 4


class Life(serving.Life):
    """Calls the hooks of the worker's side."""

    hurries = True

    def __init__(self, server: Server, worker: Worker) -> None:
        self.server = server
        self.worker = worker
        self.cfg = worker.cfg

    def forked(self) -> None:
        """What happens between the fork and the import of the application."""
        logs.capture_if_asked(self.cfg)
        self.worker.log.info("Booting worker with pid: %s", self.worker.pid)
        self.cfg.post_fork(self.server, self.worker)
        os.environ.update(self.cfg.env)
        become(self.cfg.uid, self.cfg.gid, initgroups=bool(self.cfg.initgroups))
        if self.cfg.tmp_upload_dir:
            tempfile.tempdir = self.cfg.tmp_upload_dir
        signal.signal(signal.SIGABRT, self._aborted)
        if self.cfg.spew:
            sys.settrace(spew)

    def load(self, options: Options) -> Application:  # noqa: ARG002
        """The application, with what is to happen at each request around it."""
        try:
            app: Application = self.worker.app.wsgi()
        except CannotStart as error:
            error.status = APP_LOAD_ERROR
            raise
        self.worker.wsgi = self.worker.asgi = app
        before, after = self.cfg.hook("pre_request"), self.cfg.hook("post_request")
        log = self.worker.log
        write = log.access if logs.access_in_python(self.cfg) else None
        if before is None and after is None and write is None:
            return app
        return watched(app, self.worker, before, after, write)

    def leader_hook(self, options: Options, app: Application) -> Callable[[], Any] | None:  # noqa: ARG002
        """`worker_leader` of the configuration file."""
        hook = self.cfg.hook("worker_leader")
        return (lambda: hook(self.worker)) if hook else None

    def complain(self, what: str, exc_info: Any) -> None:
        """Logs what went wrong without an end of the worker."""
        self.worker.log.error("%s", what, exc_info=exc_info)

    def loaded(self) -> None:
        """The application is there."""
        self.cfg.post_worker_init(self.worker)
        self.worker.booted = True

    def interrupted(self) -> None:
        """SIGINT or SIGQUIT."""
        self.worker.alive = False
        self.cfg.worker_int(self.worker)

    def reopen_logs(self) -> None:
        """SIGUSR1."""
        self.worker.log.reopen_files()

    def over(self) -> None:
        """The last thing that the worker does."""
        self.worker.log.info("Worker exiting (pid: %s)", self.worker.pid)
        try:
            self.cfg.worker_exit(self.server, self.worker)
        except Exception:  # as gunicorn: a failing hook does not change how the worker ends
            self.worker.log.warning("Exception during worker exit:\n%s", traceback.format_exc())

    def _aborted(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.worker.alive = False
        try:
            self.cfg.worker_abort(self.worker)
        except Exception:  # it ends all the same
            self.worker.log.exception("exception in worker_abort")
        sys.exit(1)


def spew(frame: FrameType, event: str, _: object) -> Any:
    """Writes every line of Python that runs to standard error (`--spew`)."""
    if event == "line":
        path, number = frame.f_code.co_filename, frame.f_lineno
        line = linecache.getline(path, number).rstrip()
        sys.stderr.write(f"{frame.f_globals.get('__name__')}:{number}: {line}\n")
    return spew


def become(uid: int, gid: int, *, initgroups: bool) -> None:
    """Gives up the rights of whoever started the program."""
    if gid and gid != os.getegid():
        if initgroups:
            os.initgroups(pwd.getpwuid(uid).pw_name, gid)
        elif os.geteuid() == 0:
            os.setgroups([gid])
        os.setgid(gid)
    elif initgroups and uid and uid != os.geteuid():
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    if uid and uid != os.geteuid():
        os.setuid(uid)
