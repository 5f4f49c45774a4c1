"""Says what changed between two measurements, and whether it is more than noise.

    python bench/compare.py BEFORE.json AFTER.json [--peer evener] [--raw] [--all]

The machine may have been quicker on one day than on the other. So where both files have the same
other peers in a row, a peer's number is divided by the geometric mean of the others' in the same
round, and these are compared: what all have in common falls out. `--raw` compares the bare numbers.
A verdict is given only outside the noise (`numbers.verdict`). The exit status is 0 if nothing is
worse, 1 if something is, 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from sidebyside import table
from sidebyside.numbers import Spread, verdict
from sidebyside.samples import Results


@dataclass(frozen=True)
class Row:
    """One number of one variant."""

    case: str
    variant: str
    metric: str


@dataclass(frozen=True)
class Change:
    """One number, before and after."""

    row: Row
    ratio: float
    word: str
    others: int = 0
    """By how many other peers both were divided."""


def main() -> int:
    """Reads, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--peer", default="evener", help="whose numbers; default evener")
    parser.add_argument("--raw", action="store_true", help="do not divide by the other peers")
    parser.add_argument("--all", action="store_true", help="show also what is the same")
    options = parser.parse_args()
    try:
        before, after = Results.read(options.before), Results.read(options.after)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        print(f"compare: these are not results of bench/run.py: {error}", file=sys.stderr)
        return 2
    changes = compare(before, after, options.peer, options.raw)
    if not changes:
        print(f"compare: no row has {options.peer} in both files", file=sys.stderr)
        return 2
    shown = [change for change in changes if options.all or change.word in ("better", "worse")]
    if shown:
        lines = [["case", "variant", "number", "after ÷ before", "divided by", "verdict"]]
        lines += [
            [
                *(change.row.case, change.row.variant, table.METRICS[change.row.metric]),
                f"{change.ratio:.2f}",
                f"{change.others} others" if change.others else "nothing",
                change.word,
            ]
            for change in shown
        ]
        print(table.text(lines))
    words = [change.word for change in changes]
    counted = (f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    print(f"{options.peer}, {len(words)} numbers: {', '.join(counted)}")
    return 1 if "worse" in words else 0


def compare(before: Results, after: Results, peer: str, raw: bool = False) -> list[Change]:
    """Every number that both have."""
    rows = (
        Row(case, variant, metric)
        for case, variant in before.rows()
        for metric in table.JUDGED
        if not table.is_given(variant, metric)
    )
    changes = (
        _counted(before, after, row, peer)
        if row.metric in table.COUNTS
        else _measured(before, after, row, peer, raw)
        for row in rows
    )
    return [change for change in changes if change is not None]


def _measured(before: Results, after: Results, row: Row, peer: str, raw: bool) -> Change | None:
    others = set() if raw else _others([before, after], row) - {peer}
    old, new = (_divided(results, row, peer, others) for results in (before, after))
    if not old or not new or not Spread.of(old).median:
        return None
    ratio = Spread.of(new).median / Spread.of(old).median
    word = verdict(old, new, row.metric in table.MORE_IS_BETTER)
    return Change(row, ratio, word, len(others))


def _others(both: list[Results], row: Row) -> set[str]:
    """Who has this number in every round of both."""
    rounds = [
        {name for name, value in peers.items() if value > 0}
        for results in both
        for peers in results.by_round(row.case, row.variant, row.metric).values()
    ]
    return set.intersection(*rounds) if rounds else set()


def _divided(results: Results, row: Row, peer: str, others: set[str]) -> list[float]:
    """A peer's number round by round, over what the others have in common in it."""
    found = []
    for peers in results.by_round(row.case, row.variant, row.metric).values():
        if peer in peers:
            logarithms = [math.log(peers[other]) for other in others]
            yardstick = math.exp(sum(logarithms) / len(others)) if others else 1.0
            found.append(peers[peer] / yardstick)
    return found


def _counted(before: Results, after: Results, row: Row, peer: str) -> Change | None:
    """Failures: where there were none, one is worse."""
    old, new = (_sum(results, row, peer) for results in (before, after))
    if old is None or new is None:
        return None
    word = "same"
    if (old == 0) != (new == 0):
        word = "worse" if new else "better"
    return Change(row, new / old if old else (math.inf if new else 1.0), word)


def _sum(results: Results, row: Row, peer: str) -> float | None:
    """All rounds together; none if it was not measured."""
    if row.metric == "errors":
        if peer not in results.peers(row.case, row.variant):
            return None
        return float(sum(results.failures(row.case, row.variant, peer).values()))
    values = results.values(row.case, row.variant, peer, row.metric)
    return sum(values) if values else None


if __name__ == "__main__":
    sys.exit(main())
