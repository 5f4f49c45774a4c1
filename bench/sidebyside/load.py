"""Plans for the load generator, and what it found. Times in results are microseconds."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sidebyside.places import LOAD_CPU, program


@dataclass(frozen=True)
class Request:
    """One class of requests."""

    path: str
    name: str = "all"
    share: float = 1.0
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    body_bytes: int = 0
    expect: Any = "any"
    """`any`, `{"text": …}` or `{"filled": bytes}`."""

    def as_plan(self) -> dict[str, Any]:
        """As the generator reads it."""
        return {
            "name": self.name,
            "share": self.share,
            "method": self.method,
            "path": self.path,
            "headers": [list(pair) for pair in self.headers],
            "body": self.body,
            "body_bytes": self.body_bytes,
            "expect": self.expect,
        }


@dataclass(frozen=True)
class Load:
    """What is sent, and how."""

    requests: tuple[Request, ...]
    connections: int = 64
    rate: float | None = None
    """Requests a second, open loop; none: closed loop, as fast as it goes."""
    poisson_seed: int | None = None
    reuse: bool = True
    protocol: str = "http"
    warm_seconds: float = 0.7
    patience_seconds: float = 10.0


def _plan(load: Load, address: str, seconds: float, mode: dict[str, Any]) -> dict[str, Any]:
    return {
        "address": address,
        "connections": load.connections,
        "reuse": load.reuse,
        "protocol": load.protocol,
        "warm_seconds": load.warm_seconds,
        "seconds": seconds,
        "patience_seconds": load.patience_seconds,
        "mode": mode,
        "classes": [request.as_plan() for request in load.requests],
    }


class LoadFailedError(Exception):
    """The generator itself failed."""


@dataclass
class Generator:
    """The generator at work. Use as a context manager."""

    load: Load
    address: str
    seconds: float
    hold: bool = False
    process: subprocess.Popen[str] = field(init=False)
    plan: str = field(init=False)

    def __enter__(self) -> Self:
        load = program("load")
        if load is None:
            raise LoadFailedError("the load generator is not built; python bench/install.py")
        mode: dict[str, Any] = {"kind": "closed"}
        if self.hold:
            mode = {"kind": "hold"}
        elif self.load.rate is not None:
            mode = {
                "kind": "open",
                "rate": self.load.rate,
                "poisson_seed": self.load.poisson_seed,
            }
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as plan:
            json.dump(_plan(self.load, self.address, self.seconds, mode), plan)
        self.plan = plan.name
        self.process = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CPU), str(load), plan.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        Path(self.plan).unlink()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Reads until this event."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        assert self.process.stderr is not None
        words = self.process.stderr.read().strip()
        raise LoadFailedError(f"no '{event}' from the load generator: {words}")

    def release(self) -> None:
        """Lets held connections go."""
        assert self.process.stdin is not None
        self.process.stdin.close()


def run(
    load: Load,
    address: str,
    seconds: float,
    at_begin: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Loads the address; calls back at both edges of the window; gives the generator's result."""
    with Generator(load, address, seconds) as generator:
        generator.wait_for("begin")
        at_begin()
        generator.wait_for("end")
        at_end()
        return generator.wait_for("result")


def failures(result: dict[str, Any]) -> dict[str, int]:
    """All failures of a result by kind."""
    kinds: dict[str, int] = {}
    for tally in result.get("classes", {}).values():
        for kind, count in tally["failures"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    for kind in ("lost", "broken"):
        if result.get(kind):
            kinds[kind] = result[kind]
    return kinds
