"""A closed-loop load of keep-alive connections that tells precisely what failed.

Anything that a browser's user would see as an error counts as a failure: a refused or broken
connection, an answer cut short, a wrong status or body. Only a connection that the server has
announced to close (`Connection: close`) is opened again without counting.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Ask:
    """A request to send, and what its answer must be."""

    path: str
    body: bytes | None = None
    status: int = 200
    size: int | None = None
    key: str = ""

    def head(self) -> bytes:
        """The bytes to send."""
        if self.body is None:
            return f"GET {self.path} HTTP/1.1\r\nHost: load\r\n\r\n".encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass
class Outcome:
    """What came of a load."""

    answered: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    answered_keys: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.answered / self.seconds if self.seconds else 0
        words = f"{self.answered} answered, {rate:.0f} a second, slowest {self.slowest:.3f} s"
        return f"{words}; failures: {dict(self.failures) or 'none'}"


class Load:
    """So many connections that each ask one thing after the other until told to stop."""

    def __init__(self, port: int, asks: Callable[[], Iterator[Ask]], connections: int = 64) -> None:
        self.port = port
        self.asks = asks
        self.connections = connections
        self.outcome = Outcome()
        self._ends = False

    async def run(self, seconds: float) -> Outcome:
        """Loads for so long, then lets every request that is under way finish."""
        started = time.monotonic()
        tasks = [asyncio.create_task(self._one(self.asks())) for _ in range(self.connections)]
        await asyncio.sleep(seconds)
        self._ends = True
        await asyncio.gather(*tasks)
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    async def _one(self, asks: Iterator[Ask]) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._ends:
            ask = next(asks)
            started = time.monotonic()
            stays = False
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self.port)
                stays = await asyncio.wait_for(self._ask(*streams, ask), 30)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                cause = f"{type(error).__name__} {error}"[:120]
                self.outcome.failures[f"{ask.path.partition('?')[0]}: {cause}"] += 1
                await asyncio.sleep(0.01)
            self.outcome.slowest = max(self.outcome.slowest, time.monotonic() - started)
            if streams and not stays:
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask
    ) -> bool:
        """Asks, checks the answer, and tells whether the connection stays."""
        writer.write(ask.head())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head[9:12])
        if "transfer-encoding: chunked" in head:
            size = await self._chunks(reader)
        else:
            size = int(head.partition("content-length:")[2].partition("\r\n")[0])
            await reader.readexactly(size)
        if status != ask.status:
            raise ValueError(f"status {status}")
        if ask.size is not None and size != ask.size:
            raise ValueError(f"{size} bytes, not {ask.size}")
        self.outcome.answered += 1
        if ask.key:
            self.outcome.answered_keys.append(ask.key)
        return "connection: close" not in head

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> int:
        total = 0
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            await reader.readexactly(size + 2)
            total += size
        await reader.readuntil(b"\r\n")
        return total
