"""Guards speed without a clock: what a request costs in instructions, system calls, allocations.

    python bench/regress.py [--update]

The edge, and a worker with the least application, run under valgrind's callgrind and get fixed
sequences of requests, one at a time. Each sequence runs twice, with few requests and with more;
the difference is what a request costs, whatever starting up does. `bench/regress.json` has what it
cost when `--update` was last given.

System calls and allocations are the program's own doing and must not grow. Instructions depend on
the compiler and the C library too: where the baseline was made by the same ones they may grow by
3 %, elsewhere by 20 %. Without valgrind nothing is checked, and it is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from install import PROGRAMS, build
from sidebyside.places import BENCH, CACHE, free_port, program
from sidebyside.running import answers

BASELINE = BENCH / "regress.json"
FEW, MORE = 200, 800
START_SECONDS = 60.0
SAME, OTHER = 0.03, 0.20
"""How much instructions may grow: with the baseline's tools, and with any others."""
CALLS, ALLOCATIONS = 0.1, 0.05
"""How much these may grow, in numbers for each request."""
ALLOCATORS = re.compile(r"^(malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign)(@|$)")


@dataclass(frozen=True)
class Sequence:
    """The same request again and again, over one connection or a new one each."""

    request: bytes
    answer: int
    """How long the body of its answer is."""
    again: bool = True
    loose: float = 1.0
    """How much more than else its numbers may vary: a connection's end races with other things."""


def _get(path: str, fields: str = "") -> bytes:
    agent = "User-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{agent}{fields}\r\n".encode()


def _post(path: str, size: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + b"x" * size


EDGE = {
    "edge: GET, 1 kB": Sequence(_get("/1024"), 1024),
    "edge: GET, 16 kB": Sequence(_get("/16384"), 16384),
    "edge: POST 1 kB": Sequence(_post("/10", 1024), 10),
    "edge: new connection": Sequence(
        _get("/1024", "Connection: close\r\n"), 1024, again=False, loose=10
    ),
}
WORKER = {
    "worker: GET": Sequence(_get("/"), 13),
    "worker: POST 1 kB": Sequence(_post("/", 1024), 13),
}
APPLICATION = '''
"""The least application."""


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["method"] == "POST":
        await receive()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
'''


class RegressError(Exception):
    """Something does not work as it must: what, and the last words."""


@dataclass(frozen=True)
class Counted:
    """Numbers of a whole run, or for each request."""

    instructions: float
    system_calls: float
    allocations: float

    def each(self, other: Counted, requests: int) -> Counted:
        """What each of so many more requests cost."""
        return Counted(
            round((other.instructions - self.instructions) / requests),
            round((other.system_calls - self.system_calls) / requests, 2),
            round((other.allocations - self.allocations) / requests, 2),
        )


def main() -> int:
    """Counts, compares, says; the exit status is 1 if anything grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--update", action="store_true", help="make this the baseline")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: CPU regressions: valgrind is not installed (tests/install.sh)")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        found = count_all()
    except RegressError as error:
        print(f"regress: {error}", file=sys.stderr)
        return 1
    baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if options.update:
        baselines[tools()] = {name: vars(counted) for name, counted in found.items()}
        BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")
        print(f"written to {BASELINE.name} for {tools()}")
    return compare(found, baselines)


def tools() -> str:
    """What instructions depend on besides the program."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    version = rustc.stdout.split()[1]
    python = ".".join(platform.python_version_tuple()[:2])
    libc = " ".join(platform.libc_ver())
    return f"rustc {version}, {platform.machine()}, {libc}, Python {python}"


def count_all() -> dict[str, Counted]:
    """Every sequence."""
    found = {}
    build(next(built for built in PROGRAMS if built.name == "proxy"))
    proxy = program("proxy")
    if proxy is None:
        raise RegressError("the edge's example `proxy` could not be built")
    with _origin() as origin:
        for name, sequence in EDGE.items():
            found[name] = _each([str(proxy), "@address@", origin], sequence)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "least.py").write_text(APPLICATION)
        worker = [sys.executable, "-m", "evener.worker", "--host", "127.0.0.1", "--port", "@port@"]
        worker += ["--app-dir", folder, "--log-level", "error", "least:app"]
        for name, sequence in WORKER.items():
            found[name] = _each(worker, sequence)
    return found


def _each(command: list[str], sequence: Sequence) -> Counted:
    few, more = (_run(command, sequence, requests) for requests in (FEW, MORE))
    return few.each(more, MORE - FEW)


