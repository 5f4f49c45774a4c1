"""The build backend of `pip install .`: maturin, with the `evener` program put into the wheel.

A wheel needs two things that maturin builds only one of at a time: the extension module
`evener._worker` and the program `evener`. So the program is built here with cargo and laid where
maturin picks up scripts; all else is left to maturin. `EVENER_BUILD_PROFILE` names the cargo
profile of both (`release` unless set).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "evener.data" / "scripts"
IN_SDIST = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "crates",
    "packaging",
    "pyproject.toml",
    "python",
    "xtask",
]
NOT_IN_SDIST = {"__pycache__", "target"}

Settings = dict[str, Any] | None


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Builds the wheel with both parts; its file name is returned."""
    _build_program()
    settings = _with_profile(config_settings)
    return str(maturin.build_wheel(wheel_directory, settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Builds a wheel that points into this source tree."""
    _build_program()
    settings = _with_profile(config_settings)
    return str(maturin.build_editable(wheel_directory, settings, metadata_directory))


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Writes the wheel's metadata, for which nothing needs to be compiled."""
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Packs the whole workspace: maturin would leave out the crates that the worker lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stem = f"{project['name']}-{project['version']}"
    with tempfile.TemporaryDirectory() as scratch:
        info = prepare_metadata_for_build_wheel(scratch, config_settings)
        metadata = (Path(scratch) / info / "METADATA").read_bytes()
    with tarfile.open(Path(sdist_directory) / f"{stem}.tar.gz", "w:gz") as archive:
        header = tarfile.TarInfo(f"{stem}/PKG-INFO")
        header.size = len(metadata)
        archive.addfile(header, io.BytesIO(metadata))
        for name in IN_SDIST:
            archive.add(ROOT / name, f"{stem}/{name}", filter=_wanted)
    return f"{stem}.tar.gz"


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = entry.name.split("/")
    if NOT_IN_SDIST.intersection(parts) or entry.name.endswith((".so", ".pyc")):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _profile() -> str:
    return os.environ.get("EVENER_BUILD_PROFILE") or "release"


def _with_profile(config_settings: Settings) -> dict[str, Any]:
    settings = dict(config_settings or {})
    settings.setdefault("maturin.build-args", f"--profile {_profile()}")
    return settings


def _build_program() -> None:
    """Builds `evener` and copies it to where maturin looks for scripts."""
    if shutil.which("cargo") is None:
        sys.exit("evener is written in Rust: install Rust 1.85 or newer so that `cargo` is found.")
    command = ["cargo", "build", "--package", "evener", "--profile", _profile()]
    command.append("--message-format=json-render-diagnostics")
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if built.returncode != 0:
        sys.exit(f"`{' '.join(command)}` failed; its own words are above.")
    programs = [
        message["executable"]
        for message in map(json.loads, built.stdout.splitlines())
        if message.get("reason") == "compiler-artifact" and message.get("executable")
    ]
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    shutil.copy2(programs[-1], SCRIPTS / "evener")
