"""The nursery: a process with one thread that forks workers.

The program tells it what to do, one message at a time, on a socket; it plans nothing itself. Before
it forks it may have imported the application (`--preload`), so that a new worker is there in
milliseconds and shares its memory; and it runs the hooks of gunicorn's server side.

A worker is forked twice over and its middleman ends at once, so that the kernel hands it to the
program: that is its parent, hears of its end, and is survived by none. The nursery can die and be
started again, and no worker notices.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import faulthandler
import gc
import importlib
import io
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from evener import environment, flags, worker
from evener._worker import end_with_parent
from evener.application import CANNOT_START, Application, CannotStart, load
from evener.flags import Options

MESSAGE_BYTES_MAX = 128 * 1024
DESCRIPTORS_MAX = 8
# Signals that people send to the process that runs gunicorn's hooks mean the program.
FORWARDED = ("HUP", "INT", "QUIT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH")
# For how long a worker waits to be handed to the program.
HANDOVER_SECONDS = 5.0
STOPPED = 0
FAILED = 1


class Channel:
    """The socket to the program: whole messages, with descriptors."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next order; None when the program is gone."""
        integers = array.array("i")
        size = socket.CMSG_SPACE(DESCRIPTORS_MAX * integers.itemsize)
        text, ancillary, _, _ = self._socket.recvmsg(
            MESSAGE_BYTES_MAX, size, socket.MSG_CMSG_CLOEXEC
        )
        if not text:
            return None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                integers.frombytes(data[: len(data) - len(data) % integers.itemsize])
        return json.loads(text), list(integers)

    def send(self, message: dict[str, Any]) -> None:
        """Tells the program something; that it is gone is noticed at the next order."""
        try:
            self._socket.sendall(json.dumps(message).encode())
        except OSError:
            return

    def close(self) -> None:
        """Lets go of it."""
        self._socket.close()


