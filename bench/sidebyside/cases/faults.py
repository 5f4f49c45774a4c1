"""Case (j): endpoints that go wrong under load, and what clients notice of it.

Three endpoints, 300 GETs a second at fixed moments. One of the endpoints is killed, stopped, gets
slower and slower, flaps, refuses, answers 503, or loses its place in DNS. The others could answer
everything, so every failed request is the proxy's. When the bad one is out is seen on the wire.
"""

from __future__ import annotations

from sidebyside.faults import wire
from sidebyside.faults.happenings import HAPPENINGS, witness
from sidebyside.faults.proxies import makers
from sidebyside.measure import Measured
from sidebyside.proxies import MissingError
from sidebyside.running import StartFailedError
from sidebyside.session import Session

SECONDS = 12.0
QUICK_SECONDS = 3.0


def measure(session: Session) -> None:
    """All that can happen to all proxies; each has endpoints of its own."""
    makes = makers()
    if not wire.can_look():
        session.skip("(j) when an endpoint is out: only root sees what goes over the wire")
    for name, happening in HAPPENINGS.items():
        if not session.wants(name, quick=False):
            continue
        for turn in range(session.rounds()):
            for peer in session.wanted(makes):
                seconds = session.seconds(SECONDS, QUICK_SECONDS)
                try:
                    found = witness(happening, makes[peer], seconds)
                except (MissingError, StartFailedError) as error:
                    session.skip(f"(j) {peer}: {error}")
                    continue
                failures = dict(found.arrivals.failures)
                session.note("j", name, peer, turn, Measured(found.values(), failures, {}))
