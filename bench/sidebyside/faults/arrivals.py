"""Requests that arrive at fixed moments, whatever becomes of those before them (an open loop).

Latency counts from when a request was due. Every answer's status and body are checked, nothing is
tried again. Every request is remembered, so that it can be said for how long clients noticed. Good
for hundreds a second, which is enough to meet a bad endpoint every few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field

PATIENCE_SECONDS = 10.0
REQUEST = b"GET /work HTTP/1.1\r\nHost: shop.test\r\n\r\n"
CONNECTIONS = 16
CONNECTIONS_MAX = 1000

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Arrivals:
    """What became of them: moments are of `time.monotonic`, latencies in seconds."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    """When each was due, and its latency."""
    failures: Counter[str] = field(default_factory=Counter)
    failed_due: list[float] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)
    """Answers by endpoint."""

    def worst(self) -> float:
        """The longest latency."""
        return max((latency for _, latency in self.answered), default=0.0)

    def quantile(self, share: float) -> float:
        """The latency that this share of the answered requests did not exceed."""
        latencies = sorted(latency for _, latency in self.answered)
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))] if latencies else 0.0

    def noticed_until(self, slower_than: float) -> float | None:
        """When the last request was due that failed or took longer than this."""
        slow = [due for due, latency in self.answered if latency > slower_than]
        return max([*slow, *self.failed_due], default=None)


class Load:
    """So many requests a second, for so long."""

    def __init__(self, port: int, rate: float) -> None:
        self.port = port
        self.rate = rate
        self.found = Arrivals()
        # First in, first out: so that many connections are in use, and not the same one.
        self.idle: deque[Streams] = deque()
        self.opened = 0

    async def run(self, seconds: float) -> Arrivals:
        """Sends them all, and waits for the last answer."""
        for _ in range(CONNECTIONS):
            self.idle.append(await asyncio.open_connection("127.0.0.1", self.port))
            self.opened += 1
        began = time.monotonic()
        tasks = []
        for number in range(int(seconds * self.rate)):
            due = began + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self._one(due)))
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()
        return self.found

    async def _one(self, due: float) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._ask()
        except TimeoutError:
            self._failed(due, "no answer in 10 s")
        except (OSError, EOFError) as error:
            self._failed(due, f"{type(error).__name__}"[:60])
        except ValueError as error:
            self._failed(due, str(error)[:60])
        else:
            self.found.answered.append((due, time.monotonic() - due))

    def _failed(self, due: float, cause: str) -> None:
        self.found.failures[cause] += 1
        self.found.failed_due.append(due)

    async def _ask(self) -> None:
        if self.idle:
            reader, writer = self.idle.popleft()
        elif self.opened < CONNECTIONS_MAX:
            self.opened += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        else:
            raise ValueError("the load has no connection left")
        stays = False
        try:
            writer.write(REQUEST)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = head.partition("content-length: ")[2].partition("\r\n")[0]
            body = await reader.readexactly(int(size or 0))
            stays = "connection: close" not in head and bool(size)
            if (status := head[9:12]) != "200":
                raise ValueError(f"status {status}")
            if not body.startswith(b"127.0.0."):
                raise ValueError("a body that nobody sent")
            self.found.by[body.decode()] += 1
        finally:
            if stays:
                self.idle.append((reader, writer))
            else:
                self.opened -= 1
                writer.close()


def load(port: int, rate: float, seconds: float) -> Arrivals:
    """Runs a load on an event loop of its own."""
    return asyncio.run(Load(port, rate).run(seconds))
