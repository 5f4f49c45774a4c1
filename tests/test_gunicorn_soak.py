"""Everything that can be done to a program that runs as gunicorn does, all the time, at full load:
reloads, more and fewer workers, recycling, killed workers, newer programs that take over. No client
may notice. Real gunicorn is driven by the same script, to be looked at beside it.
"""

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections import Counter
from itertools import cycle, repeat
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from recording import EVENER, GUNICORN, Recorded
from running import alive, eventually

SECONDS = float(os.environ.get("EVENER_SOAK_SECONDS") or 120)
PAUSE_SECONDS = 0.7
SETTINGS = """
max_requests = 200
max_requests_jitter = 50
graceful_timeout = 10
accesslog = None
loglevel = "warning"
"""


def number_in(path: Path) -> int:
    """The process id in a file; 0 if there is none."""
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0


def parent(pid: int) -> int:
    """A process's parent; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


class Trouble(threading.Thread):
    """Does one thing after the other to a program until told to end."""

    def __init__(self, running: Recorded, seed: int) -> None:
        super().__init__(daemon=True)
        self.running = running
        self.master = running.process.pid
        self.done: Counter[str] = Counter()
        self.over = threading.Event()
        self._chance = random.Random(seed)

    def run(self) -> None:
        """The thread's work."""
        for what in cycle(["HUP", "TTIN", "TTOU", "kill", "USR2"]):
            if self.over.wait(PAUSE_SECONDS):
                return
            if what == "kill":
                self._kill()
            elif what == "USR2":
                self._upgrade()
            else:
                os.kill(self.master, signal.Signals[f"SIG{what}"])
            self.done[what] += 1

    def _kill(self) -> None:
        served = {call.pid for call in self.running.calls() if call.hook == "post_worker_init"}
        workers = sorted(pid for pid in served if parent(pid) == self.master)
        if len(workers) > 1:
            # It may just have reached its number of requests.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)

    def _upgrade(self) -> None:
        folder = self.running.folder
        before = self.running.count("post_worker_init")
        os.kill(self.master, signal.SIGUSR2)
        newer = eventually(lambda: number_in(folder / "pid.2"), "a newer program", 30, 0.05)
        self.running.until("post_worker_init", before + 2)
        os.kill(self.master, signal.SIGTERM)
        eventually(lambda: number_in(folder / "pid") == newer, "it has taken over", 40, 0.05)
        self.master = newer


def troubled(
    program: list[str], folder: Path, seconds: float, seed: int
) -> tuple[Outcome, Trouble]:
    """A load on a program that is never left alone."""
    running = Recorded(program, folder, settings=SETTINGS).wait()
    trouble = Trouble(running, seed)
    try:
        trouble.start()
        load = Load(running.port, lambda: repeat(Ask("/")), 32)
        outcome = asyncio.run(load.run(seconds))
    finally:
        trouble.over.set()
        trouble.join(90)
        if alive(trouble.master):
            os.kill(trouble.master, signal.SIGTERM)
        eventually(lambda: not alive(trouble.master), "it stops", 60, 0.1)
        running.stop()
    return outcome, trouble


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_nobody_notices_what_is_done_to_the_program(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    outcome, trouble = troubled(EVENER, tmp_path / "evener", SECONDS, seed)
    print(f"evener:   {outcome}; done: {dict(trouble.done)}")
    beside, same = troubled(GUNICORN, tmp_path / "gunicorn", min(SECONDS, 60), seed)
    print(f"gunicorn: {beside}; done: {dict(same.done)}")
    assert not outcome.failures, outcome
    assert set(trouble.done) == {"HUP", "TTIN", "TTOU", "kill", "USR2"}
    assert outcome.answered > 1000 * SECONDS / 10
