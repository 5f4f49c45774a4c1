"""A run of the driver: what was asked for, and where samples go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidebyside.measure import Measured
from sidebyside.proxies import MissingError
from sidebyside.running import Deployment, StartFailedError
from sidebyside.samples import Results, Sample, Sitting


@dataclass
class Session:
    """What was asked for, and what has been found."""

    results: Results
    output: Path
    asked_rounds: int | None = None
    asked_seconds: float | None = None
    quick: bool = False
    peers: list[str] | None = None
    asked_variants: list[str] | None = None
    sitting: str = ""
    skipped: list[str] = field(default_factory=list)

    def begin(self, sitting: Sitting) -> None:
        """What follows is measured in this sitting."""
        self.sitting = sitting.name
        self.skipped = []
        self.results.sittings[sitting.name] = sitting

    def end(self, seconds: float) -> None:
        """The sitting is over; it took so long."""
        before = self.results.sittings[self.sitting]
        after = replace(before, seconds=round(seconds, 1), skipped=tuple(self.skipped))
        self.results.sittings[self.sitting] = after
        self.results.tidy()
        self.results.write(self.output)

    def rounds(self, full: int = 3) -> int:
        """How many rounds: what was asked for, else one in the quick form, else this many."""
        return self.asked_rounds or (1 if self.quick else full)

    def seconds(self, full: float, quick: float) -> float:
        """How long a window is: what was asked for, else as the form has it."""
        return self.asked_seconds or (quick if self.quick else full)

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Of these peers, those that were asked for; Evener always comes first."""
        return [name for name in names if self.peers is None or name in ("evener", *self.peers)]

    def wants(self, variant: str, quick: bool) -> bool:
        """Whether a variant is to be measured; `quick` ones are part of the quick form."""
        if self.asked_variants is not None:
            return any(variant.startswith(text) for text in self.asked_variants)
        return quick or not self.quick

    def note(self, case: str, variant: str, peer: str, turn: int, measured: Measured) -> None:
        """Takes a sample, writes everything to disk, says it."""
        values = {name: _short(value) for name, value in measured.values.items()}
        sample = Sample(case, variant, peer, turn, values, measured.failures, self.sitting)
        self.results.note(sample)
        self.results.write(self.output)
        shown = (
            "CPU µs per request",
            "requests a second",
            "p99 ms",
            "bytes per idle connection",
            "out after ms",
        )
        said = ", ".join(
            f"{measured.values[name]:,.1f} {name}" for name in shown if name in measured.values
        )
        failed = f", FAILED {measured.failures}" if measured.failures else ""
        print(f"  ({case}) {variant}, round {turn + 1}, {peer}: {said}{failed}", file=sys.stderr)

    def skip(self, what: str) -> None:
        """Something was not measured: what, and why."""
        if what not in self.skipped:
            self.skipped.append(what)
            print(f"  skipped: {what}", file=sys.stderr)

    @contextmanager
    def deployed(
        self, case: str, makers: dict[str, Callable[[], Deployment]]
    ) -> Iterator[dict[str, Deployment]]:
        """All of them running side by side; who cannot be started is skipped, and it is said."""
        with ExitStack() as stack:
            up: dict[str, Deployment] = {}
            for name, make in makers.items():
                try:
                    deployment = make()
                    deployment.start()
                except (MissingError, StartFailedError, OSError) as error:
                    self.skip(f"({case}) {name}: {error}")
                    continue
                stack.callback(deployment.stop)
                up[name] = deployment
            yield up


def _short(value: float) -> float:
    """Six digits say all that was measured, and keep the file small."""
    return float(f"{value:.6g}")
