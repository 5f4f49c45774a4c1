"""Case (c): whole stacks with two workers, at saturation and at a fixed offered load."""

from __future__ import annotations

from sidebyside.cases.servers import GET, POST
from sidebyside.load import Load
from sidebyside.measure import under
from sidebyside.serving import STACKS, stack
from sidebyside.session import Session

WORKERS = 2
OFFERED = 1000.0
VARIANTS = {
    "FastAPI GET, saturated": (Load((GET,), 64), True),
    "FastAPI POST 1 kB, saturated": (Load((POST,), 64), False),
    "FastAPI GET, 1,000 a second offered": (Load((GET,), 64, OFFERED, poisson_seed=1), False),
}


def measure(session: Session) -> None:
    """All loads over all stacks, in interleaved rounds."""
    makers = {name: stack(name, WORKERS) for name in session.wanted(STACKS)}
    with session.deployed("c", makers) as up:
        for name, (load, quick) in VARIANTS.items():
            if not session.wants(name, quick):
                continue
            seconds = session.seconds(3.0, quick=1.0)
            for turn in range(session.rounds()):
                calls = turn == 0 and not session.quick
                for peer, deployment in up.items():
                    measured = under(load, deployment, seconds, calls)
                    session.note("c", name, peer, turn, measured)
