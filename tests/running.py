"""Starts and stops the built program for a test, and waits for conditions with a deadline.

Everything goes through the program's own doors: its command line, its port, its admin socket.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wire import Response, Wire

ROOT = Path(__file__).resolve().parent.parent
SHOP = ROOT / "examples" / "shop"
PROGRAM = Path(os.environ.get("EVENER") or Path(sys.executable).parent / "evener")
START_SECONDS = 40.0
STOP_SECONDS = 20.0

OWN = ["--worker", "evener"]  # Evener's own kind of worker, whatever the default is

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], what: str, seconds: float = 10.0, every: float = 0.02
) -> T:
    """Waits until a condition gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; it ended as {value!r}")
        time.sleep(every)


def free_port() -> int:
    """A port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def uvicorn_command(app: str = "app.main:app", folder: Path = SHOP) -> str:
    """The command line of a uvicorn worker, for `--worker-command`."""
    return (
        f"{sys.executable} -m uvicorn {app} --app-dir {folder}"
        " --uds {socket} --log-level warning --timeout-graceful-shutdown 5 --forwarded-allow-ips *"
    )


def origin_command() -> str:
    """The command line of a worker that misbehaves as the request's path says."""
    return f"{sys.executable} {ROOT / 'tests' / 'origin.py'} --socket {{socket}}"


