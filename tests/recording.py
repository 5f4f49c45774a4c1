"""One recording configuration, run by real gunicorn or by `evener gunicorn`: every hook writes one
line that tells its name, what it was called with, and in which process.

Who is meant is told by a worker's `age`, which both programs count from 1 in the order of pre_fork.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals

from running import PROGRAM, eventually, free_port
from wire import Wire

GUNICORN = [sys.executable, "-m", "gunicorn"]
EVENER = [str(PROGRAM), "gunicorn"]

CONFIGURATION = '''
import json
import os

bind = "127.0.0.1:{port}"
workers = 2
worker_class = "{worker_class}"
accesslog = "{folder}/access"
errorlog = "-"
loglevel = "debug"
pidfile = "{folder}/pid"
control_socket_disable = True
graceful_timeout = 5
{settings}


def note(hook, *arguments):
    """One line: the hook, its arguments, and the process that it ran in."""
    own, told = "server", []
    for argument in arguments:
        if hasattr(argument, "WORKERS"):
            told.append("server")
        elif hasattr(argument, "age"):
            name = f"worker {{argument.age}}"
            if argument.pid == os.getpid():
                own = name
            told.append(name)
        else:
            told.append(argument if isinstance(argument, int | None) else str(argument))
    line = json.dumps({{"hook": hook, "arguments": told, "process": own, "pid": os.getpid()}})
    with open("{folder}/hooks", "a") as file:
        file.write(line + "\\n")


def on_starting(server):
    note("on_starting", server)

def on_reload(server):
    note("on_reload", server)

def when_ready(server):
    note("when_ready", server)

def pre_fork(server, worker):
    note("pre_fork", server, worker)

def post_fork(server, worker):
    note("post_fork", server, worker)

def post_worker_init(worker):
    note("post_worker_init", worker)

def worker_int(worker):
    note("worker_int", worker)

def worker_abort(worker):
    note("worker_abort", worker)

def pre_exec(server):
    note("pre_exec", server)

def pre_request(worker, req):
    if req.path == "/hooked":
        told = f"{{req.method}} {{req.uri}} {{req.version}}"
        note("pre_request", worker, told, headers(req.headers))

def post_request(worker, req, environ, resp):
    if req.path == "/hooked":
        names = ["REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL"]
        told = [environ[name] for name in [*names, "REMOTE_ADDR", "HTTP_X_TOLD"]]
        note("post_request", worker, req.uri, told, resp.status, resp.sent, headers(resp.headers))

def headers(pairs):
    """What the application and the client have said, without what servers add."""
    return sorted(f"{{name}}: {{value}}" for name, value in pairs if "told" in name.lower())

def child_exit(server, worker):
    note("child_exit", server, worker)

def worker_exit(server, worker):
    note("worker_exit", server, worker)

def nworkers_changed(server, new, old):
    note("nworkers_changed", server, new, old)

def on_exit(server):
    note("on_exit", server)
'''

APPLICATION = """
import asyncio
import os

SECONDS = {"/second": 1, "/slow": 30}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] in SECONDS:
        print("asked", flush=True)
        await asyncio.sleep(SECONDS[scope["path"]])
    headers = [(b"x-told", b"answer")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@dataclass(frozen=True)
class Called:
    """One call of a hook."""

    hook: str
    arguments: tuple[object, ...]
    process: str
    pid: int

    def __str__(self) -> str:
        told = ", ".join(map(str, self.arguments))
        return f"{self.process}: {self.hook}({told})"

    @property
    def age(self) -> int | None:
        """The age of the worker that it is about."""
        for argument in self.arguments:
            if isinstance(argument, str) and argument.startswith("worker "):
                return int(argument.removeprefix("worker "))
        return None


class Recorded:
    """A running server that records its hooks."""

    def __init__(
        self,
        program: list[str],
        folder: Path,
        *flags: str,
        settings: str = "",
        more: str = "",
        worker_class: str = "uvicorn.workers.UvicornWorker",
        environment: dict[str, str] | None = None,
        app: str = "recorded:app",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        (folder / "recorded.py").write_text(APPLICATION)
        self.file = folder / "gunicorn_config.py"
        self.write(settings, worker_class, more)
        command = [*program, app, "-c", str(self.file), "--chdir", str(folder), *flags]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )

    def write(
        self,
        settings: str,
        worker_class: str = "uvicorn.workers.UvicornWorker",
        more: str = "",
    ) -> None:
        """Writes its configuration; `more` comes last, and may define hooks anew."""
        text = CONFIGURATION.format(
            port=self.port, folder=self.folder, settings=settings, worker_class=worker_class
        )
        self.file.write_text(text + more)

    def calls(self) -> list[Called]:
        """The calls so far, in the order of their lines."""
        path = self.folder / "hooks"
        told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [
            Called(one["hook"], tuple(one["arguments"]), one["process"], one["pid"]) for one in told
        ]

    def count(self, hook: str) -> int:
        """How often a hook was called."""
        return sum(call.hook == hook for call in self.calls())

    def until(self, hook: str, count: int, seconds: float = 30) -> None:
        """Waits until a hook was called so often."""
        try:
            eventually(lambda: self.count(hook) >= count, f"{count} times {hook}", seconds, 0.05)
        except AssertionError as error:
            told = "\n".join(map(str, self.calls()))
            raise AssertionError(f"{error}\n{told}\n{self.words()}") from None

    def workers(self) -> dict[int, int]:
        """The process ids of workers that have been forked, by age."""
        return {call.age or 0: call.pid for call in self.calls() if call.hook == "post_fork"}

    def get(self, path: str = "/", *fields: str) -> str:
        """The body of one answer."""
        with Wire(self.port) as wire:
            response = wire.get(path, *fields)
        assert response.status == 200, response
        return response.body.decode()

    def answers(self) -> bool:
        """Whether it serves; it must not have ended."""
        assert self.process.poll() is None, self.words()
        return self.serves()

    def serves(self) -> bool:
        """Whether somebody answers on its port."""
        try:
            return bool(self.get())
        except (OSError, EOFError, AssertionError):
            return False

    def wait(self, count: int = 2) -> "Recorded":
        """Waits until so many workers are there and a request is answered."""
        self.until("post_worker_init", count)
        eventually(self.answers, "it answers", 30, 0.05)
        return self

    def signal(self, number: Signals) -> None:
        """Sends a signal to the program."""
        self.process.send_signal(number)

    def words(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def stop(self, number: Signals = SIGTERM) -> int:
        """Ends it, by a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
