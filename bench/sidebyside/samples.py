"""What was measured, as it is written to JSON and read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One peer in one variant of one case, in one round."""

    case: str
    variant: str
    peer: str
    round: int
    values: dict[str, float]
    failures: dict[str, int] = field(default_factory=dict)


@dataclass
class Results:
    """All that one run of the driver has found."""

    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes them, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.rename(path)

    @staticmethod
    def read(path: Path) -> Results:
        """Reads what `write` wrote."""
        raw = json.loads(path.read_text())
        raw["samples"] = [Sample(**sample) for sample in raw["samples"]]
        return Results(**raw)

    def variants(self, case: str) -> list[str]:
        """The variants of a case that were measured, in order."""
        return list(dict.fromkeys(s.variant for s in self.samples if s.case == case))

    def peers(self, case: str, variant: str) -> list[str]:
        """The peers of a variant that were measured, in order."""
        found = (s.peer for s in self.samples if (s.case, s.variant) == (case, variant))
        return list(dict.fromkeys(found))

    def values(self, case: str, variant: str, peer: str, metric: str) -> list[float]:
        """One number of a peer, round by round."""
        return [
            sample.values[metric]
            for sample in self.samples
            if (sample.case, sample.variant, sample.peer) == (case, variant, peer)
            and metric in sample.values
        ]

    def ratios(self, case: str, variant: str, first: str, second: str, metric: str) -> list[float]:
        """The first peer's number over the second's, within the same round."""
        found: dict[int, dict[str, float]] = {}
        for sample in self.samples:
            if (sample.case, sample.variant) == (case, variant) and metric in sample.values:
                found.setdefault(sample.round, {})[sample.peer] = sample.values[metric]
        pairs = (peers for peers in found.values() if first in peers and peers.get(second))
        return [peers[first] / peers[second] for peers in pairs]
