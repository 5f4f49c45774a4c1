"""Case (a): reverse proxies in front of the same origin, four endpoints, keep-alive both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sidebyside.load import Load, Request
from sidebyside.measure import Measured, idle_memory, under
from sidebyside.places import LOAD_CPU, free_port
from sidebyside.proxies import PROXIES, need
from sidebyside.running import Command, Deployment
from sidebyside.session import Session

IDLE_CONNECTIONS = 5000


@dataclass(frozen=True)
class Variant:
    """One load."""

    load: Load
    large: bool = False
    """Whether bodies are so large that nginx gets other buffers for them."""
    quick: bool = False
    main: bool = False
    """Measured in more rounds, and with system calls counted."""


def _get(size: int) -> tuple[Request, ...]:
    return (Request(f"/bytes/{size}", expect={"filled": size}),)


def _post(size: int) -> tuple[Request, ...]:
    right = {"text": f"received {size}"}
    return (Request("/upload", method="POST", body_bytes=size, expect=right),)


def variants() -> dict[str, Variant]:
    """All loads of this case, by name."""
    found = {}
    sizes = {"100 B": 100, "1 kB": 1024, "16 kB": 16384, "1 MB": 1 << 20}
    for name, size in sizes.items():
        for connections in (1, 64, 512):
            quick = connections == 64 and name in ("1 kB", "16 kB")
            main = quick or (size < 1 << 20 and connections == 64)
            load = Load(_get(size), connections)
            found[f"{name} × {connections}"] = Variant(load, size > 65536, quick, main)
    for name, size in {"1 kB": 1024, "1 MB": 1 << 20}.items():
        for connections in (1, 64, 512):
            load = Load(_post(size), connections)
            found[f"upload {name} × {connections}"] = Variant(load, size > 65536)
    load = Load(_get(1024), 16, reuse=False)
    found["new connection each, 1 kB × 16"] = Variant(load, main=True)
    echo = (Request("/echo", body="x" * 100),)
    found["WebSocket echo 100 B × 64"] = Variant(Load(echo, 64, protocol="websocket"))
    events = (Request("/events"),)
    found["SSE fan-out × 200"] = Variant(Load(events, 200, protocol="events"))
    return found


def origin() -> tuple[Command, list[str]]:
    """The origin, on the load's core, listening as four endpoints."""
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    arguments = [need("origin"), *endpoints]
    command = Command("origin", arguments, endpoints[-1], cpu=LOAD_CPU, counted=False)
    return command, endpoints


def measure(session: Session) -> None:
    """All variants over all proxies, in interleaved rounds."""
    command, endpoints = origin()
    upstream = Deployment(endpoints[0], [command])
    upstream.start()
    try:
        names = session.wanted(PROXIES)
        for large in (False, True):
            chosen = {
                name: variant
                for name, variant in variants().items()
                if variant.large == large and session.wants(name, variant.quick)
            }
            if chosen:
                _side_by_side(session, names, endpoints, chosen, large)
        if session.wants("idle connections × 5000", quick=False):
            _idle(session, names, endpoints)
    finally:
        upstream.stop()


def _maker(name: str, endpoints: list[str], large: bool) -> Callable[[], Deployment]:
    return lambda: PROXIES[name](endpoints, large)


def _side_by_side(
    session: Session,
    names: list[str],
    endpoints: list[str],
    chosen: dict[str, Variant],
    large: bool,
) -> None:
    makers = {name: _maker(name, endpoints, large) for name in names}
    with session.deployed("a", makers) as up:
        for name, variant in chosen.items():
            # A shared machine has fast and slow seconds: more rounds make the median steadier than
            # longer ones do.
            seconds = session.seconds(1.0, quick=1.0)
            load = replace(variant.load, warm_seconds=0.3)
            for turn in range(session.rounds(9 if variant.main else 3)):
                calls = variant.main and turn == 0 and not session.quick
                for peer, deployment in up.items():
                    measured = under(load, deployment, seconds, calls)
                    session.note("a", name, peer, turn, measured)


def _idle(session: Session, names: list[str], endpoints: list[str]) -> None:
    load = Load(_get(100), connections=1, warm_seconds=0.2)
    for turn in range(session.rounds()):
        for name in names:
            # Afresh: memory that an earlier load has left would hide what a connection takes.
            with session.deployed("a", {name: _maker(name, endpoints, False)}) as up:
                for peer, deployment in up.items():
                    values = idle_memory(load, deployment, IDLE_CONNECTIONS)
                    measured = Measured(values, {}, {})
                    session.note("a", "idle connections × 5000", peer, turn, measured)
