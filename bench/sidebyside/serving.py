"""Application servers, alone and behind proxies, each in its best fair configuration.

All serve an application of `apps/served.py`. `servers` run one worker on a TCP port; `STACKS` are
what people run in production, with several workers. Why each flag is there is said beside it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from sidebyside import usage
from sidebyside.places import APPS, CONFIGS, NUMBERS, ROOT, VENV, free_port
from sidebyside.proxies import MissingError, need
from sidebyside.running import Command, Deployment
from sidebyside.templates import fill, folder

# The environment that `make bench` builds; another one may be named, to measure another build.
EVENER = Path(os.environ.get("EVENER_BENCH_VENV", ROOT / ".venv")) / "bin"
APP = "served:app"
QUIET = ["--log-level", "error", "--no-access-log"]
# uvicorn[standard]: the fast loop and parser; kept connections outlive the window.
UVICORN = ["--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "3600", *QUIET]
# granian as its documentation advises for asgi on one core: one runtime thread each.
GRANIAN = ["--interface", "asgi", "--loop", "uvloop", "--no-access-log", "--log-level", "error"]
# Off by default; without it a killed worker stays dead.
GRANIAN += ["--respawn-failed-workers"]


def _python(module: str, *arguments: str) -> list[str]:
    if not (VENV / "bin" / "python").exists():
        raise MissingError(f"{module} is not installed (python bench/install.py)")
    return [str(VENV / "bin" / "python"), "-m", module, *arguments]


def evener_program(name: str) -> str:
    """A program of the environment that Evener is built in."""
    if not (EVENER / name).exists():
        raise MissingError(f"Evener is not built in {EVENER.parent} (make bench does it)")
    return str(EVENER / name)


def _command(name: str, arguments: list[str], ready: str, path: str | None = None) -> Command:
    return Command(name, arguments, ready, directory=APPS, path=path)


def worker_processes(deployment: Deployment) -> list[int]:
    """The processes that serve the application, below the supervisor named `app`."""
    root = deployment.pid("app")
    return [
        pid
        for pid in usage.tree([root])
        if pid != root and b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def hang_up(deployment: Deployment) -> None:
    """SIGHUP to the supervisor: how all of these are told to replace their workers."""
    os.kill(deployment.pid("app"), signal.SIGHUP)


def _single(server: str, app: str, path: str) -> Deployment:
    port = str(free_port())
    host = ["--host", "127.0.0.1", "--port", port]
    commands: dict[str, Callable[[], list[str]]] = {
        "evener": lambda: [
            *(evener_program("python"), "-m", "evener.worker", *host),
            *("--timeout-keep-alive", "3600", "--log-level", "error", app),
        ],
        "uvicorn": lambda: _python("uvicorn", app, *host, *UVICORN),
        "granian": lambda: _python("granian", app, *host, *GRANIAN),
        "gunicorn": lambda: _gunicorn(app, f"127.0.0.1:{port}", 1),
        "gunicorn asgi": lambda: _gunicorn(app, f"127.0.0.1:{port}", 1, kind="asgi"),
        "hypercorn": lambda: _python(
            *("hypercorn", app, "--bind", f"127.0.0.1:{port}", "--worker-class", "uvloop"),
            *("--keep-alive", "3600", "--log-level", "error"),
        ),
    }
    address = f"127.0.0.1:{port}"
    command = _command("app", commands[server](), address, path)
    return Deployment(address, [command], hang_up, worker_processes)


def _gunicorn(
    app: str, bind: str, workers: int, kind: str = "uvicorn_worker.UvicornWorker"
) -> list[str]:
    # The uvicorn worker takes uvloop and httptools when they are installed; both are.
    flags = ["-k", kind, "-w", str(workers), "-b", bind, "-c", str(CONFIGS / "gunicorn.conf.py")]
    return _python("gunicorn", app, *flags)


SERVERS = ("evener", "uvicorn", "granian", "gunicorn", "gunicorn asgi", "hypercorn")


def server(name: str, app: str, path: str) -> Callable[[], Deployment]:
    """Makes one application server with one worker."""
    return lambda: _single(name, app, path)


def _run(workers: int | str, port: int, extra: list[str]) -> Deployment:
    address = f"127.0.0.1:{port}"
    place = Path(SOCKETS.name)
    arguments = [
        evener_program("evener"),
        "run",
        APP,
        "--port",
        str(port),
        "--workers",
        str(workers),
    ]
    # Its admin socket in a place of its own, so that two runs cannot meet.
    arguments += [
        "--admin",
        str(place / f"admin-{next(NUMBERS)}.sock"),
        *QUIET,
        "--timeout-keep-alive",
        "3600",
    ]
    command = _command("app", [*arguments, *extra], address, "/fast")

    def workers_of(deployment: Deployment) -> list[int]:
        return [pid for pid in worker_processes(deployment) if pid in _leaves(deployment)]

    return Deployment(address, [command], hang_up, workers_of)


def _leaves(deployment: Deployment) -> set[int]:
    """Processes of the tree that run Python."""
    pids = usage.tree([deployment.pid("app")])
    return {pid for pid in pids if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def _alone(arguments: list[str], port: int) -> Deployment:
    address = f"127.0.0.1:{port}"
    command = _command("app", arguments, address, "/fast")
    return Deployment(address, [command], hang_up, worker_processes)


def _behind_nginx(app: list[Command], sockets: list[Path]) -> Deployment:
    port, place = free_port(), folder("nginx-app")
    servers = " ".join(f"server unix:{socket};" for socket in sockets)
    config = fill("nginx-app.conf", place, folder=place, port=port, servers=servers)
    address = f"127.0.0.1:{port}"
    arguments = [need("nginx"), "-c", str(config), "-p", str(place)]
    proxy = Command("nginx-app", arguments, address, path="/fast")
    return Deployment(address, [*app, proxy], hang_up, worker_processes)


# Of its own, and not in the project's folder: paths of sockets must be short.
SOCKETS = tempfile.TemporaryDirectory(prefix="evener-bench-")


def _sockets(count: int) -> list[Path]:
    return [Path(SOCKETS.name) / f"{next(NUMBERS)}.sock" for _ in range(count)]


def _uvicorns(sockets: list[Path]) -> list[Command]:
    """One uvicorn for each socket: so a proxy can balance requests and not connections."""
    return [
        _command(
            f"uvicorn-{index}",
            _python("uvicorn", APP, "--uds", str(path), *UVICORN),
            f"unix:{path}",
            "/fast",
        )
        for index, path in enumerate(sockets)
    ]


def _nginx_gunicorn(workers: int, extra: list[str]) -> Deployment:
    (path,) = _sockets(1)
    arguments = [*_gunicorn(APP, f"unix:{path}", workers), *extra]
    return _behind_nginx([_command("app", arguments, f"unix:{path}", "/fast")], [path])


def _nginx_granian(workers: int, extra: list[str]) -> Deployment:
    (path,) = _sockets(1)
    arguments = _python("granian", APP, "--uds", str(path), "--workers", str(workers), *GRANIAN)
    command = _command("app", [*arguments, *extra], f"unix:{path}", "/fast")
    return _behind_nginx([command], [path])


def _nginx_uvicorns(workers: int, extra: list[str]) -> Deployment:
    del extra
    sockets = _sockets(workers)
    return _behind_nginx(_uvicorns(sockets), sockets)


def _caddy_uvicorns(workers: int, extra: list[str]) -> Deployment:
    del extra
    sockets, port, place = _sockets(workers), free_port(), folder("caddy-app")
    servers = " ".join(f"unix/{path}" for path in sockets)
    config = fill("Caddyfile", place, port=port, servers=servers)
    address = f"127.0.0.1:{port}"
    arguments = [need("caddy"), "run", "--config", str(config)]
    proxy = Command("caddy-app", arguments, address, path="/fast")
    return Deployment(address, [*_uvicorns(sockets), proxy])


def _uvicorn_workers(workers: int, extra: list[str]) -> Deployment:
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    return _alone(_python("uvicorn", APP, *flags, *UVICORN, *extra), port)


def _granian_workers(workers: int, extra: list[str]) -> Deployment:
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    return _alone(_python("granian", APP, *flags, *GRANIAN, *extra), port)


STACKS: dict[str, Callable[[int, list[str]], Deployment]] = {
    "evener": lambda workers, extra: _run(workers, free_port(), extra),
    "nginx → uvicorn each": _nginx_uvicorns,
    "nginx → gunicorn": _nginx_gunicorn,
    "nginx → granian": _nginx_granian,
    "caddy → uvicorn each": _caddy_uvicorns,
    "uvicorn --workers": _uvicorn_workers,
    "granian --workers": _granian_workers,
}
"""By name: what makes them, given the number of workers and further flags of the app server."""

RELIEVED = "evener 2..4"
FOUR = "nginx → gunicorn × 4"
FURTHER_STACKS: dict[str, Callable[[int, list[str]], Deployment]] = {
    # Two workers, and up to two more while event loops stand still.
    RELIEVED: lambda _, extra: _run("2..4", free_port(), ["--preload", *extra]),
    # What people give such an application instead: twice the workers, all the time.
    FOUR: lambda _, extra: _nginx_gunicorn(4, extra),
    "evener --preload": lambda workers, extra: _run(workers, free_port(), ["--preload", *extra]),
}
"""Stacks of some cases only, by name."""


def stack(name: str, workers: int = 2, extra: list[str] | None = None) -> Callable[[], Deployment]:
    """Makes one stack."""
    return lambda: (STACKS | FURTHER_STACKS)[name](workers, extra or [])
