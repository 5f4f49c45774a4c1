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
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from running import SHOP, Start, eventually, free_port
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

    def __init__(self, pid: int, workers: Callable[[], list[int]]) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.workers = workers
        self.done: Counter[str] = Counter()
        self._changes = itertools.cycle(CHANGES)
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's work."""
        for what in itertools.cycle(["change", "kill", "change", "reload"]):
            if self._over.wait(EVERY_SECONDS):
                return
            number = next(self._changes) if what == "change" else signal.SIGHUP
            if what != "kill":
                os.kill(self.pid, number)
                self.done[number.name] += 1
                continue
            running = self.workers()
            if len(running) > 1:
                try:
                    os.kill(random.choice(running), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.done["SIGKILL"] += 1

    def end(self) -> None:
        """Stops it, and insists that everything did happen."""
        self._over.set()
        self.join(30)
        assert len(self.done) == 4, self.done


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
        eventually(self._answers, "gunicorn answers", 30)

    def _answers(self) -> bool:
        try:
            with Wire(self.port) as wire:
                return wire.get("/lab/worker").status == 200
        except (OSError, EOFError):
            return False

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["spawned", "forked"])
def test_no_request_fails_whatever_happens(start: Start, tmp_path: Path, kind: str) -> None:
    flags = ["--limit-max-requests", str(RECYCLE), "--limit-max-requests-jitter", "50"]
    flags += ["--preload"] if kind == "forked" else []
    evener = start("--workers", str(WORKERS), "--no-access-log", *flags, workers=WORKERS)
    gunicorn = Gunicorn(tmp_path)
    try:
        troubles = {
            "evener": Trouble(evener.pid, lambda: sorted(evener.ready())),
            "gunicorn": Trouble(gunicorn.process.pid, lambda: children(gunicorn.process.pid)),
        }
        for trouble in troubles.values():
            trouble.start()
        outcomes = asyncio.run(both(evener.port, gunicorn.port))
        for trouble in troubles.values():
            trouble.end()
        for name, outcome in outcomes.items():
            print(f"\n{kind}, {name}: {outcome}; {dict(troubles[name].done)}")
        ours = outcomes["evener"]
        assert not ours.failures, f"{ours}\n{evener.words()[-6000:]}"
        assert ours.answered > 20 * SECONDS
        assert outcomes["gunicorn"].answered > SECONDS, "it was there to be compared with"
        assert evener.words().count("requests and is replaced") > SECONDS / 10
    finally:
        gunicorn.stop()


async def both(*ports: int) -> dict[str, Outcome]:
    """The same load on both at the same time."""
    loads = [Load(port, asks, CONNECTIONS).run(SECONDS) for port in ports]
    return dict(zip(("evener", "gunicorn"), await asyncio.gather(*loads), strict=True))