class Nursery:
    """Does what the program orders."""

    def __init__(self, channel: Channel, gunicorn: Sequence[str] | None) -> None:
        self._channel = channel
        self._supervisor = os.getppid()
        self._options: Options | None = None
        self._app: Application | None = None
        self._household: Any = None
        if gunicorn is not None:
            module = importlib.import_module("evener.gunicorn.household")
            self._household = module.Household(gunicorn, self._supervisor, channel.send)

    def run(self) -> int:
        """Obeys until the program is gone, or says so."""
        settings = self._household.settings() if self._household else None
        self._channel.send({"loaded": settings})
        while order := self._channel.receive():
            words, descriptors = order
            if words["do"] == "quit":
                break
            try:
                answer = self._obey(words, descriptors)
            except CannotStart as error:
                answer = {"error": error.report()}
            except Exception:  # whatever a hook raises is the program's to judge
                answer = {"error": traceback.format_exc().rstrip(), "raised": True}
            # A forked worker does not come here: it keeps them, and leaves by SystemExit.
            for descriptor in descriptors:
                os.close(descriptor)
            self._channel.send({"reply": words["id"], **answer})
        return STOPPED

    def _obey(self, words: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        match words["do"]:
            case "set-up":
                self._set_up(words)
            case "arguments":
                self._options = flags.parse(words["arguments"])
            case "fork":
                return {"pid": self._fork(words, descriptors)}
            case "rehearse":
                self._rehearse(words["hook"])
            case _ if self._household:
                answer: dict[str, Any] = self._household.obey(words) or {}
                if answer:
                    return answer
        return {"environment": dict(os.environ)} if words.get("remember") else {}

    def _set_up(self, words: dict[str, Any]) -> None:
        """Gets ready to fork: the worker's flags, the application if it is to be preloaded."""
        os.environ.update(words.get("environment") or {})
        self._options = options = flags.parse(words["arguments"])
        if self._household:
            for name in FORWARDED:
                signal.signal(getattr(signal, f"SIG{name}"), self._forward)
            resumed = bool(words.get("resumed"))
            self._household.set_up(resumed=resumed, upgraded_from=words.get("upgraded_from", 0))
            for pid, age in words.get("workers", ()):
                born = sys.modules["evener.gunicorn.arbiter"].Worker(age, self._household.server)
                born.pid = pid
                self._household.server.WORKERS[pid] = born
                self._household.server.worker_age = max(self._household.server.worker_age, age)
        elif words["preload"]:
            worker.set_up_logging(options.log_level)
            if options.env_file is not None:
                environment.load(options.env_file)
            self._app = load(options.app, app_dir=options.app_dir, factory=options.factory)
        if words["preload"]:
            self._settle()
        rename(words.get("title"), self._name())

    def _name(self) -> str | None:
        """The short name of our processes, if they have one."""
        return self._household.cfg.proc_name if self._household else None

    def _settle(self) -> None:
        """Leaves as little as possible to be written to, and so copied, after a fork."""
        worker.loop_factory("auto")
        gc.collect()
        gc.freeze()
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads > 1:
            sys.stderr.write(
                f"warning: the application started {threads - 1} threads while it was imported; "
                "they do not exist in workers, which are forked from here. Start them in its "
                "lifespan, or do without preloading.\n"
            )

    def _forward(self, number: int, _: object) -> None:
        os.kill(self._supervisor, number)

    def _rehearse(self, hook: str) -> None:
        """Runs a hook in a process of its own, as gunicorn's `pre_exec` is."""
        pid = os.fork()
        if pid == 0:
            status = FAILED
            try:
                self._household.call(hook)
                sys.stdout.flush()
                status = STOPPED
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError(f"{hook} failed")

    def _fork(self, words: dict[str, Any], descriptors: list[int]) -> int:
        """Forks a worker that belongs to the program; returns its process id."""
        unborn = self._household.unborn(words["age"]) if self._household else None
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        middleman = os.fork()
        if middleman == 0:
            try:
                pid = os.fork()
            except OSError:
                os._exit(FAILED)
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(STOPPED)
            os.close(reader)
            os.close(writer)
            self._be_worker(words, descriptors, unborn)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        os.waitpid(middleman, 0)
        if not said:
            raise RuntimeError("there is no room for another process")
        pid = int(said)
        if unborn is not None:
            unborn.pid = pid
            self._household.server.WORKERS[pid] = unborn
        return pid

    def _be_worker(self, words: dict[str, Any], descriptors: list[int], unborn: Any) -> NoReturn:
        """The life of a forked process: never returns to the nursery's code."""
        self._channel.close()
        become_worker(words, descriptors, self._supervisor)
        rename(words.get("title"), self._name())
        listener, page, ready, _, _ = descriptors
        assert self._options is not None  # noqa: S101 - set up before the first fork
        options = dataclasses.replace(
            self._options, socket_fd=listener, page_fd=page, ready_fd=ready
        )
        if unborn is None:
            worker.show_faults()
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            worker.set_up_logging(options.log_level)
            leave(worker.serve(options, Preloaded(self._app)))
        unborn.pid = os.getpid()
        life = self._household.life(unborn)
        status = CANNOT_START
        try:
            life.forked()
            worker.show_faults()
            status = worker.serve(options, life)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else FAILED
        except Exception:  # as gunicorn: said, and the status tells whether it had begun to serve
            life.worker.log.exception("Exception in worker process")
            status = 255 if life.worker.booted else CANNOT_START
        finally:
            life.over()
        leave(status)


class Preloaded(worker.Life):
    """The life of a worker whose application may be there already."""

    def __init__(self, app: Application | None) -> None:
        self._app = app

    def load(self, options: Options) -> Application:
        """The application."""
        return self._app if self._app is not None else super().load(options)


def become_worker(words: dict[str, Any], descriptors: list[int], supervisor: int) -> None:
    """Turns a forked nursery into a process like one that was started on its own."""
    for name in (*FORWARDED, "CHLD"):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
    os.setpgid(0, 0)
    os.dup2(descriptors[3], 1)
    os.dup2(descriptors[4], 2)
    deadline = time.monotonic() + HANDOVER_SECONDS
    while not end_with_parent(supervisor):
        # The middleman is not quite gone.
        if time.monotonic() > deadline:
            os._exit(FAILED)
        time.sleep(0.0005)
    os.environ.update(words["environment"])
    random.seed()


def leave(status: int) -> NoReturn:
    """Ends a worker: what was registered for the exit runs, nothing of the nursery's does."""
    raise SystemExit(status)


def rename(title: str | None, name: str | None) -> None:
    """The names in listings of processes: the short one, and the whole command line if that can be
    set.
    """
    if name is not None:
        Path("/proc/self/comm").write_text(name[:15], encoding="utf-8")
    if title is not None:
        with contextlib.suppress(ImportError):
            importlib.import_module("setproctitle").setproctitle(title)


def main(arguments: Sequence[str]) -> int:
    """`python -m evener.nursery DESCRIPTOR [--gunicorn ARGUMENT…]`."""
    channel = Channel(int(arguments[0]))
    gunicorn = arguments[2:] if arguments[1:2] == ["--gunicorn"] else None
    # Several processes write to what may be one pipe: whole lines stay whole.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
    # A reader that is gone must not end the process that everything is forked from.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return Nursery(channel, gunicorn).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
