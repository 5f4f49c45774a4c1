"""Where things are, which CPU is whose, and which ports are used."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
CACHE = ROOT / ".cache" / "bench"
CONFIGS = BENCH / "configs"
APPS = BENCH / "apps"
VENV = CACHE / "venv"
TARGET = CACHE / "target"
RUN = CACHE / "run"
NUMBERS = itertools.count(1)
"""For names: stacks that run side by side must not share a file, least of all a socket."""

# Whoever is measured has one core; the load, and the origin of proxies, have the other.
PEER_CPU = 0
LOAD_CPU = 1 if (os.cpu_count() or 1) > 1 else 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> Path | None:
    """A program that the bench has installed, built or found; none if there is none."""
    candidates = (
        VENV / "bin" / name,
        TARGET / "release" / name,
        TARGET / "release" / "examples" / name,
    )
    for candidate in candidates:
        if candidate.exists():
            return candidate
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None