def _run(command: list[str], sequence: Sequence, requests: int) -> Counted:
    """A server under valgrind from its start to its end, with so many requests."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    filled = [part.replace("@port@", str(port)).replace("@address@", address) for part in command]
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        output = Path(folder) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
        valgrind += ["--collect-systime=yes", "--compress-strings=no", "--trace-children=no"]
        # One hash seed, so that dictionaries are laid out alike in every run.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        with (Path(folder) / "said").open("w+b") as said:
            server = subprocess.Popen(
                [*valgrind, *filled], env=environment, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                _await(server, address)
                _send(port, sequence, requests)
            except (OSError, RegressError) as error:
                said.seek(0)
                words = said.read().decode(errors="replace").strip()[-600:]
                raise RegressError(f"{error}; {filled[0]} said: {words}") from error
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait()
        return parse(output.read_text(errors="replace"))


def _await(server: subprocess.Popen[bytes], address: str) -> None:
    waited = threading.Event()
    for _ in range(int(START_SECONDS / 0.05)):
        if answers(address, None):
            return
        if server.poll() is not None:
            raise RegressError("it ended before it listened")
        waited.wait(0.05)
    raise RegressError(f"it did not listen within {START_SECONDS:.0f} s")


def _send(port: int, sequence: Sequence, requests: int) -> None:
    """One request after the other, each answered in full before the next."""
    kept: socket.socket | None = None
    for _ in range(requests):
        connection = kept or socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(sequence.request)
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < sequence.answer:
            piece = connection.recv(65536)
            if not piece:
                raise RegressError(f"closed after {received[:80]!r}")
            received += piece
        if not received.startswith(b"HTTP/1.1 200 "):
            raise RegressError(f"answered {received[:80]!r}")
        if sequence.again:
            kept = connection
            continue
        # The server ends it, as it was asked to; else its end races with the next one's begin.
        while connection.recv(65536):
            pass
        connection.close()
    if kept:
        kept.close()


def parse(text: str) -> Counted:
    """What callgrind's file says of a whole run."""
    events = re.search(r"^events: (.*)$", text, re.MULTILINE)
    totals = re.search(r"^(?:summary|totals): (.*)$", text, re.MULTILINE)
    if not events or not totals:
        raise RegressError("callgrind has left no totals")
    sums = dict(zip(events[1].split(), map(int, totals[1].split()), strict=False))
    calls = re.findall(r"^cfn=(\S+).*\n(?:cfi=.*\n|cob=.*\n)*calls=(\d+)", text, re.MULTILINE)
    allocations = sum(int(count) for name, count in calls if ALLOCATORS.match(name))
    return Counted(sums["Ir"], sums.get("sysCount", 0), allocations)


@contextlib.contextmanager
def _origin() -> Iterator[str]:
    """Answers `/N` with N bytes, whole in one write; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=[listener], daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=[connection], daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        received = b""
        while piece := connection.recv(65536):
            received += piece
            head, found, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not found or len(body) < (int(length[1]) if length else 0):
                continue
            received = b""
            size = int(head.split()[1].strip(b"/"))
            start = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(start.encode() + b"x" * size)


def compare(found: dict[str, Counted], baselines: dict[str, dict[str, dict[str, float]]]) -> int:
    """Says every number beside its baseline; 1 if any grew by more than it may."""
    key = tools()
    tolerance = SAME if key in baselines else OTHER
    baseline = baselines.get(key) or next(iter(baselines.values()), {})
    if key not in baselines:
        print(f"no baseline was made by {key}: instructions may differ by {OTHER:.0%}")
    grown = []
    for name, counted in found.items():
        before = baseline.get(name)
        if before is None:
            grown.append(f"{name} has no baseline")
            continue
        loose = {**EDGE, **WORKER}[name].loose
        verdict = [
            *judge("instructions", before, counted.instructions, min(OTHER, tolerance * loose), 0),
            *judge("system_calls", before, counted.system_calls, 0, CALLS * loose),
            *judge("allocations", before, counted.allocations, 0, ALLOCATIONS * loose),
        ]
        grown += [f"{name}: {what}" for what in verdict if what.startswith("more")]
        print(
            f"{name:24} {counted.instructions:9,.0f} instructions, "
            f"{counted.system_calls:5.2f} system calls, {counted.allocations:5.2f} allocations"
            f"{''.join(f'; {what}' for what in verdict)}"
        )
    if grown:
        print("\nwhat a request costs has grown:", *grown, sep="\n  ", file=sys.stderr)
        print("if that is meant: make regress UPDATE=1, and say why", file=sys.stderr)
    return 1 if grown else 0


def judge(
    what: str, before: dict[str, float], now: float, share: float, margin: float
) -> list[str]:
    """What is to be said of a number: nothing if it is as before, by its tolerance."""
    old = before[what]
    allowed = old * share + margin
    if abs(now - old) <= allowed:
        return []
    return [f"{'more' if now > old else 'fewer'} {what.replace('_', ' ')} than {old:,g}"]


if __name__ == "__main__":
    sys.exit(main())
