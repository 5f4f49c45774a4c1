"""Writes `bench/REPORT.md` and its plots from the results in `bench/report/results.json`.

    python bench/report.py [--json FILE] [--out FOLDER]

At the top stand the targets, met or missed, and every row in which Evener loses to anybody outside
the noise; nobody writes these by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidebyside import plots, table
from sidebyside.cases import CASES
from sidebyside.numbers import ROUNDS_MIN, SHARE_MIN, Spread, loses
from sidebyside.places import BENCH
from sidebyside.samples import Results, Row
from sidebyside.targets import Outcome, judge

SHOWN_IN_BARS = {
    "b": ("CPU µs per request",),
    "c": ("CPU µs per request", "p99 ms"),
    "d": ("p99 ms",),
    "e": ("failed requests", "worst latency ms"),
    "g": ("seconds to the first answer", "PSS MB"),
}
SHOWN_AS_RATIOS = {"a": ("CPU µs per request", "bytes per idle connection")}


@dataclass(frozen=True)
class Loss:
    """A number in which a peer is better than Evener, in every round."""

    row: Row
    peer: str
    ratio: Spread | None
    """None of failures of which the peer has none."""
    ours: float
    its: float


def main() -> int:
    """Reads the results, writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=BENCH / "report" / "results.json")
    parser.add_argument("--out", type=Path, default=BENCH, help="REPORT.md and report/ go here")
    options = parser.parse_args()
    try:
        results = Results.read(options.json)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        print(f"report: no results of bench/run.py in {options.json}: {error}", file=sys.stderr)
        return 1
    if not results.samples:
        print(f"report: {options.json} has no samples", file=sys.stderr)
        return 1
    folder = options.out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = dict(draw(results))
    for name, picture in drawn.items():
        (folder / name).write_text(picture)
    report = options.out / "REPORT.md"
    report.write_text(text(results, list(drawn)))
    print(f"written to {report}, with {len(drawn)} plots")
    return 0


def text(results: Results, drawn: list[str]) -> str:
    """The whole report."""
    parts = [
        "# Side by side\n",
        "Made by `make bench-report` from `bench/report/results.json`; not edited by hand. What is "
        "measured, how, and why each peer is set up as it is: [README.md](README.md).\n",
        *targets(judge(results)),
        *lost(list(losses(results))),
        *measured_on(results),
    ]
    for case in sorted({sample.case for sample in results.samples}):
        parts += chapter(results, case, drawn)
    return "\n".join(parts).rstrip() + "\n"


def targets(outcomes: list[Outcome]) -> list[str]:
    """The verdict on what was promised."""
    words = [outcome.word for outcome in outcomes]
    missed, met, unknown = (words.count(word) for word in ("missed", "met", "not measured"))
    said = f"**{met} of {len(words)} targets are met, {missed} are missed"
    said += f", {unknown} were not measured.**" if unknown else ".**"
    lines = [["", "target", "at most", "measured: median (minimum–maximum)", "issue"]]
    for outcome in outcomes:
        found = outcome.measured
        shown = _spread(found) if found else ""
        word = f"**{outcome.word}**" if outcome.word == "missed" else outcome.word
        goal = f"{outcome.target.at_most:,g}"
        lines.append([word, outcome.target.title(), goal, shown, str(outcome.target.issue)])
    return ["## Targets\n", said + "\n", table.markdown(lines) + "\n"]


def losses(results: Results) -> Iterator[Loss]:
    """Every number of every row in which Evener is worse than a peer outside noise."""
    for case, variant in results.rows():
        # Evener in another configuration is nobody to lose to.
        peers = [peer for peer in results.peers(case, variant) if not peer.startswith("evener")]
        for metric in table.JUDGED:
            if not table.is_given(variant, metric):
                row = Row(case, variant, metric)
                found = (_loss(results, row, peer) for peer in peers)
                yield from (loss for loss in found if loss is not None)


def _loss(results: Results, row: Row, peer: str) -> Loss | None:
    if row.metric in table.COUNTS:
        ours, its = results.total(row, "evener"), results.total(row, peer)
        if ours is None or its is None or ours <= its:
            return None
        return Loss(row, peer, None, ours, its)
    at = (row.case, row.variant)
    ratios = results.ratios(*at, "evener", peer, row.metric)
    if not loses(ratios, row.metric in table.MORE_IS_BETTER):
        return None
    medians = (Spread.of(results.values(*at, who, row.metric)).median for who in ("evener", peer))
    return Loss(row, peer, Spread.of(ratios), *medians)


