"""The endpoints: processes on the same port of several loopback addresses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import Self

from sidebyside.places import APPS

START_SECONDS = 10


class Endpoint:
    """One process of `apps/endpoint.py`."""

    def __init__(self, host: str, port: int, health_port: int) -> None:
        self.host = host
        self.port = port
        self.command = [
            *(sys.executable, str(APPS / "endpoint.py"), "--host", host),
            *("--port", str(port), "--health-port", str(health_port)),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE)
        deadline = time.monotonic() + START_SECONDS
        while not self.listens():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the endpoint at {self.address} does not listen")
            time.sleep(0.01)

    def listens(self) -> bool:
        """Whether somebody can connect to it."""
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def tell(self, line: str) -> None:
        """Gives it an order."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ends it, also if it is stopped."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None


class Endpoints:
    """Three that serve, of which the second goes wrong, and a fourth that waits."""

    def __init__(self, port: int, health_port: int) -> None:
        self.port = port
        self.health_port = health_port
        hosts = [f"127.0.0.{number}" for number in (2, 3, 4, 5)]
        self.all = [Endpoint(host, port, health_port) for host in hosts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for endpoint in self.all:
            endpoint.stop()

    @property
    def serving(self) -> list[Endpoint]:
        """Those that a proxy is told of."""
        return self.all[:3]

    @property
    def bad(self) -> Endpoint:
        """The one that goes wrong."""
        return self.all[1]

    @property
    def spare(self) -> Endpoint:
        """The one that takes a place by name."""
        return self.all[3]