class Evener:
    """One running `evener run`, stopped by its process id when the test ends."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        app: str | None = "app.main:app",
        app_dir: Path | None = SHOP,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self._prepare(folder)
        command = [*program, str(PROGRAM), "run"]
        command += [app] if app else []
        command += ["--app-dir", str(app_dir)] if app_dir else []
        command += ["--port", str(self.port), "--admin", str(self.admin), *arguments]
        self._begin(command, environment)

    def _prepare(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.admin = folder / "admin.sock"
        self.log = folder / "evener.log"

    def _begin(self, command: list[str], environment: dict[str, str] | None) -> None:
        self.command = command
        data = str(self.folder / "shop")
        variables = {**os.environ, "SHOP_DATA": data, **(environment or {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=variables
            )

    @property
    def pid(self) -> int:
        """The process id of the program itself."""
        return self.process.pid

    def words(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def wait_until_ready(self, path: str = "/lab/worker", workers: int = 1) -> None:
        """Waits until so many workers are ready and a request is answered."""

        def answers() -> bool:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise AssertionError(f"ended with {status} instead of serving:\n{self.words()}")
            try:
                return self.get(path).status < 500 and len(self.ready()) >= workers
            except (OSError, EOFError, AssertionError):
                return False

        try:
            eventually(answers, f"{workers} workers ready", START_SECONDS, every=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.words()}") from None

    def wire(self) -> Wire:
        """A raw connection to its port."""
        return Wire(self.port)

    def get(self, path: str, *fields: str) -> Response:
        """One GET on a connection of its own."""
        with self.wire() as wire:
            return wire.get(path, *fields)

    def url(self, path: str = "", scheme: str = "http") -> str:
        """The address of a path."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def tell(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `evener WORDS` against its admin socket."""
        command = [str(PROGRAM), *words, "--admin", str(self.admin)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def ask(self, *words: str) -> Any:
        """The JSON that `evener WORDS --json` answers."""
        return json.loads(self.tell(*words, "--json").stdout)

    def ask_api(self, path: str) -> Any:
        """What the admin API answers at a path."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(str(self.admin))
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while piece := stream.recv(65536):
                answer += piece
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def metric(self, name: str) -> float:
        """A number without labels of the metrics page."""
        for line in self._metrics().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"{name} is not on the metrics page")

    def _metrics(self) -> str:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(str(self.admin))
            stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            page = b""
            while piece := stream.recv(65536):
                page += piece
        return page.decode()

    def sockets(self) -> int:
        """How many sockets the program itself holds open."""
        count = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                count += str(link.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue
        return count

    def workers(self) -> list[dict[str, Any]]:
        """The workers as `evener workers --json` lists them."""
        answer = self.ask("workers")
        listed: list[dict[str, Any]] = answer["workers"] if isinstance(answer, dict) else answer
        return listed

    def ready(self) -> set[int]:
        """The process ids of the workers that take traffic."""
        return {worker["pid"] for worker in self.workers() if worker["state"] == "ready"}

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Asks it to end by SIGTERM and returns its exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"did not stop within {seconds} s of SIGTERM:\n{self.words()}"
            ) from None

    def descendants(self) -> set[int]:
        """The process ids of all processes below it."""
        found: set[int] = set()
        look = [self.pid]
        while look:
            parent = look.pop()
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    children = {int(child) for child in task.read_text().split()}
                except FileNotFoundError:
                    continue
                look += children - found
                found |= children
        return found


class Served(Evener):
    """One running `evener serve`: `PORT` in the file is its port."""

    def __init__(self, folder: Path, text: str, environment: dict[str, str] | None = None) -> None:
        self._prepare(folder)
        self.file = folder / "evener.toml"
        self.write(text)
        self._begin([str(PROGRAM), "serve", "-c", str(self.file)], environment)

    def write(self, text: str) -> None:
        """Writes its file anew; it is not told."""
        head = "" if "[[listener]]" in text else '[[listener]]\naddress = "127.0.0.1:PORT"\n'
        text = f'{head}{text}\n[admin]\nsocket = "{self.admin}"\n'
        self.file.write_text(text.replace("PORT", str(self.port)))

    def wait_until_ready(self, path: str = "/who", workers: int = 0) -> None:
        """Waits until a request is answered, well or not."""

        def answers() -> bool:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise AssertionError(f"ended with {status} instead of serving:\n{self.words()}")
            try:
                return self.get(path).status < 500 and len(self.ready()) >= workers
            except (OSError, EOFError, AssertionError):
                return False

        eventually(answers, "an answer", START_SECONDS, every=0.05)

    def who(self, path: str = "/who", *fields: str, host: str = "test") -> str:
        """The name of the origin that answers."""
        with self.wire() as wire:
            wire.request("GET", path, *fields, host=host)
            response = wire.response()
        assert response.status == 200, (response.status, response.body)
        name: str = response.json()["name"]
        return name


class Origin:
    """One endpoint that is no worker of ours: `tests/origin.py` on a port or a unix socket."""

    def __init__(
        self,
        name: str,
        path: Path | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.host = host
        self.port = port or free_port()
        self.address = f"unix:{path}" if path else f"{host}:{self.port}"
        self.path = path
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the process, if it does not run, and waits until it listens."""
        where = ["--host", self.host, "--port", str(self.port)]
        if self.path:
            where = ["--socket", str(self.path)]
        command = [sys.executable, str(ROOT / "tests" / "origin.py"), *where]
        variables = {**os.environ, "ORIGIN_NAME": self.name}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables)
        eventually(self.listens, f"origin {self.name} listens")

    def listens(self) -> bool:
        """Whether somebody can connect to it."""
        family = socket.AF_UNIX if self.path else socket.AF_INET
        with socket.socket(family) as probe:
            where = str(self.path) if self.path else (self.host, self.port)
            return probe.connect_ex(where) == 0

    def events(self) -> list[str]:
        """What it has noted, asked without the edge."""
        with Wire(self.port) as wire:
            noted: list[str] = wire.get("/events").json()
        return noted

    def go(self) -> None:
        """Lets one of those that wait at it go on."""
        with Wire(self.port) as wire:
            assert wire.get("/sse-go").status == 200

    def stop(self) -> None:
        """Ends the process."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.path:
            self.path.unlink(missing_ok=True)


Start = Callable[..., Evener]
Serve = Callable[..., Served]
Origins = Callable[..., Origin]
