"""Case (g): seconds from the command to the first right answer, and memory at rest after it."""

from __future__ import annotations

import time

from sidebyside import usage
from sidebyside.measure import Measured
from sidebyside.serving import STACKS, stack
from sidebyside.session import Session

WORKERS = 2
REST_SECONDS = 1.5
VARIANT = "FastAPI, two workers"


def measure(session: Session) -> None:
    """Starts every stack afresh, in interleaved rounds."""
    if not session.wants(VARIANT, quick=True):
        return
    for turn in range(session.rounds()):
        for peer in session.wanted(STACKS):
            began = time.monotonic()
            with session.deployed("g", {peer: stack(peer, WORKERS)}) as up:
                took = time.monotonic() - began
                for deployment in up.values():
                    # The last worker may still be coming up; then it has come to rest.
                    time.sleep(REST_SECONDS)
                    memory = usage.memory(deployment.counted())
                    values = {
                        "seconds to the first answer": took,
                        "RSS MB": memory.rss / 1e6,
                        "PSS MB": memory.pss / 1e6,
                    }
                    session.note("g", VARIANT, peer, turn, Measured(values, {}, {}))
