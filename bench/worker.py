"""CPU per request of an ASGI server: Evener's worker against uvicorn and granian.

Each server runs one process, pinned to one CPU; wrk, pinned to another, keeps it busy over 64
keep-alive connections. What counts is the server process's own CPU time (user and system, from
/proc) divided by the requests that were answered. Rounds are interleaved, so that a disturbance
hits all servers alike; medians are shown.

    python bench/worker.py [--rounds N] [--seconds S] [--only NAME …] [--servers NAME …]
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONNECTIONS = 64
SERVER_CPU, CLIENT_CPU = "0", "1"

ITEM = (
    '{"name":"a thing","price":12.5,"tags":["one","two","three","four"],"description":"'
    + "words and more words " * 45
    + '"}'
)
POST_SCRIPT = f"""
wrk.method = "POST"
wrk.body = [=[{ITEM}]=]
wrk.headers["Content-Type"] = "application/json"
"""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    app: str
    path: str
    target: float | None
    post: bool = False


CASES = {
    "raw ASGI": Case("worker_apps:raw", "/", 0.45),
    "Starlette": Case("worker_apps:starlette", "/", None),
    "FastAPI GET": Case("worker_apps:fastapi", "/items/7?q=some", 0.78),
    "FastAPI POST 1 kB": Case("worker_apps:fastapi", "/items", 0.80, post=True),
    "stream, 20 chunks": Case("worker_apps:starlette", "/stream", 0.35),
    "64 kB": Case("worker_apps:starlette", "/large", None),
    "sync endpoint": Case("worker_apps:fastapi", "/sync", 1.05),
}


def command(server: str, app: str, port: int) -> list[str]:
    """How a server is started, each as its makers tell people to for speed."""
    python = sys.executable
    if server == "evener":
        return [python, "-m", "evener.worker", "--port", str(port), "--log-level", "warning", app]
    if server == "uvicorn":
        flags = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [python, "-m", "uvicorn", app, "--loop", "uvloop", "--http", "httptools", *flags]
    if server == "granian":
        flags = ["--interface", "asgi", "--loop", "uvloop", "--no-access-log", "--no-log"]
        return [python, "-m", "granian", *flags, "--port", str(port), app]
    raise SystemExit(f"no such server: {server}")


@contextmanager
def running(server: str, app: str) -> Iterator[tuple[int, int]]:
    """A server that answers; gives its port and the process that serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CPU, *command(server, app, port)],
        cwd=HERE,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{server} did not start") from None
                time.sleep(0.05)
        time.sleep(0.3)
        yield port, serving_process(process.pid)
    finally:
        process.terminate()
        process.wait()


def serving_process(pid: int) -> int:
    """The process itself, or the child that serves for it (granian has one)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    return pid


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, case: Case, seconds: float, script: Path) -> int:
    """Keeps the server busy; returns how many requests were answered."""
    arguments = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s"]
    if case.post:
        arguments += ["-s", str(script)]
    done = subprocess.run(
        ["taskset", "-c", CLIENT_CPU, *arguments, f"http://127.0.0.1:{port}{case.path}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise SystemExit(f"the server failed under load:\n{done}")
    found = re.search(r"(\d+) requests in", done)
    assert found is not None, done
    return int(found[1])


def measure(server: str, case: Case, seconds: float, script: Path) -> float:
    """One round: microseconds of CPU per request."""
    with running(server, case.app) as (port, pid):
        load(port, case, min(1.0, seconds), script)
        before = cpu_seconds(pid)
        answered = load(port, case, seconds, script)
        return (cpu_seconds(pid) - before) / answered * 1e6


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--servers", nargs="*", default=["evener", "uvicorn", "granian"])
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST_SCRIPT)
        script.flush()
        print(f"{'CPU µs per request':20}", *(f"{name:>9}" for name in options.servers), sep="")
        for name in options.only:
            case = CASES[name]
            rounds: dict[str, list[float]] = {server: [] for server in options.servers}
            for _ in range(options.rounds):
                for server in options.servers:
                    cost = measure(server, case, options.seconds, Path(script.name))
                    rounds[server].append(cost)
            median = {server: statistics.median(costs) for server, costs in rounds.items()}
            line = f"{name:20}" + "".join(f"{median[s]:9.1f}" for s in options.servers)
            if "evener" in median and "uvicorn" in median:
                ratio = median["evener"] / median["uvicorn"]
                target = f" (target {case.target:.2f})" if case.target else ""
                line += f"   {ratio:.2f} x uvicorn{target}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
