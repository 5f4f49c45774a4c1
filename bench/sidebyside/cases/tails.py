"""Case (d): how long fast requests wait while 2 % of all hold their worker's event loop 200 ms.

Open loop, Poisson arrivals by the round's seed, the same for every stack; 64 keep-alive
connections, two workers. `block` sleeps in the loop, `burn` computes. Latencies are those of the
other 98 %, from when they were due. Beside the stacks of two workers: Evener with two that may
become four, and what it replaces, four under gunicorn.
"""

from __future__ import annotations

from dataclasses import replace

from sidebyside.load import Load, Request
from sidebyside.measure import under
from sidebyside.serving import FOUR, RELIEVED, stack
from sidebyside.session import Session

WORKERS = 2
SHARE = 0.02
# So long that p99 of the lowest load has ten requests above it in each round.
SECONDS = {"block": 18.0, "burn": 12.0}
QUICK_SECONDS = 3.0
STACKS = (
    *("evener", RELIEVED, FOUR),
    *("nginx → uvicorn each", "uvicorn --workers", "granian --workers"),
)
LOADS = {"block": (60, 120, 200), "burn": (30, 60, 90)}


def mix(how: str, rate: float) -> Load:
    """Fast requests, and some that hold the loop."""
    right = {"text": "ok"}
    fast = Request("/fast", "fast", 1 - SHARE, expect=right)
    slow = Request(f"/{how}", how, SHARE, expect=right)
    return Load((fast, slow), 64, rate, poisson_seed=1, warm_seconds=1.0)


def measure(session: Session) -> None:
    """All loads over all stacks, in interleaved rounds."""
    makers = {name: stack(name, WORKERS) for name in session.wanted(STACKS)}
    with session.deployed("d", makers) as up:
        for how, rates in LOADS.items():
            for rate in rates:
                name = f"{how}, {rate} a second"
                if not session.wants(name, quick=(how, rate) == ("block", 60)):
                    continue
                seconds = session.seconds(SECONDS[how], QUICK_SECONDS)
                for turn in range(session.rounds()):
                    load = replace(mix(how, rate), poisson_seed=turn + 1)
                    for peer, deployment in up.items():
                        measured = under(load, deployment, seconds, calls=False)
                        session.note("d", name, peer, turn, measured)
