"""Measures Evener side by side with what people would use instead.

    python bench/run.py [--case a,b…] [--peers nginx,uvicorn…] [--variant TEXT…] [--rounds N]
                        [--seconds S] [--quick] [--json FILE]

Peers run in interleaved rounds on one core, load and origin on the other. Every answer is checked.
CPU per request is the whole process tree's user and system time over exactly the window, divided
by the requests answered in it. What is not installed is skipped, and said: bench/install.py.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from pathlib import Path

from sidebyside import table
from sidebyside.cases import CASES
from sidebyside.load import LoadFailedError
from sidebyside.machine import machine, versions
from sidebyside.places import CACHE
from sidebyside.proxies import MissingError
from sidebyside.running import StartFailedError
from sidebyside.samples import Results
from sidebyside.session import Session


def main() -> int:
    """Measures, prints the tables, writes the JSON."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (1.5 if options.quick else 3.0)
    settings = {"rounds": rounds, "seconds": seconds, "command": " ".join(sys.argv[1:])}
    CACHE.mkdir(parents=True, exist_ok=True)
    session = Session(
        Results(machine(), versions(), settings),
        options.json,
        rounds,
        seconds,
        options.quick,
        options.peers,
        options.variant,
    )
    began = time.monotonic()
    for letter in options.case:
        case = CASES[letter]
        took = time.monotonic() - began
        print(f"({letter}) {case.title} [{took:.0f} s so far]", file=sys.stderr)
        try:
            case.measure(session)
        except (LoadFailedError, MissingError, StartFailedError) as error:
            session.skip(f"({letter}): {error}")
        session.results.write(options.json)
        show(session.results, letter)
    for skipped in session.results.skipped:
        print(f"skipped: {skipped}")
    print(f"\nwritten to {options.json} ({time.monotonic() - began:.0f} s)")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    words = lambda text: [word for word in text.split(",") if word]  # noqa: E731
    parser.add_argument("--case", type=words, default=list(CASES), help="letters, by commas")
    parser.add_argument("--peers", type=words, default=None, help="names, by commas; default all")
    parser.add_argument("--variant", type=words, default=None, help="how names begin, by commas")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="of each window")
    parser.add_argument("--quick", action="store_true", help="the main variants, once; < 3 minutes")
    parser.add_argument("--json", type=Path, default=CACHE / "results.json")
    options = parser.parse_args()
    options.case = options.case or list(CASES)
    options.peers = options.peers or None
    unknown = [letter for letter in options.case if letter not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def show(results: Results, letter: str) -> None:
    """The case's tables."""
    for variant in results.variants(letter):
        print(f"\n({letter}) {variant}")
        print(table.text(table.rows(results, letter, variant)))
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
