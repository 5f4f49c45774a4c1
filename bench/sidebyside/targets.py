"""What Evener has to reach, as its issues say it, and whether a measurement shows it."""

from __future__ import annotations

from dataclasses import dataclass

from sidebyside.faults.happenings import HAPPENINGS
from sidebyside.numbers import Spread
from sidebyside.samples import Results

EACH_NGINX = "nginx → uvicorn each"
SPOKEN = (
    "HTTP/2, 1 stream",
    "HTTP/2, 10 streams",
    "HTTP/2 over TLS 1.3, 1 stream",
    "HTTP/2 over TLS 1.3, 10 streams",
    "HTTP/1.1 over TLS 1.3",
)
RELIEVED = "evener 2..4"
FORKED = "evener --preload"
ONE_MORE = "FastAPI, one worker more"


@dataclass(frozen=True)
class Target:
    """At most so much of a peer's number in the same round; without a peer, the number itself."""

    issue: int
    case: str
    variant: str
    metric: str
    at_most: float
    peer: str | None = None
    who: str = "evener"

    def title(self) -> str:
        """In words."""
        than = f" ÷ {self.peer}'s" if self.peer else ""
        return f"({self.case}) {self.variant}: {self.metric}{than}"


@dataclass(frozen=True)
class Outcome:
    """A target and what was measured of it."""

    target: Target
    measured: Spread | None

    @property
    def word(self) -> str:
        """`met`, `missed`, or `not measured`. Of failed requests the worst round counts."""
        if self.measured is None:
            return "not measured"
        strict = self.target.at_most == 0
        counts = self.measured.high if strict else self.measured.median
        return "met" if counts <= self.target.at_most else "missed"


def _cpu(issue: int, case: str, variant: str, peer: str, at_most: float) -> Target:
    return Target(issue, case, variant, "CPU µs per request", at_most, peer)


def _fast(issue: int, variant: str, peer: str, at_most: float) -> Target:
    return Target(issue, "d", variant, "p99 ms", at_most, peer)


TARGETS = (
    _cpu(4, "a", "1 kB × 64", "nginx", 0.80),
    _cpu(2, "a", "1 kB × 64", "nginx", 0.90),
    _cpu(4, "a", "16 kB × 64", "nginx", 0.62),
    _cpu(2, "a", "16 kB × 64", "nginx", 0.70),
    Target(2, "a", "idle connections × 5000", "bytes per idle connection", 3000),
    _cpu(3, "b", "raw ASGI", "uvicorn", 0.45),
    _cpu(3, "b", "FastAPI GET", "uvicorn", 0.78),
    _cpu(3, "b", "FastAPI POST 1 kB", "uvicorn", 0.80),
    _cpu(3, "b", "stream of 20 chunks", "uvicorn", 0.35),
    _cpu(3, "b", "FastAPI sync", "uvicorn", 1.05),
    _cpu(4, "c", "FastAPI GET, saturated", "uvicorn --workers", 0.85),
    _cpu(3, "c", "FastAPI GET, saturated", "uvicorn --workers", 0.90),
    _cpu(3, "c", "FastAPI GET, saturated", EACH_NGINX, 0.72),
    _fast(4, "block, 60 a second", EACH_NGINX, 0.75),
    _fast(4, "block, 120 a second", EACH_NGINX, 0.75),
    _fast(4, "block, 200 a second", EACH_NGINX, 0.75),
    _fast(4, "burn, 30 a second", EACH_NGINX, 0.75),
    _fast(4, "burn, 60 a second", EACH_NGINX, 0.75),
    _fast(4, "burn, 90 a second", EACH_NGINX, 0.75),
    _fast(3, "block, 60 a second", "uvicorn --workers", 0.45),
    Target(6, "d", "block, 60 a second", "p99 ms", 10, who=RELIEVED),
    Target(6, "h", ONE_MORE, "ms until it is ready", 60, who=FORKED),
    Target(6, "h", ONE_MORE, "PSS MB it adds", 0.5, "evener", who=FORKED),
    *(_cpu(5, "i", f"{way}, {size} kB", "nginx", 1.0) for way in SPOKEN for size in (1, 100)),
    *(Target(5, "j", name, "failed requests", 0) for name in HAPPENINGS),
    Target(4, "e", "reload", "failed requests", 0),
    Target(4, "e", "kill -9 of a worker, twice", "failed requests", 0),
    Target(4, "e", "recycle after 3000 requests", "failed requests", 0),
)


def judge(results: Results) -> list[Outcome]:
    """Every target, the missed ones first, those that were not measured last."""
    outcomes = []
    for target in TARGETS:
        row = (target.case, target.variant)
        if target.peer is None:
            found = results.values(*row, target.who, target.metric)
        else:
            found = results.ratios(*row, target.who, target.peer, target.metric)
        outcomes.append(Outcome(target, Spread.of(found) if found else None))
    order = ("missed", "met", "not measured")
    return sorted(outcomes, key=lambda outcome: order.index(outcome.word))
