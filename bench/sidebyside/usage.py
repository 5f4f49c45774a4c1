"""What a tree of processes has used: CPU time, memory, system calls. All from /proc and perf."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """CPU time so far of one tree, process by process."""

    ticks: dict[int, float]
    """Seconds by the kernel's clock ticks, ended children included."""
    nanoseconds: dict[int, dict[int, int]]
    """The same of each living thread, exactly."""


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and everything that they have started, as far as it lives."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    open_ends = [pid for pid in roots if _stat(pid)]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        open_ends += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, the state first."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu(roots: Iterable[int]) -> Cpu:
    """CPU time of the tree so far."""
    ticks: dict[int, float] = {}
    nanoseconds: dict[int, dict[int, int]] = {}
    for pid in tree(roots):
        fields = _stat(pid)
        if not fields:
            continue
        # utime, stime, and those of children that have ended and were waited for.
        ticks[pid] = sum(int(field) for field in fields[11:15]) * TICK_SECONDS
        nanoseconds[pid] = _threads(pid)
    return Cpu(ticks, nanoseconds)


def _threads(pid: int) -> dict[int, int]:
    threads = {}
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            threads[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return {}
    return threads


def cpu_seconds(before: Cpu, after: Cpu) -> float:
    """CPU time between the two: exact where all threads still live, else by the tick."""
    total = 0.0
    for pid, ticks in after.ticks.items():
        old, new = before.nanoseconds.get(pid, {}), after.nanoseconds[pid]
        children_ended = before.ticks.keys() - after.ticks.keys()
        if new and not children_ended and old.keys() <= new.keys():
            total += sum(spent - old.get(thread, 0) for thread, spent in new.items()) / 1e9
        else:
            total += ticks - before.ticks.get(pid, 0.0)
    for pid in before.ticks.keys() - after.ticks.keys():
        # Its parent has been charged with all of it, also with what came before the window.
        total -= before.ticks[pid]
    return max(total, 0.0)


@dataclass(frozen=True)
class Memory:
    """Bytes of a tree."""

    rss: int
    pss: int


def memory(roots: Iterable[int]) -> Memory:
    """What the tree holds: resident, and proportional (what is shared is counted once)."""
    rss = pss = 0
    for pid in tree(roots):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        values = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
        rss += int(values.get("Rss", 0)) * 1024
        pss += int(values.get("Pss", 0)) * 1024
    return Memory(rss, pss)


class SystemCalls:
    """Counts the system calls of a tree from `start` to `stop`, by perf's tracepoint."""

    def __init__(self, roots: Iterable[int]) -> None:
        self.pids = tree(roots)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begins to count, if perf is there."""
        perf = shutil.which("perf")
        if perf is None:
            return
        pids = ",".join(str(pid) for pid in self.pids)
        self.process = subprocess.Popen(
            [perf, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pids],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> int | None:
        """How many there were; none if that cannot be known here."""
        if self.process is None:
            return None
        self.process.send_signal(2)
        _, text = self.process.communicate(timeout=10)
        found = re.search(r"^(\d+),,raw_syscalls", text, re.MULTILINE)
        return int(found[1]) if found else None
