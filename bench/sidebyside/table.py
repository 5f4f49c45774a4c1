"""Results as tables of text: one for each variant, one line for each peer."""

from __future__ import annotations

from sidebyside.numbers import Spread
from sidebyside.samples import Results

METRICS = {
    "CPU µs per request": "CPU µs/req",
    "requests a second": "req/s",
    "p50 ms": "p50 ms",
    "p99 ms": "p99 ms",
    "p99.9 ms": "p99.9 ms",
    "max ms": "max ms",
    "RSS MB": "RSS MB",
    "PSS MB": "PSS MB",
    "bytes per idle connection": "B/idle conn",
    "system calls per request": "syscalls/req",
    "seconds to the first answer": "start s",
    "ms until it is ready": "ready ms",
    "slowest ms": "slowest ms",
    "PSS MB it adds": "adds PSS MB",
    "failed requests": "failed",
    "reconnects": "reconnects",
    "worst latency ms": "worst ms",
    "noticed for ms": "noticed ms",
    "out after ms": "out after ms",
    "tries after": "tries later",
    "errors": "errors",
}
"""What is shown, in order, and its short name."""

JUDGED = (
    "CPU µs per request",
    "requests a second",
    "p99 ms",
    "PSS MB",
    "bytes per idle connection",
    "system calls per request",
    "seconds to the first answer",
    "ms until it is ready",
    "PSS MB it adds",
    "worst latency ms",
    "failed requests",
    "errors",
)
"""What is said to be better or worse; the rest goes with it, or is there to explain."""
COUNTS = {"failed requests", "errors"}
"""Of these none is right, and one is wrong."""
MORE_IS_BETTER = {"requests a second"}
RATIOS = {"CPU µs per request", "p99 ms", "bytes per idle connection", "worst latency ms"}
RATIOS |= {"seconds to the first answer", "ms until it is ready", "PSS MB it adds"}


def is_given(variant: str, metric: str) -> bool:
    """Whether the load fixes this number: the rate of an open loop or of a stream of events."""
    return metric == "requests a second" and ("a second" in variant or "SSE" in variant)


def number(value: float) -> str:
    """With as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> str:
    """Median (minimum to maximum)."""
    found = Spread.of(values)
    if len(values) == 1 or found.low == found.high:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def rows(results: Results, case: str, variant: str) -> list[list[str]]:
    """A heading and a line for each peer: the numbers, failures, and Evener's ratio to it."""
    peers = results.peers(case, variant)
    shown = [
        metric
        for metric in METRICS
        if any(results.values(case, variant, peer, metric) for peer in peers)
    ]
    ratio = next((metric for metric in shown if metric in RATIOS), None)
    if case == "d":
        ratio = "p99 ms"
    heading = ["peer", *(METRICS[metric] for metric in shown), "errors"]
    if ratio:
        heading.append(f"Evener's {METRICS[ratio]} ÷ its")
    lines = [heading]
    for peer in peers:
        line = [peer]
        for metric in shown:
            values = results.values(case, variant, peer, metric)
            line.append(spread(values) if values else "")
        line.append(errors(results, case, variant, peer))
        if ratio:
            found = results.ratios(case, variant, "evener", peer, ratio)
            line.append(spread(found) if found and peer != "evener" else "")
        lines.append(line)
    return lines


def errors(results: Results, case: str, variant: str, peer: str) -> str:
    """All failures of a peer in a variant, by kind."""
    kinds = results.failures(case, variant, peer)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "0"


def text(lines: list[list[str]]) -> str:
    """Aligned columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(lines: list[list[str]]) -> str:
    """The same as a Markdown table."""
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|" + "---|" * len(lines[0])
    return "\n".join([head, rule, *rest])
