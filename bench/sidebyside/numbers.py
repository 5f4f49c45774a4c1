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


ROUNDS_MIN = 3
"""With fewer, nothing can be said to be outside the noise."""
SHARE_MIN = 0.02
"""A smaller difference says nothing, however steady: builds differ by as much."""


def verdict(before: Sequence[float], after: Sequence[float], more_is_better: bool = False) -> str:
    """`better`, `worse`, `same`, or `too few rounds`: only outside the noise it is not the same.

    Of few rounds, neither may overlap the other, and the medians must be further apart than either
    sample is wide: three against three do not overlap by chance one time in ten. From eight rounds
    on each side, the rank test decides, at one in a thousand.
    """
    fewest = min(len(before), len(after))
    if fewest < ROUNDS_MIN:
        return "too few rounds"
    old, new = Spread.of(before), Spread.of(after)
    gap = abs(new.median - old.median)
    if gap <= SHARE_MIN * abs(old.median):
        return "same"
    if fewest >= 8:
        clear = rank_test(before, after) < 0.001
    else:
        apart = old.high < new.low or new.high < old.low
        clear = apart and gap > max(old.high - old.low, new.high - new.low)
    if not clear:
        return "same"
    return "better" if (new.median > old.median) == more_is_better else "worse"


def loses(ratios: Sequence[float], more_is_better: bool = False) -> bool:
    """Whether who is above the line of these ratios loses outside noise: in every single round."""
    if len(ratios) < ROUNDS_MIN:
        return False
    median = statistics.median(ratios)
    if more_is_better:
        return max(ratios) < 1 and median < 1 - SHARE_MIN
    return min(ratios) > 1 and median > 1 + SHARE_MIN
