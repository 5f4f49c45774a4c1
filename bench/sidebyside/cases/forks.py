"""Case (h): one more worker: milliseconds from the decision until it is ready, memory it adds.

Workers that import the application each for themselves beside workers that are forked from a
nursery that has (`--preload`). Memory is what the PSS of the whole tree grows by, so what workers
share is counted once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from typing import Any

from sidebyside import usage
from sidebyside.measure import Measured
from sidebyside.running import Deployment
from sidebyside.serving import stack
from sidebyside.session import Session
from sidebyside.targets import FORKED, ONE_MORE

LEAST, MOST = 2, 6
TIMES = 3
WAIT_SECONDS = 60.0
REST_SECONDS = 0.5


def measure(session: Session) -> None:
    """Adds workers one by one and takes them away again."""
    if not session.wants(ONE_MORE, quick=False):
        return
    for turn in range(session.rounds()):
        for peer in session.wanted(("evener", FORKED)):
            with session.deployed("h", {peer: stack(peer, LEAST)}) as up:
                for deployment in up.values():
                    session.note("h", ONE_MORE, peer, turn, _grow(deployment))


def _grow(deployment: Deployment) -> Measured:
    took: list[float] = []
    added: list[float] = []
    _scale(deployment, LEAST)
    for _ in range(TIMES):
        before = usage.memory(deployment.counted()).pss
        for count in range(LEAST + 1, MOST + 1):
            workers = _scale(deployment, count)
            took.append(workers[-1]["startup_ms"])
        added.append((usage.memory(deployment.counted()).pss - before) / (MOST - LEAST))
        _scale(deployment, LEAST)
    values = {
        "ms until it is ready": statistics.median(took),
        "slowest ms": max(took),
        "PSS MB it adds": statistics.median(added) / 1e6,
    }
    return Measured(values, {}, {})


def _scale(deployment: Deployment, count: int) -> list[dict[str, Any]]:
    """Has so many workers run, and returns them, the youngest last."""
    _ask(deployment, "scale", str(count))
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        workers: list[dict[str, Any]] = _ask(deployment, "workers")["workers"]
        if len(workers) == count and all(worker["state"] == "ready" for worker in workers):
            time.sleep(REST_SECONDS)
            return workers
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} workers: there are {workers}")
        time.sleep(0.05)


def _ask(deployment: Deployment, *words: str) -> Any:
    arguments = deployment.commands[0].arguments
    admin = arguments[arguments.index("--admin") + 1]
    command = [arguments[0], *words, "--json", "--admin", admin]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
