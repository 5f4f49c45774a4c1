"""What goes wrong, and what came of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from sidebyside.faults import wire
from sidebyside.faults.arrivals import Arrivals, load
from sidebyside.faults.endpoints import Endpoint, Endpoints
from sidebyside.faults.nameserver import NameServer, address
from sidebyside.faults.proxies import NAME, Make
from sidebyside.places import free_port

RATE = 300.0
LEAD_SECONDS = 1.0
"""All is well for so long first."""
GAP_SECONDS = 1.0
"""An endpoint that is tried no more for so long, where it would get a hundred requests, is out."""
SLOW_SECONDS = 0.1
"""A request that takes longer was noticed; usually it takes a millisecond."""
FLAP_SECONDS = 0.4
SLOW_STEP_SECONDS = 0.1
SLOWEST_SECONDS = 3.0

Over = threading.Event


@dataclass(frozen=True)
class World:
    """What there is to make trouble with."""

    endpoints: Endpoints
    names: NameServer


def _kill(world: World, over: Over) -> None:
    del over
    world.endpoints.bad.signal(signal.SIGKILL)


def _stop(world: World, over: Over) -> None:
    del over
    world.endpoints.bad.signal(signal.SIGSTOP)


def _slow(world: World, over: Over) -> None:
    """A tenth of a second slower each tenth of a second, until it takes three seconds."""
    delay = 0.0
    while delay < SLOWEST_SECONDS and not over.wait(SLOW_STEP_SECONDS):
        delay += SLOW_STEP_SECONDS
        world.endpoints.bad.tell(f"delay {delay:.1f}")


def _flap(world: World, over: Over) -> None:
    while True:
        for order in ("refuse", "accept"):
            world.endpoints.bad.tell(order)
            if over.wait(FLAP_SECONDS):
                return


def _refuse(world: World, over: Over) -> None:
    del over
    world.endpoints.bad.tell("refuse")


def _unavailable(world: World, over: Over) -> None:
    del over
    world.endpoints.bad.tell("status 503")


def _rename(world: World, over: Over) -> None:
    """The name loses the bad address and gets the spare one; what has gone ends later."""
    kept = [one.host for one in world.endpoints.serving if one is not world.endpoints.bad]
    world.names.records[NAME] = [address(host) for host in (*kept, world.endpoints.spare.host)]
    # As whoever moves a service does: not before everybody can have noticed.
    if not over.wait(4 * world.names.ttl):
        world.endpoints.bad.signal(signal.SIGKILL)


@dataclass(frozen=True)
class Happening:
    """One way to go wrong."""

    name: str
    happen: Callable[[World, Over], None]
    by_name: bool = False


HAPPENINGS = {
    one.name: one
    for one in (
        Happening("killed", _kill),
        Happening("stopped", _stop),
        Happening("slower and slower", _slow),
        Happening("flapping", _flap),
        Happening("refusing", _refuse),
        Happening("answering 503", _unavailable),
        Happening("gone from its name", _rename, by_name=True),
    )
}


@dataclass(frozen=True)
class Found:
    """What came of it; times in seconds since it began."""

    arrivals: Arrivals
    noticed: float
    """The last request that failed or took longer than 0.1 s was due then; 0: none did."""
    out: float | None
    """When the bad one was tried for the last time before a second without; `None`: never."""
    tries_later: int | None
    """How often it was tried after that; `None`: nobody could look."""

    def values(self) -> dict[str, float]:
        """As the bench notes them."""
        values = {
            "failed requests": float(sum(self.arrivals.failures.values())),
            "p99 ms": self.arrivals.quantile(0.99) * 1000,
            "worst latency ms": self.arrivals.worst() * 1000,
            "noticed for ms": self.noticed * 1000,
        }
        if self.out is not None:
            values["out after ms"] = self.out * 1000
        if self.tries_later is not None:
            values["tries after"] = float(self.tries_later)
        return values


def witness(happening: Happening, make: Make, seconds: float, rate: float = RATE) -> Found:
    """Lets it happen to one proxy, with endpoints of its own, for so long."""
    with ExitStack() as stack:
        endpoints = stack.enter_context(Endpoints(free_port(), free_port()))
        names = stack.enter_context(NameServer())
        names.records[NAME] = [address(one.host) for one in endpoints.serving]
        world = World(endpoints, names)
        proxy = make(endpoints, names.address, happening.by_name)
        proxy.start()
        stack.callback(proxy.stop)
        over = Over()
        began: list[float] = []

        def later() -> None:
            time.sleep(LEAD_SECONDS)
            began.append(time.monotonic())
            happening.happen(world, over)

        watch = stack.enter_context(_watch(endpoints.bad)) if wire.can_look() else None
        thread = threading.Thread(target=later)
        thread.start()
        port = int(proxy.address.rpartition(":")[2])
        arrivals = load(port, rate, LEAD_SECONDS + seconds)
        ended = time.monotonic()
        over.set()
        thread.join()
    tries = [when - began[0] for when in watch.tries() if when >= began[0]] if watch else None
    noticed = arrivals.noticed_until(SLOW_SECONDS)
    out, later_tries = _out(tries, ended - began[0]) if tries is not None else (None, None)
    since = max(0.0, noticed - began[0]) if noticed is not None else 0.0
    return Found(arrivals, since, out, later_tries)


def _watch(endpoint: Endpoint) -> wire.Wire:
    return wire.Wire(endpoint.host, endpoint.port)


def _out(tries: list[float], end: float) -> tuple[float | None, int]:
    """When the first long gap begins, and how many tries come after it."""
    last = 0.0
    for number, when in enumerate(tries):
        if when - last >= GAP_SECONDS:
            return last, len(tries) - number
        last = when
    return (last, 0) if end - last >= GAP_SECONDS else (None, 0)
