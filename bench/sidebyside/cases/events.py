"""Case (e): what clients notice of a reload, a killed worker, recycling, and scaling.

Closed loop over 32 keep-alive connections, two workers, GETs that wait 20 ms in the application as
for a query, so that many are always in flight. A client here tries nothing twice: an answer that
does not come is a failed request. The event comes a fifth of the way into the window.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sidebyside.load import Generator, Load, Request, failures
from sidebyside.measure import Measured, latencies
from sidebyside.running import Deployment
from sidebyside.serving import stack
from sidebyside.session import Session

WORKERS = 2
# So long, because some servers take long to replace two workers.
SECONDS = 12.0
QUICK_SECONDS = 3.0
# granian takes a worker that ends twice within 5.5 s for a crash loop, and ends itself.
BETWEEN_KILLS = 6.5
LOAD = Load((Request("/wait", expect={"text": "ok"}),), 32)
STACKS = ("evener", "nginx → gunicorn", "nginx → granian", "uvicorn --workers", "granian --workers")
RECYCLE_AFTER = 3000
RECYCLE = {
    "evener": ["--limit-max-requests", str(RECYCLE_AFTER)],
    "nginx → gunicorn": ["--max-requests", str(RECYCLE_AFTER)],
    "uvicorn --workers": ["--limit-max-requests", str(RECYCLE_AFTER)],
}
# By SIGTTIN and SIGTTOU to the supervisor; granian has nothing like it.
SCALE: dict[str, list[str]] = {"evener": [], "nginx → gunicorn": [], "uvicorn --workers": []}


@dataclass(frozen=True)
class Event:
    """Something that happens to a stack under load."""

    happen: Callable[[Deployment, float], None]
    flags: dict[str, list[str]] | None = None
    """Flags that bring it about; stacks without any cannot do it."""


def _reload(deployment: Deployment, seconds: float) -> None:
    del seconds
    assert deployment.reload is not None
    deployment.reload(deployment)


def _kill(deployment: Deployment, seconds: float) -> None:
    """Two kills, if the window is long enough for both."""
    assert deployment.workers is not None
    for turn in range(2 if seconds >= SECONDS else 1):
        if turn:
            time.sleep(BETWEEN_KILLS)
        workers = deployment.workers(deployment)
        if workers:
            os.kill(random.Random(turn).choice(workers), signal.SIGKILL)


def _nothing(deployment: Deployment, seconds: float) -> None:
    del deployment, seconds


def _scale(deployment: Deployment, seconds: float) -> None:
    """Two workers more, and after a third of the window two fewer."""
    supervisor = deployment.pid("app")
    for order in (signal.SIGTTIN, signal.SIGTTOU):
        for _ in range(2):
            os.kill(supervisor, order)
            # Orders of one kind that meet are one order.
            time.sleep(0.2)
        time.sleep(seconds / 3)


EVENTS = {
    "reload": Event(_reload),
    "kill -9 of a worker, twice": Event(_kill),
    f"recycle after {RECYCLE_AFTER} requests": Event(_nothing, RECYCLE),
    "scale from 2 workers to 4 and back": Event(_scale, SCALE),
}


def measure(session: Session) -> None:
    """All events over all stacks; every stack afresh, because events leave traces."""
    for name, event in EVENTS.items():
        if not session.wants(name, quick=name == "reload"):
            continue
        for turn in range(session.rounds()):
            for peer in session.wanted(STACKS):
                if event.flags is not None and peer not in event.flags:
                    session.skip(f"(e) {name}: {peer} has no such thing")
                    continue
                flags = (event.flags or {}).get(peer, [])
                with session.deployed("e", {peer: stack(peer, WORKERS, flags)}) as up:
                    for deployment in up.values():
                        measured = _one(event, deployment, session.seconds(SECONDS, QUICK_SECONDS))
                        session.note("e", name, peer, turn, measured)


def _one(event: Event, deployment: Deployment, seconds: float) -> Measured:
    with Generator(LOAD, deployment.address, seconds) as generator:
        generator.wait_for("begin")

        def later() -> None:
            time.sleep(seconds / 5)
            event.happen(deployment, seconds)

        thread = threading.Thread(target=later)
        thread.start()
        result = generator.wait_for("result")
        thread.join()
    found = latencies(result)
    values = {
        "failed requests": float(sum(failures(result).values())),
        "worst latency ms": found.get("max ms", 0.0),
        "reconnects": result["reconnects"],
        "requests a second": result["done_in_window"] / seconds,
    }
    return Measured(values, failures(result), result)
