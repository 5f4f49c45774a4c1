"""An endpoint that goes wrong on demand: it answers GETs, and obeys lines on standard input.

    endpoint.py --host 127.0.0.2 --port 8001 --health-port 8002

    delay 0.5       answers half a second later
    status 503      answers with this status
    refuse          listens no longer, and resets its connections
    accept          listens again

The other port is for health checks, and does as the first one does. Being killed and stopped needs
no line. Nothing but Python is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys


class Endpoint:
    """What it does at present, for both ports."""

    def __init__(self, host: str, ports: list[int]) -> None:
        self.host = host
        self.ports = ports
        self.delay = 0.0
        self.status = 200
        self.listening: list[asyncio.Server] = []
        self.open: set[asyncio.StreamWriter] = set()

    async def accept(self) -> None:
        """Listens."""
        if not self.listening:
            self.listening = [
                await asyncio.start_server(self.serve, self.host, port, reuse_address=True)
                for port in self.ports
            ]

    def refuse(self) -> None:
        """Listens no longer."""
        for server in self.listening:
            server.close()
        self.listening.clear()
        for writer in self.open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers requests on one connection; each answer says whose it is."""
        self.open.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.delay:
                    await asyncio.sleep(self.delay)
                body = self.host.encode()
                head = f"HTTP/1.1 {self.status} Told\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def obey(self, line: str) -> None:
        """Does what a line says."""
        verb, _, value = line.partition(" ")
        if verb == "delay":
            self.delay = float(value)
        elif verb == "status":
            self.status = int(value)
        elif verb == "refuse":
            self.refuse()
        elif verb == "accept":
            await self.accept()


async def run(endpoint: Endpoint) -> None:
    """Serves until standard input ends."""
    await endpoint.accept()
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        await endpoint.obey(line.decode().strip())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--health-port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(run(Endpoint(options.host, [options.port, options.health_port])))


if __name__ == "__main__":
    main()
