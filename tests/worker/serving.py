"""One worker process for a test, alone on its unix socket, and raw HTTP to it."""

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from running import eventually
from wire import Wire

HERE = Path(__file__).resolve().parent
START_SECONDS = 30.0


class UnixWire(Wire):
    """A connection to a unix socket."""

    def __init__(self, path: Path, seconds: float = 15.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.socket.connect(str(path))
        self.buffer = b""


class VitalsPage:
    """The edge's side of a vitals page (the layout of `crates/vitals`)."""

    SEALS = 0x0002 | 0x0004 | 0x0001
    STATES = ("free", "offered", "claimed", "revoked")

    def __init__(self, slots: int = 8) -> None:
        import mmap

        self.slots = slots
        size = -(-(128 + 16 * slots) // 4096) * 4096
        self.descriptor = os.memfd_create("vitals", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, 1033, self.SEALS)  # F_ADD_SEALS
        self.memory = mmap.mmap(self.descriptor, size)
        head = struct.pack("<8sIIQ", b"EVENERvp", 2, slots, size)
        self.memory[: len(head)] = head

    def offer(self, slot: int, sequence: int) -> None:
        """What the edge does before it sends a request."""
        self._write(slot, sequence << 2 | 1)

    def revoke(self, slot: int, sequence: int) -> None:
        """Takes a request back; the test knows that the worker does not look just now."""
        assert self.slot(slot) == (sequence, "offered")
        self._write(slot, sequence << 2 | 3)

    def slot(self, slot: int) -> tuple[int, str]:
        """The sequence and state of a slot."""
        (word,) = struct.unpack_from("<Q", self.memory, 128 + 16 * slot)
        return word >> 2, self.STATES[word & 3]

    def _write(self, slot: int, word: int) -> None:
        struct.pack_into("<Q", self.memory, 128 + 16 * slot, word)

    @property
    def tick_ns(self) -> int:
        """When the loop last turned."""
        return int(struct.unpack_from("<Q", self.memory, 64)[0])

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return int(struct.unpack_from("<I", self.memory, 72)[0])

    @property
    def state(self) -> str:
        """The phase of the worker's life."""
        (state,) = struct.unpack_from("<I", self.memory, 76)
        return ("starting", "ready", "draining", "gone")[state]

    @property
    def lag_us(self) -> int:
        """How late the heartbeat was."""
        return int(struct.unpack_from("<Q", self.memory, 80)[0])

    @property
    def done(self) -> int:
        """Requests finished."""
        return int(struct.unpack_from("<Q", self.memory, 96)[0])

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(struct.unpack_from("<Q", self.memory, 104)[0])


class Worker:
    """A running worker; stopped by its process id when the context ends."""

    def __init__(
        self,
        folder: Path,
        app: str,
        *flags: str,
        page: VitalsPage | None = None,
        app_dir: Path = HERE,
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "worker.sock"
        self.log = folder / "worker.log"
        self._ready, theirs = os.pipe()
        given = [theirs]
        arguments = ["--uds", str(self.path), "--ready-fd", str(theirs)]
        arguments += ["--app-dir", str(app_dir)]
        if page is not None:
            given.append(page.descriptor)
            arguments += ["--page-fd", str(page.descriptor)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evener.worker", *arguments, *flags, app],
                pass_fds=given,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )
        os.close(theirs)
        if wait:
            assert self.is_ready(), f"it did not start:\n{self.words()}"

    def is_ready(self) -> bool:
        """Waits for its word; False if it ends without one."""
        readable, _, _ = select.select([self._ready], [], [], START_SECONDS)
        assert readable, f"it said nothing for {START_SECONDS} s:\n{self.words()}"
        return os.read(self._ready, 16) == b"ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        os.close(self._ready)
        if error is None:
            assert "panicked" not in self.words(), self.words()

    def wire(self) -> UnixWire:
        """A new connection."""
        return UnixWire(self.path)

    def words(self) -> str:
        """Everything it has written."""
        return self.log.read_text(errors="replace")

    def await_words(self, text: str) -> str:
        """Waits until it has written something; returns everything it has written."""
        eventually(lambda: text in self.words(), f"the log says {text!r}:\n{self.words()}")
        return self.words()

    def terminate(self) -> None:
        """Asks it to drain."""
        self.process.terminate()

    def status(self, seconds: float = 15.0) -> int:
        """Waits for its end."""
        return self.process.wait(seconds)

    @property
    def url(self) -> str:
        """For clients that take a URL besides the socket."""
        return "http://worker"
