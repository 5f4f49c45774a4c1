"""Processes of a measurement: started on their CPU, waited for until they answer, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sidebyside.places import NUMBERS, PEER_CPU, RUN

START_SECONDS = 30
STOP_SECONDS = 8


class StartFailedError(Exception):
    """A peer did not come up: who, and its last words."""


@dataclass(frozen=True)
class Command:
    """One process to start."""

    name: str
    arguments: list[str]
    ready: str
    """What it listens on once it is up: `host:port` or `unix:PATH`."""
    directory: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    cpu: int = PEER_CPU
    counted: bool = True
    """Whether what it uses is part of what is measured."""
    path: str | None = None
    """A path that answers 200 once it is up; without one, accepting a connection is enough."""


@dataclass
class Deployment:
    """Everything that answers at one address."""

    address: str
    commands: list[Command]
    reload: Callable[[Deployment], None] | None = None
    """How its operators reload it."""
    workers: Callable[[Deployment], list[int]] | None = None
    """Its worker processes, of which one may be killed."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> float:
        """Starts all, in order; gives seconds until the last one answers."""
        began = time.monotonic()
        try:
            for command in self.commands:
                log = RUN / f"{command.name}-{next(NUMBERS)}.log"
                self.processes.append(_spawn(command, log))
                _await_ready(command, self.processes[-1], log)
        except BaseException:
            self.stop()
            raise
        return time.monotonic() - began

    def stop(self) -> None:
        """Ends all, the last one first."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in reversed(self.processes):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # Its whole session, which is its own: its workers may still be there.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    def counted(self) -> list[int]:
        """The processes whose use is measured."""
        pairs = zip(self.commands, self.processes, strict=True)
        return [process.pid for command, process in pairs if command.counted]

    def pid(self, name: str) -> int:
        """The process that was started by this name."""
        pairs = zip(self.commands, self.processes, strict=True)
        return next(process.pid for command, process in pairs if command.name == name)


def _spawn(command: Command, log_path: Path) -> subprocess.Popen[bytes]:
    RUN.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **command.environment}
    with log_path.open("wb") as log:
        return subprocess.Popen(
            ["taskset", "-c", str(command.cpu), *command.arguments],
            cwd=command.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _await_ready(command: Command, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(command.ready, command.path):
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip()[-600:]
            raise StartFailedError(f"{command.name} did not come up: {words or 'it said nothing'}")
        time.sleep(0.01)


def answers(address: str, path: str | None) -> bool:
    """Whether somebody accepts a connection there and, if a path is given, answers it with 200."""
    family = socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            if family == socket.AF_UNIX:
                connection.connect(address.removeprefix("unix:"))
            else:
                host, _, port = address.rpartition(":")
                connection.connect((host, int(port)))
            if path is None:
                return True
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            return connection.recv(4096).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
        except OSError:
            return False