def lost(found: list[Loss]) -> list[str]:
    """The rows that Evener loses."""
    parts = ["## Where Evener loses\n"]
    if not found:
        parts.append("In no row, outside noise.\n")
    else:
        rows = {(loss.row.case, loss.row.variant) for loss in found}
        parts.append(
            f"In {len(rows)} rows, {len(found)} numbers in all, a peer is better than Evener.\n"
        )
        lines = [["row", "number", "peer", "Evener's ÷ its", "Evener", "peer's"]]
        lines += [
            [
                *(f"({loss.row.case}) {loss.row.variant}", loss.row.metric, loss.peer),
                _spread(loss.ratio) if loss.ratio else "",
                *(table.number(loss.ours), table.number(loss.its)),
            ]
            for loss in found
        ]
        parts.append(table.markdown(lines) + "\n")
    parts.append(
        f"Counted is what was so in every round, of {ROUNDS_MIN} or more, and by more than "
        f"{SHARE_MIN:.0%} in the median. The latencies of closed loops at saturation go with "
        "the throughput; those that users would notice are in (c) at a fixed load, (d) and (e).\n"
    )
    return parts


def measured_on(results: Results) -> list[str]:
    """Machine, versions, when, and what was left out."""
    parts = ["## Measured on\n"]
    sittings = list(results.sittings.values())
    described: list[dict[str, str]] = []
    for sitting in sittings:
        known = {key: text for key, text in sitting.machine.items() if key != "load before"}
        versions = {name: text for name, text in sitting.versions.items() if name != "evener"}
        if {**known, **versions} not in described:
            described.append({**known, **versions})
            parts.append("- " + ", ".join(f"{key} {text}" for key, text in known.items()))
            parts.append("- " + ", ".join(f"{name} {text}" for name, text in versions.items()))
    lines = [["case", "when", "Evener's commit", "took", "load before", "arguments"]]
    lines += [
        [
            *(sitting.case, sitting.name.partition(" ")[2], sitting.versions.get("evener", "?")),
            *(f"{sitting.seconds:.0f} s", sitting.machine.get("load before", "")),
            f"`{sitting.settings.get('arguments', '')}`",
        ]
        for sitting in sittings
    ]
    parts += ["", table.markdown(lines), ""]
    skipped = list(dict.fromkeys(what for sitting in sittings for what in sitting.skipped))
    if skipped:
        parts += ["Not measured:\n", *(f"- {what.splitlines()[0]}" for what in skipped), ""]
    return parts


def chapter(results: Results, case: str, drawn: list[str]) -> list[str]:
    """A case: its plots, then the table of every variant."""
    parts = [f"## ({case}) {CASES[case].title}\n"]
    parts += [f"![{name}](report/{name})\n" for name in drawn if name.startswith(f"{case}-")]
    for variant in results.variants(case):
        rows = table.rows(results, case, variant)
        rounds = results.rounds(case, variant)
        parts += [f"<details><summary>{variant} ({rounds} rounds)</summary>\n"]
        parts += [table.markdown(rows), "\n</details>\n"]
    return parts


def draw(results: Results) -> Iterator[tuple[str, str]]:
    """All plots, by file name."""
    for case, metrics in SHOWN_AS_RATIOS.items():
        for metric in metrics:
            marks = [
                plots.Mark(variant, peer, Spread.of(found))
                for variant in results.variants(case)
                for peer in results.peers(case, variant)
                if peer != "evener"
                if (found := results.ratios(case, variant, "evener", peer, metric))
            ]
            if marks:
                title = f"({case}) {metric}: Evener's ÷ the peer's; left of 1×, Evener is better"
                yield _file(case, metric), plots.dots(title, marks)
    for case, numbers in SHOWN_IN_BARS.items():
        for metric in numbers:
            marks = [
                plots.Mark(variant, peer, Spread.of(values))
                for variant in results.variants(case)
                for peer in results.peers(case, variant)
                if (values := results.values(case, variant, peer, metric))
            ]
            if marks:
                yield _file(case, metric), plots.bars(f"({case}) {metric}; less is better", marks)


def _file(case: str, metric: str) -> str:
    plain = metric.replace("µ", "u").replace(" ", "-").lower()
    return f"{case}-{plain}.svg"


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return table.number(spread.median)
    ends = f"{table.number(spread.low)}–{table.number(spread.high)}"
    return f"{table.number(spread.median)} ({ends})"


if __name__ == "__main__":
    sys.exit(main())
