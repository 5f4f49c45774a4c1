"""What was measured on, and which versions: a number without them says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from sidebyside.places import ROOT, VENV, program

VERSION_FLAGS = {
    "nginx": "-v",
    "haproxy": "-v",
    "envoy": "--version",
    "caddy": "version",
    "traefik": "version",
}
PACKAGES = [
    "uvicorn",
    "uvloop",
    "httptools",
    "granian",
    "gunicorn",
    "hypercorn",
    "fastapi",
    "starlette",
    "pydantic",
]


def machine() -> dict[str, str]:
    """CPU, kernel, memory, load."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        "kernel": platform.release(),
        "memory": f"{int(memory[1]) // 1024 if memory else 0} MB",
        "python": platform.python_version(),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Of Evener (its commit) and of every peer that is there."""
    found = {"evener": said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])}
    for name, flag in VERSION_FLAGS.items():
        path = program(name)
        if path:
            number = re.search(r"\d+\.\d+(\.\d+)?", said([str(path), flag]))
            found[name] = number[0] if number else "?"
    if (VENV / "bin" / "pip").exists():
        listed = said([str(VENV / "bin" / "pip"), "freeze"])
        for name in PACKAGES:
            line = re.search(rf"^{name}==(\S+)", listed, re.MULTILINE | re.IGNORECASE)
            if line:
                found[name] = line[1]
    return found


def said(command: list[str]) -> str:
    """What a command prints, on either stream; nothing if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()
