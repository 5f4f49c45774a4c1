"""CPU per request of the data plane against nginx, and of the whole path against uvicorn.

Both proxies run on one CPU, wrk and the origin on another; rounds are interleaved and medians
shown, with the smallest and the largest ratio of a round. What counts is the CPU time of the whole
process tree over exactly the window, divided by the requests that were answered in it.

    python bench/edge.py [--rounds N] [--seconds S] [--only proxy|path …]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from stacks import ROOT, Stack, evener, free_port, nginx, running, uvicorn

SERVER_CPU, CLIENT_CPU = "0", "1"
EXAMPLES = ROOT / "target" / "release" / "examples"
BUILD = ["cargo", "build", "--quiet", "--release", "-p", "evener-edge", "--examples"]
"""Size of the response and number of connections, with the ratio that is aimed for."""
PROXY_CASES = {
    "100 B x 64": (100, 64, None),
    "1 kB x 64": (1024, 64, 0.80),
    "16 kB x 64": (16384, 64, 0.62),
    "1 kB x 512": (1024, 512, None),
    "1 MB x 64": (1048576, 64, None),
}


def load(stack: Stack, path: str, connections: int, seconds: float) -> int:
    """Keeps the stack busy; returns how many requests were answered, all of them with 200."""
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s"]
    done = subprocess.run(
        ["taskset", "-c", CLIENT_CPU, *wrk, f"http://127.0.0.1:{stack.port}{path}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise SystemExit(f"{stack.name} failed under load:\n{done}")
    found = re.search(r"(\d+) requests in", done)
    assert found is not None, done
    return int(found[1])


def compare(
    title: str,
    stacks: list[Stack],
    work: tuple[str, int],
    options: argparse.Namespace,
    targets: dict[str, float],
) -> None:
    """Measures the stacks in turn; the first is Evener, the others are what it is held against."""
    path, connections = work
    costs: dict[str, list[float]] = {stack.name: [] for stack in stacks}
    for stack in stacks:
        load(stack, path, connections, 1)
    for _ in range(options.rounds):
        for stack in stacks:
            before = stack.cpu_seconds()
            answered = load(stack, path, connections, options.seconds)
            costs[stack.name].append((stack.cpu_seconds() - before) / answered * 1e6)
    ours = stacks[0].name
    print(f"{title}: {ours} {statistics.median(costs[ours]):.1f} us a request")
    for stack in stacks[1:]:
        ratios = [a / b for a, b in zip(costs[ours], costs[stack.name], strict=True)]
        median = statistics.median(costs[ours]) / statistics.median(costs[stack.name])
        target = targets.get(stack.name)
        aim = f", aim {target:.2f}" if target else ""
        print(
            f"    {median:.2f} x {stack.name} ({statistics.median(costs[stack.name]):.1f} us; "
            f"rounds {min(ratios):.2f} to {max(ratios):.2f}{aim})",
            flush=True,
        )


def proxy_cases(folder: Path, options: argparse.Namespace) -> None:
    """The data plane alone before four endpoints, against nginx before the same four."""
    subprocess.run(BUILD, cwd=ROOT, check=True)
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    ours, theirs = free_port(), free_port()
    origin_port = int(endpoints[0].partition(":")[2])
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(
            running(
                "origin",
                origin_port,
                [[str(EXAMPLES / "origin"), *endpoints]],
                "/1",
                CLIENT_CPU,
            )
        )
        proxy = [str(EXAMPLES / "proxy"), f"127.0.0.1:{ours}", *endpoints]
        stacks = [
            enter(running("evener", ours, [proxy], "/1", SERVER_CPU)),
            enter(running("nginx", theirs, [nginx(folder, theirs, endpoints)], "/1", SERVER_CPU)),
        ]
        for title, (size, connections, target) in PROXY_CASES.items():
            targets = {"nginx": target} if target else {}
            compare(title, stacks, (f"/{size}", connections), options, targets)


def path_cases(folder: Path, options: argparse.Namespace) -> None:
    """One worker behind Evener's edge, against uvicorn alone and nginx before uvicorn."""
    app, path = "worker_apps:fastapi", "/items/7?q=some"
    ours, alone, front = free_port(), free_port(), free_port()
    socket = folder / "uvicorn.sock"
    behind = uvicorn(app, "--uds", str(socket), "--timeout-keep-alive", "3600")
    with ExitStack() as stack:
        enter = stack.enter_context
        stacks = [
            enter(running("evener", ours, [evener(folder, app, ours)], path, SERVER_CPU)),
            enter(
                running("uvicorn", alone, [uvicorn(app, "--port", str(alone))], path, SERVER_CPU)
            ),
            enter(
                running(
                    "nginx + uvicorn",
                    front,
                    [behind, nginx(folder, front, [f"unix:{socket}"])],
                    path,
                    SERVER_CPU,
                )
            ),
        ]
        targets = {"uvicorn": 0.85, "nginx + uvicorn": 0.72}
        compare("FastAPI GET, whole path x 64", stacks, (path, 64), options, targets)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=["proxy", "path"], default=["proxy", "path"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evener-bench-") as folder:
        if "proxy" in options.only:
            proxy_cases(Path(folder), options)
        if "path" in options.only:
            path_cases(Path(folder), options)


if __name__ == "__main__":
    main()
