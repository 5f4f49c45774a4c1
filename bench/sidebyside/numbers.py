"""Medians, ratios within a round, and when a difference is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with its minimum and maximum."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(statistics.median(values), min(values), max(values))


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """How probable so clear an order of two samples is by chance alone, both directions together.

    Mann and Whitney's U test (1947), exact for samples without ties of up to 20 values together,
    by the normal approximation with the correction for continuity beyond.
    """
    n, m = len(first), len(second)
    u = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    extreme = min(u, n * m - u)
    if n + m <= 20 and extreme == int(extreme):
        counts = _orders(n, m)
        fewer = sum(counts[: int(extreme) + 1])
        return min(1.0, 2 * fewer / math.comb(n + m, n))
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    distance = max(0.0, n * m / 2 - extreme - 0.5)
    return math.erfc(distance / deviation / math.sqrt(2))


def _orders(n: int, m: int) -> list[int]:
    """For each U from 0 to n·m: how many orders of n and m values have it."""
    table = [[1] + [0] * (n * m) for _ in range(m + 1)]
    for size in range(1, n + 1):
        fresh = [[0] * (n * m + 1) for _ in range(m + 1)]
        fresh[0][0] = 1
        for other in range(1, m + 1):
            for u in range(size * other + 1):
                without = fresh[other - 1][u - size] if u >= size else 0
                fresh[other][u] = table[other][u] + without
        table = fresh
    return table[m]


def verdict(before: Sequence[float], after: Sequence[float]) -> str:
    """What can be said of a change: nothing, unless it is outside the noise.

    Few rounds must not overlap at all; with five or more on each side the rank test may decide.
    """
    if not before or not after:
        return "not in both"
    apart = max(before) < min(after) or max(after) < min(before)
    if min(len(before), len(after)) < 3:
        return "too few rounds"
    clear = rank_test(before, after) < 0.02 if min(len(before), len(after)) >= 5 else apart
    if not clear:
        return "within noise"
    ratio = statistics.median(after) / statistics.median(before)
    return f"{'less' if ratio < 1 else 'more'}: × {ratio:.2f}"
