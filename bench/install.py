"""Installs what the bench compares with, and builds its programs; quick when all is there.

    python bench/install.py [--check]

System packages come by apt, as root on a system that has it; Python packages into a virtual
environment of the bench's own; Rust programs into a target folder of its own, by lock files. What
cannot be had is skipped, and said with its reason: its rows are then missing from the tables.
`--check` only says what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from sidebyside.places import BENCH, CACHE, ROOT, TARGET, VENV, program

APT = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "perf": "linux-perf",
    "taskset": "util-linux",
    "h2load": "nghttp2-client",
}
"""Programs and the packages they come in; perf counts system calls."""
PINGORA_NEEDS = {"cmake": "cmake", "cc": "build-essential"}
REQUIREMENTS = (BENCH / "requirements.txt", ROOT / "examples" / "shop" / "requirements.txt")
PYTHON_PROGRAMS = ("granian", "uvicorn", "gunicorn", "hypercorn", "envoy", "traefik", "caddy")
STAMP = VENV / "requirements.sha256"
LAST_LINES = 12


@dataclass(frozen=True)
class Built:
    """A Rust program of the bench."""

    name: str
    arguments: tuple[str, ...]
    """Cargo's, behind `cargo build --release`."""


def _of(folder: str, *more: str) -> tuple[str, ...]:
    return ("--locked", "--manifest-path", str(BENCH / folder / "Cargo.toml"), *more)


PROGRAMS = (
    Built("load", _of("load")),
    Built("proxy", ("--locked", "-p", "evener-edge", "--example", "proxy")),
    Built("bench-hyper", _of("peers", "-p", "bench-hyper")),
    Built("bench-pingora", _of("peers", "-p", "bench-pingora")),
)


def main() -> int:
    """Installs all; fails only if Evener or the load generator cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only say what is there")
    options = parser.parse_args()
    if not options.check:
        CACHE.mkdir(parents=True, exist_ok=True)
        _system_packages({**APT, **PINGORA_NEEDS})
        _python_packages()
        for built in PROGRAMS:
            build(built)
    names = [*APT, *PYTHON_PROGRAMS, "origin", *(built.name for built in PROGRAMS)]
    missing = [name for name in names if program(name) is None]
    print(f"bench: {len(names) - len(missing)} of {len(names)} programs are there")
    for name in missing:
        print(f"bench: skipped: {name} is not there", file=sys.stderr)
    return 1 if {"load", "origin", "proxy"} & set(missing) else 0


def _system_packages(wanted: dict[str, str]) -> None:
    packages = [package for name, package in wanted.items() if program(name) is None]
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        words = " ".join(packages)
        print(f"bench: not root with apt, so not installed: {words}", file=sys.stderr)
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    _run("apt-get update", ["apt-get", "update", "-qq"], environment)
    # One by one: one that does not exist here must not keep the others away.
    for package in packages:
        _run(f"apt-get install {package}", [*install, package], environment)
    # The package starts a server on port 80, which nobody here has asked for.
    if "nginx-light" in packages and shutil.which("service"):
        subprocess.run(["service", "nginx", "stop"], capture_output=True, check=False)


def _python_packages() -> None:
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in REQUIREMENTS)).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    if not _run("venv", [sys.executable, "-m", "venv", str(VENV)]):
        return
    pip = [str(VENV / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    if _run("pip install", [*pip, "--requirement", str(REQUIREMENTS[0])]):
        STAMP.write_text(wanted)
        return
    # One package without a wheel for this machine must not keep the others away.
    for line in REQUIREMENTS[0].read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            _run(f"pip install {line}", [*pip, line])
    _run("pip install the shop's", [*pip, "--requirement", str(REQUIREMENTS[1])])


def build(built: Built) -> None:
    """Builds a program, or says why it cannot be built."""
    if shutil.which("cargo") is None:
        print(f"bench: skipped: {built.name}: there is no cargo", file=sys.stderr)
        return
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    arguments = ["cargo", "build", "--quiet", "--release", *built.arguments]
    _run(f"cargo build of {built.name}", arguments, environment)


def _run(what: str, command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Runs a step from the project's root; says how it ended if it failed."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        print(f"bench: skipped: {what} failed:\n{words}", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
