"""What was measured, as it is written to JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One peer in one variant of one case, in one round of one sitting."""

    case: str
    variant: str
    peer: str
    round: int
    values: dict[str, float]
    failures: dict[str, int] = field(default_factory=dict)
    sitting: str = ""


@dataclass(frozen=True)
class Sitting:
    """One case measured in one go: on what, of which versions, by which settings."""

    name: str
    case: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    seconds: float = 0.0
    """How long it took."""
    skipped: tuple[str, ...] = ()
    """What was not measured, and why."""


@dataclass
class Results:
    """All that has been found, in one sitting or in several."""

    sittings: dict[str, Sitting] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes them, whole or not at all; one sample a line, so that changes can be read."""
        sittings = [json.dumps(asdict(sitting)) for sitting in self.sittings.values()]
        samples = [json.dumps(asdict(sample), separators=(",", ":")) for sample in self.samples]
        text = '{"sittings":[\n%s\n],"samples":[\n%s\n]}\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(text % (",\n".join(sittings), ",\n".join(samples)))
        partial.rename(path)

    @staticmethod
    def read(path: Path) -> Results:
        """Reads what `write` wrote."""
        raw = json.loads(path.read_text())
        sittings = [
            Sitting(**{**sitting, "skipped": tuple(sitting["skipped"])})
            for sitting in raw["sittings"]
        ]
        samples = [Sample(**sample) for sample in raw["samples"]]
        return Results({sitting.name: sitting for sitting in sittings}, samples)

    def note(self, sample: Sample) -> None:
        """Takes a sample; samples of the same variant from earlier sittings give way to it."""
        self.samples = [
            old
            for old in self.samples
            if (old.case, old.variant) != (sample.case, sample.variant)
            or old.sitting == sample.sitting
        ]
        self.samples.append(sample)

    def tidy(self) -> None:
        """Forgets sittings whose samples have all given way to later ones."""
        used = {sample.sitting for sample in self.samples}
        last = {sitting.case: name for name, sitting in self.sittings.items()}
        self.sittings = {
            name: sitting
            for name, sitting in self.sittings.items()
            if name in used or last[sitting.case] == name
        }

    def variants(self, case: str) -> list[str]:
        """The variants of a case that were measured, in order."""
        return list(dict.fromkeys(s.variant for s in self.samples if s.case == case))

    def rows(self) -> Iterator[tuple[str, str]]:
        """All cases and variants, case by case."""
        for case in sorted({sample.case for sample in self.samples}):
            for variant in self.variants(case):
                yield case, variant

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

    def by_round(self, case: str, variant: str, metric: str) -> dict[int, dict[str, float]]:
        """One number of every peer in every round."""
        found: dict[int, dict[str, float]] = {}
        for sample in self.samples:
            if (sample.case, sample.variant) == (case, variant) and metric in sample.values:
                found.setdefault(sample.round, {})[sample.peer] = sample.values[metric]
        return found

    def ratios(self, case: str, variant: str, first: str, second: str, metric: str) -> list[float]:
        """The first peer's number over the second's, within the same round."""
        rounds = self.by_round(case, variant, metric).values()
        pairs = (peers for peers in rounds if first in peers and peers.get(second))
        return [peers[first] / peers[second] for peers in pairs]

    def failures(self, case: str, variant: str, peer: str) -> dict[str, int]:
        """All failures of a peer in a variant, by kind."""
        kinds: dict[str, int] = {}
        for sample in self.samples:
            if (sample.case, sample.variant, sample.peer) == (case, variant, peer):
                for kind, count in sample.failures.items():
                    kinds[kind] = kinds.get(kind, 0) + count
        return kinds
