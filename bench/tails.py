"""How long fast requests wait while others block their worker's event loop.

Open loop: requests are due at the times of a seeded Poisson process, whatever became of those
before them, and their latency counts from the time they were due, so that a stall cannot hide what
it delays. A share of them blocks the worker's loop; only the others' latencies are shown. Every
stack gets the same schedule, in interleaved rounds, over keep-alive connections.

    python bench/tails.py [--rounds N] [--seconds S] [--rate R] [--share P] [--only NAME …]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from stacks import Stack, evener, free_port, nginx, running, uvicorn

APP = "worker_apps:tails"
CONNECTIONS = 64


@dataclass
class Result:
    """What one stack made of the load."""

    fast: list[float] = field(default_factory=list)
    failed: int = 0

    def quantile(self, share: float) -> float:
        """A quantile of the fast requests' latency, in milliseconds."""
        ordered = sorted(self.fast)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000


class Client:
    """Keep-alive connections, the one used last first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.places = asyncio.Semaphore(CONNECTIONS)

    async def open_all(self) -> None:
        """Opens every connection before the load starts."""
        for _ in range(CONNECTIONS):
            self.idle.append(await asyncio.open_connection("127.0.0.1", self.port))
        for reader, writer in self.idle:
            await ask(reader, writer, "/fast")

    async def request(self, path: str) -> bool:
        """Asks once; whether the answer was whole and right."""
        async with self.places:
            reader, writer = self.idle.pop()
            try:
                done = await ask(reader, writer, path)
            except (OSError, asyncio.IncompleteReadError):
                done = False
            if not done:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.idle.append((reader, writer))
            return done

    def close(self) -> None:
        """Closes every connection."""
        for _, writer in self.idle:
            writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bool:
    """One request on one connection."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    return head.startswith(b"http/1.1 200") and body == b"ok"


async def load(stack: Stack, options: argparse.Namespace, seed: int, result: Result) -> None:
    """One round against one stack."""
    client = Client(stack.port)
    await client.open_all()
    chance = random.Random(seed)
    under_way: list[asyncio.Task[None]] = []
    start = time.perf_counter()
    due = 0.0

    async def one(at: float, path: str) -> None:
        done = await client.request(path)
        if not done:
            result.failed += 1
        elif path == "/fast":
            result.fast.append(time.perf_counter() - at)

    while due < options.seconds:
        due += chance.expovariate(options.rate)
        path = "/block" if chance.random() < options.share else "/fast"
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        under_way.append(asyncio.create_task(one(start + due, path)))
    await asyncio.gather(*under_way)
    client.close()


def stacks(folder: Path, names: list[str], enter: ExitStack) -> list[Stack]:
    """Two workers each."""
    running_stacks = []
    for name in names:
        port = free_port()
        if name == "evener":
            commands = [evener(folder, APP, port, "--workers", "2")]
        elif name == "uvicorn --workers":
            keep = ("--timeout-keep-alive", "3600")
            commands = [uvicorn(APP, "--port", str(port), "--workers", "2", *keep)]
        else:
            sockets = [folder / f"{index}.sock" for index in range(2)]
            keep = ("--timeout-keep-alive", "3600")
            commands = [uvicorn(APP, "--uds", str(socket), *keep) for socket in sockets]
            upstreams = [f"unix:{socket}" for socket in sockets]
            commands.append(nginx(folder, port, upstreams, "least_conn;"))
        running_stacks.append(enter.enter_context(running(name, port, commands, "/fast")))
    return running_stacks


def main() -> None:
    """Measures and prints."""
    names = ["evener", "nginx least_conn", "uvicorn --workers"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rate", type=float, default=60)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    results = {name: Result() for name in options.only}
    with tempfile.TemporaryDirectory(prefix="evener-bench-") as folder, ExitStack() as enter:
        all_stacks = stacks(Path(folder), options.only, enter)
        for round_number in range(options.rounds):
            for stack in all_stacks:
                seed = options.seed + round_number
                asyncio.run(load(stack, options, seed, results[stack.name]))
                p99 = results[stack.name].quantile(0.99)
                print(
                    f"round {round_number + 1}, {stack.name}: p99 so far {p99:.1f} ms", flush=True
                )
    print(f"\n{options.rate:g} requests a second, {options.share:.1%} block, seed {options.seed}")
    ours = results.get("evener")
    for name, result in results.items():
        p50, p99, p999 = (result.quantile(share) for share in (0.5, 0.99, 0.999))
        ratio = f"; ours is {ours.quantile(0.99) / p99:.2f} of its p99" if ours else ""
        print(
            f"{name:20} fast requests: p50 {p50:.1f} p99 {p99:.1f} p99.9 {p999:.1f} ms"
            f" of {len(result.fast)}, {result.failed} failed{ratio}"
        )


if __name__ == "__main__":
    main()
