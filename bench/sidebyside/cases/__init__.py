"""The cases, one file each; each has a title and a function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidebyside.cases import (
    events,
    faults,
    forks,
    guards,
    protocols,
    proxy,
    servers,
    stacks,
    start,
    tails,
)
from sidebyside.session import Session


@dataclass(frozen=True)
class Case:
    """One case of the contract."""

    title: str
    measure: Callable[[Session], None]


CASES = {
    "a": Case("proxy: the data plane alone", proxy.measure),
    "b": Case("app servers, one worker", servers.measure),
    "c": Case("the whole stack, two workers", stacks.measure),
    "d": Case("tails: 2 % of requests hold the event loop", tails.measure),
    "e": Case("events under load", events.measure),
    "f": Case("guards on against off", guards.measure),
    "g": Case("start and rest", start.measure),
    "h": Case("one more worker: time until it is ready, memory it adds", forks.measure),
    "i": Case("what clients speak: HTTP/2 and TLS 1.3", protocols.measure),
    "j": Case("endpoints that go wrong under load", faults.measure),
}
