"""Threads that hang: each is stopped on its own by ptrace(2), the rest of its process runs on.

A signal would stop the whole process, which proves less. All calls must come from one thread.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _trace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def thread(pid: int, name: str) -> int:
    """The thread of a process that has this name."""
    found = [
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text().strip() == name
    ]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@contextmanager
def hung(number: int) -> Iterator[None]:
    """This thread, and no other, stands still meanwhile."""
    _trace(PTRACE_SEIZE, number)
    try:
        _trace(PTRACE_INTERRUPT, number)
        os.waitpid(number, WALL)
        yield
    finally:
        _trace(PTRACE_DETACH, number)
