"""Everything that happens to workers, all the time, under full load: no request fails.

The same script runs against gunicorn with uvicorn workers at the same time; what fails there is
printed beside it.
"""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from running import PROGRAM, SHOP, Start, alive, eventually, free_port
from wire import Wire

SECONDS = float(os.environ.get("TROUBLE_SECONDS", "120"))
# gunicorn answers nothing at all if its workers are replaced before they have started.
EVERY_SECONDS = 1.0
RECYCLE = 200
CONNECTIONS = 32
WORKERS = 3
# Added and taken away again, so that there are never very many or none.
CHANGES = (signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTOU)


def asks() -> Iterator[Ask]:
    """What can be answered whatever happens: GETs whose answers come in one piece."""
    paths = [
        Ask("/lab/text/1024", size=1024),
        Ask("/lab/json/1024"),
        Ask("/lab/slow?seconds=0.02"),
        Ask("/products"),
    ]
    random.shuffle(paths)
    return itertools.cycle(paths)


class Trouble(threading.Thread):
    """Reloads, adds, takes away and kills, until told to end."""

    def __init__(self, pid: int, workers: Callable[[], list[int]] | None = None) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.workers = workers or (lambda: children(self.pid))
        self.done: Counter[str] = Counter()
        # Where a newer program writes its process id; then it is upgraded as well.
        self.pidfile: Path | None = None
        self.errors: list[str] = []
        self._changes = itertools.cycle(CHANGES)
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's work."""
        what = ["change", "kill", "change", "reload"]
        for step in itertools.cycle([*what, "upgrade"] if self.pidfile else what):
            if self._over.wait(EVERY_SECONDS):
                return
            try:
                self._do(step)
            except (AssertionError, OSError) as error:
                self.errors.append(repr(error))

    def _do(self, step: str) -> None:
        match step:
            case "change":
                self._send(next(self._changes))
            case "reload":
                self._send(signal.SIGHUP)
            case "kill":
                running = self.workers()
                if len(running) > 1:
                    os.kill(random.choice(running), signal.SIGKILL)
                    self.done["SIGKILL"] += 1
            case "upgrade":
                self._upgrade()

    def _send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        self.done[number.name] += 1

    def _upgrade(self) -> None:
        """A newer program takes over, as gunicorn's documentation has it: USR2, then TERM."""
        assert self.pidfile
        newer = Path(f"{self.pidfile}.2")
        self._send(signal.SIGUSR2)
        eventually(newer.exists, "a newer program", 30)
        os.kill(self.pid, signal.SIGTERM)
        old = self.pid
        eventually(lambda: not alive(old), "the older one has gone", 40)
        eventually(lambda: not newer.exists(), "the newer one is the one", 20)
        self.pid = int(self.pidfile.read_text())

    def end(self) -> None:
        """Stops it, and insists that everything did happen."""
        self._over.set()
        self.join(60)
        assert len(self.done) == (5 if self.pidfile else 4), self.done
        gone = [error for error in self.errors if "ProcessLookupError" not in error]
        assert not gone, gone


def children(pid: int) -> list[int]:
    """The processes right below one."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


class Gunicorn:
    """What people run today: gunicorn with uvicorn workers."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", "app.main:app", "--chdir", str(SHOP)]
        command += ["-k", "uvicorn_worker.UvicornWorker", "-w", str(WORKERS)]
        command += ["-b", f"127.0.0.1:{self.port}", "--max-requests", str(RECYCLE)]
        command += ["--max-requests-jitter", "50", "--log-level", "error"]
        variables = {**os.environ, "SHOP_DATA": str(folder / "gunicorn")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        eventually(lambda: answers(self.port), "gunicorn answers", 30)

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()


class EvenerGunicorn:
    """`evener gunicorn` with the same settings."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.pidfile = folder / "pid"
        self.log = folder / "evener-gunicorn.log"
        command = [str(PROGRAM), "gunicorn", "app.main:app", "--chdir", str(SHOP)]
        command += ["-w", str(WORKERS), "-b", f"127.0.0.1:{self.port}", "-p", str(self.pidfile)]
        command += ["--max-requests", str(RECYCLE), "--max-requests-jitter", "50"]
        variables = {**os.environ, "SHOP_DATA": str(folder / "evener")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        eventually(lambda: answers(self.port), "evener gunicorn answers", 30)


def answers(port: int) -> bool:
    """Whether somebody serves there."""
    try:
        with Wire(port) as wire:
            return wire.get("/lab/worker").status == 200
    except (OSError, EOFError):
        return False


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["spawned", "forked"])
def test_no_request_fails_whatever_happens(start: Start, tmp_path: Path, kind: str) -> None:
    flags = ["--limit-max-requests", str(RECYCLE), "--limit-max-requests-jitter", "50"]
    flags += ["--preload"] if kind == "forked" else []
    evener = start("--workers", str(WORKERS), "--no-access-log", *flags, workers=WORKERS)
    trouble = Trouble(evener.pid, lambda: sorted(evener.ready()))
    side_by_side(kind, tmp_path, evener.port, trouble, evener.words)
    assert evener.words().count("requests and is replaced") > SECONDS / 10


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_no_request_fails_while_programs_take_over_from_each_other(tmp_path: Path) -> None:
    evener = EvenerGunicorn(tmp_path)
    # Its nursery is among those that are killed.
    trouble = Trouble(evener.process.pid)
    trouble.pidfile = evener.pidfile
    reaper = threading.Thread(target=evener.process.wait, daemon=True)
    reaper.start()
    try:
        words = partial(evener.log.read_text, errors="replace")
        side_by_side("evener gunicorn", tmp_path, evener.port, trouble, words)
    finally:
        os.kill(trouble.pid, signal.SIGTERM)
        eventually(lambda: not alive(trouble.pid), "it has ended", 40)


def side_by_side(
    kind: str, folder: Path, port: int, trouble: Trouble, words: Callable[[], str]
) -> None:
    """The same load and the same trouble for Evener and for gunicorn."""
    gunicorn = Gunicorn(folder)
    troubles = {"evener": trouble, "gunicorn": Trouble(gunicorn.process.pid)}
    try:
        for one in troubles.values():
            one.start()
        outcomes = asyncio.run(both(port, gunicorn.port))
        for one in troubles.values():
            one.end()
    finally:
        gunicorn.stop()
    for name, outcome in outcomes.items():
        print(f"\n{kind}, {name}: {outcome}; {dict(troubles[name].done)}")
    ours = outcomes["evener"]
    assert not ours.failures, f"{ours}\n{words()[-6000:]}"
    assert ours.answered > 20 * SECONDS
    assert outcomes["gunicorn"].answered > SECONDS, "it was there to be compared with"


async def both(*ports: int) -> dict[str, Outcome]:
    """The same load on both at the same time."""
    loads = [Load(port, asks, CONNECTIONS).run(SECONDS) for port in ports]
    return dict(zip(("evener", "gunicorn"), await asyncio.gather(*loads), strict=True))
