"""One peer, one load, one window: what it cost and what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sidebyside import usage
from sidebyside.load import Generator, Load, failures, run
from sidebyside.running import Deployment

SYSTEM_CALL_SECONDS = 0.5


@dataclass(frozen=True)
class Measured:
    """Numbers by name (units in the names), failures by kind."""

    values: dict[str, float]
    failures: dict[str, int]
    result: dict[str, Any]


def under(load: Load, deployment: Deployment, seconds: float, calls: bool = True) -> Measured:
    """Loads a running deployment for one window."""
    edges: list[usage.Cpu] = []
    moments: list[float] = []
    memory: list[usage.Memory] = []
    roots = deployment.counted()

    def edge() -> None:
        edges.append(usage.cpu(roots))
        moments.append(time.monotonic())

    def end() -> None:
        edge()
        memory.append(usage.memory(roots))

    result = run(load, deployment.address, seconds, edge, end)
    done = result["done_in_window"]
    values = {
        "requests a second": done / seconds,
        "RSS MB": memory[0].rss / 1e6,
        "PSS MB": memory[0].pss / 1e6,
    }
    spent = usage.cpu_seconds(edges[0], edges[1])
    if done:
        values["CPU µs per request"] = spent / done * 1e6
    values["CPU share"] = spent / (moments[1] - moments[0])
    values |= latencies(result)
    if calls and done:
        values |= _system_calls(load, deployment)
    return Measured(values, failures(result), result)


def latencies(result: dict[str, Any]) -> dict[str, float]:
    """Milliseconds: of all requests, or of the class `fast` if there are several classes."""
    classes = result.get("classes", {"all": {"latency_us": result.get("age_us")}})
    tally = classes.get("fast") or next(iter(classes.values()))
    found = tally["latency_us"]
    quantiles = ("p50", "p99", "p99.9", "max")
    return {f"{name} ms": found[name] / 1000 for name in quantiles} if found["count"] else {}


def _system_calls(load: Load, deployment: Deployment) -> dict[str, float]:
    """System calls per request, in a short window of its own, because counting them costs."""
    counter = usage.SystemCalls(deployment.counted())
    counts: list[int | None] = []
    result = run(
        load,
        deployment.address,
        SYSTEM_CALL_SECONDS,
        counter.start,
        lambda: counts.append(counter.stop()),
    )
    if not counts or counts[0] is None or not result["done_in_window"]:
        return {}
    return {"system calls per request": counts[0] / result["done_in_window"]}


def idle_memory(load: Load, deployment: Deployment, connections: int) -> dict[str, float]:
    """Bytes for each idle connection, in user space, after one request on each."""
    roots = deployment.counted()
    run(load, deployment.address, 0.5)
    before = usage.memory(roots)
    held = Load(load.requests, connections=connections)
    with Generator(held, deployment.address, 0, hold=True) as generator:
        generator.wait_for("held")
        after = usage.memory(roots)
        generator.release()
        closed = generator.wait_for("result")["closed"]
    return {
        "bytes per idle connection": (after.pss - before.pss) / connections,
        "closed by the server": closed,
        "PSS MB": after.pss / 1e6,
        "RSS MB": after.rss / 1e6,
    }
