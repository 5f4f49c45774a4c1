"""Requests that hold their worker's event loop leave one worker free for all others."""

import threading
from collections import Counter
from pathlib import Path

from running import Evener, Start, eventually
from test_recycling import begin

HELD = "/stuck?seconds=0.5"
"""Long enough that nothing else can be taken for it."""


def taught(start: Start, folder: Path, *more: str) -> Evener:
    """Two workers, and their edge has seen what `/stuck` does."""
    evener = begin(start, folder, "--workers", "2", *more, workers=2)
    for _ in range(4):
        assert evener.get(HELD).status == 200
    return evener


class Holding:
    """So many of them at once, until all are answered."""

    def __init__(self, evener: Evener, count: int, target: str = HELD) -> None:
        self.workers: list[str] = []
        self.threads = [
            threading.Thread(target=self._ask, args=(evener, target)) for _ in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def join(self) -> list[str]:
        """Waits until all are answered; returns by which workers."""
        for thread in self.threads:
            thread.join()
        return self.workers

    def _ask(self, evener: Evener, target: str) -> None:
        answer = evener.get(target)
        assert answer.status == 200
        self.workers.append(answer.body.decode().split()[0])

    @property
    def goes_on(self) -> bool:
        """Whether some are not answered."""
        return any(thread.is_alive() for thread in self.threads)


def stalled(evener: Evener) -> int:
    """Workers that stand still right now."""
    return sum(bool(worker["stalled"]) for worker in evener.workers())


def test_others_are_answered_all_the_time(start: Start, tmp_path: Path) -> None:
    evener = taught(start, tmp_path)
    holding = Holding(evener, 3)
    eventually(lambda: stalled(evener) == 1, "one holds its worker")
    answered: Counter[int] = Counter()
    while holding.goes_on:
        over = len(holding.workers)
        assert evener.get("/").status == 200
        answered[over] += 1
    assert len(holding.join()) == 3, "those that wait are answered too"
    # While the first held its loop, and while the second did.
    assert answered[0] >= 5, answered
    assert answered[1] >= 5, answered


def test_it_can_be_switched_off(start: Start, tmp_path: Path) -> None:
    evener = taught(start, tmp_path, "--no-bulkhead")
    holding = Holding(evener, 2)
    eventually(lambda: stalled(evener) == 2, "both workers are held")
    assert len(set(holding.join())) == 2


def test_nothing_is_kept_free_for_nobody(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    holds = "/stuck?seconds=0.03"
    for _ in range(40):
        assert len(Holding(evener, 2, holds).join()) == 2
    workers: Counter[str] = Counter()
    for _ in range(20):
        workers.update(Holding(evener, 4, holds).join())
    assert len(workers) == 2, workers
    assert min(workers.values()) >= 20, workers
