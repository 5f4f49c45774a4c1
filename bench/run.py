"""Measures Evener side by side with what people would use instead.

    python bench/run.py [--case a,b…] [--peers nginx,uvicorn…] [--variant TEXT;…] [--rounds N]
                        [--seconds S] [--quick] [--json FILE [--add]]

Peers run in interleaved rounds on one core, load and origin on the other. Every answer is checked.
CPU per request is the whole process tree's user and system time over exactly the window, divided
by the requests answered in it. What is not installed is skipped, and said: bench/install.py.

Each case takes the rounds and window lengths that its variants need; `--rounds` and `--seconds`
overrule them. With `--add` the file keeps what it has, and only what is measured now replaces what
was measured of the same variants before: so a report can be put together in several sittings.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from sidebyside import table
from sidebyside.cases import CASES
from sidebyside.load import LoadFailedError
from sidebyside.machine import machine, versions
from sidebyside.places import CACHE, RUN
from sidebyside.proxies import MissingError
from sidebyside.running import StartFailedError
from sidebyside.samples import Results, Sitting
from sidebyside.session import Session


def main() -> int:
    """Measures, prints the tables, writes the JSON."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = Results.read(options.json) if options.add and options.json.exists() else Results()
    session = Session(
        results,
        options.json,
        options.rounds,
        options.seconds,
        options.quick,
        options.peers,
        options.variant,
    )
    shutil.rmtree(RUN, ignore_errors=True)
    began = time.monotonic()
    for letter in options.case:
        took = time.monotonic() - began
        print(f"({letter}) {CASES[letter].title} [{took:.0f} s so far]", file=sys.stderr)
        sitting(session, letter)
        show(session, letter)
    print(f"\nwritten to {options.json} ({time.monotonic() - began:.0f} s)")
    return 0


def sitting(session: Session, letter: str) -> None:
    """One case, from the first to the last of what was asked for."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    settings = {"arguments": " ".join(sys.argv[1:]), "form": "quick" if session.quick else "full"}
    session.begin(Sitting(f"{letter} {now}", letter, machine(), versions(), settings))
    began = time.monotonic()
    try:
        CASES[letter].measure(session)
    except (LoadFailedError, MissingError, StartFailedError) as error:
        session.skip(f"({letter}) broken off: {error}")
    finally:
        session.end(time.monotonic() - began)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    words = lambda text: [word for word in text.split(",") if word]  # noqa: E731
    # Some names have commas in them.
    names = lambda text: [name.strip() for name in text.split(";") if name.strip()]  # noqa: E731
    parser.add_argument("--case", type=words, default=list(CASES), help="letters, by commas")
    parser.add_argument("--peers", type=words, default=None, help="names, by commas; default all")
    parser.add_argument(
        "--variant", type=names, default=None, help="how names begin, by semicolons"
    )
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="of each window")
    parser.add_argument("--quick", action="store_true", help="the main variants, once; < 3 minutes")
    parser.add_argument("--json", type=Path, default=CACHE / "results.json")
    parser.add_argument("--add", action="store_true", help="keep what else is in the file")
    options = parser.parse_args()
    options.case = options.case or list(CASES)
    options.peers = options.peers or None
    unknown = [letter for letter in options.case if letter not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def show(session: Session, letter: str) -> None:
    """What this sitting has found, as tables."""
    found = [s.variant for s in session.results.samples if s.sitting == session.sitting]
    for variant in dict.fromkeys(found):
        print(f"\n({letter}) {variant}")
        print(table.text(table.rows(session.results, letter, variant)))
    for skipped in session.skipped:
        print(f"skipped: {skipped}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
