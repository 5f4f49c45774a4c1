"""`evener gunicorn`: people's gunicorn files, as they are, with their hooks."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from running import PROGRAM, SHOP, alive, eventually, free_port
from wire import Response, Wire

FILE = """
import multiprocessing

bind = "127.0.0.1:{port}"
backlog = 2048
workers = 2
worker_class = "uvicorn.workers.UvicornWorker"
worker_connections = 1000
max_requests = 10000
timeout = 30
worker_tmp_dir = "/dev/shm"
threads = 1
keepalive = 5
accesslog = "-"
errorlog = "-"
loglevel = "info"
proc_name = "fastapi_app"
pidfile = "{folder}/gunicorn.pid"
user = None
tmp_upload_dir = None
{more}

def say(line):
    with open("{folder}/hooks", "a") as out:
        out.write(line + "\\n")

def on_starting(server):
    say("on_starting")

def on_reload(server):
    say("on_reload")

def when_ready(server):
    say(f"when_ready {{server.cfg.workers}}")

def pre_fork(server, worker):
    say("pre_fork")

def post_fork(server, worker):
    say(f"post_fork {{worker.pid}}")

def worker_exit(server, worker):
    say(f"worker_exit {{worker.pid}}")

def on_exit(server):
    say("on_exit")
"""


GUIDED = """
import multiprocessing
import sys

# Several processes write to one pipe here, and gunicorn's would write a line in two pieces.
sys.stdout.reconfigure(line_buffering=True, write_through=False)

bind = "0.0.0.0:8000"
backlog = 2048
workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "uvicorn.workers.UvicornWorker"
worker_connections = 1000
max_requests = 10000
max_requests_jitter = 1000
timeout = 30
keepalive = 5
accesslog = "-"
errorlog = "-"
loglevel = "info"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(D)s'
proc_name = "fastapi_app"
daemon = False
pidfile = "/tmp/gunicorn.pid"
user = None
group = None
tmp_upload_dir = None


def on_starting(server):
    print("hook: starting")

def on_reload(server):
    print("hook: reload")

def when_ready(server):
    print(f"hook: ready, {server.cfg.workers} workers")

def pre_fork(server, worker):
    assert worker.pid == "[booting]"
    print("hook: forks")

def post_fork(server, worker):
    print(f"hook: forked worker {worker.pid}")

def pre_exec(server):
    print("hook: pre-exec")

def worker_int(worker):
    print(f"hook: interrupted worker {worker.pid}")

def worker_abort(worker):
    print(f"hook: aborted worker {worker.pid}")
"""


class Gunicorn:
    """A running `evener gunicorn`."""

    def __init__(self, folder: Path, *flags: str, more: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.file = folder / "gunicorn_config.py"
        self.file.write_text(FILE.format(port=self.port, folder=folder, more=more))
        command = [str(PROGRAM), "gunicorn", "app.main:app", "--chdir", str(SHOP)]
        command += ["-c", str(self.file), *flags]
        variables = {**os.environ, "SHOP_DATA": str(folder / "shop")}
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=variables
            )

    def get(self, path: str) -> Response:
        """One GET."""
        with Wire(self.port) as wire:
            return wire.get(path)

    def answers(self) -> bool:
        """Whether it serves."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/lab/worker").status == 200
        except (OSError, EOFError):
            return False

    def hooks(self) -> list[str]:
        """What the hooks have said."""
        path = self.folder / "hooks"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def count(self, hook: str) -> int:
        """How often a hook was called."""
        return sum(line.split()[0] == hook for line in self.hooks())

    def stop(self) -> int:
        """Ends it."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Gunicorn]:
    running = Gunicorn(tmp_path, more='worker_conections = 5\nraw_env = ["COLOUR=bay"]')
    try:
        eventually(running.answers, "it answers", 30, 0.1)
        eventually(lambda: running.count("post_fork") == 2, "two workers", 30, 0.1)
        yield running
    finally:
        running.stop()


def test_a_file_with_hooks_is_served_as_it_is(gunicorn: Gunicorn) -> None:
    assert gunicorn.hooks()[:2] == ["on_starting", "when_ready 2"]
    assert gunicorn.count("pre_fork") == 2
    pid = int((gunicorn.folder / "gunicorn.pid").read_text())
    assert pid == gunicorn.process.pid
    words = gunicorn.log.read_text()
    assert re.search(r"worker_conections.*worker_connections", words), "the nearest name"
    assert re.search(r"gunicorn_config.py.*: worker_tmp_dir has no effect: .*", words)
    assert "threads has no effect" not in words, "it is 1 anyway"
    assert "workers has no effect" not in words
    assert gunicorn.stop() == 0
    assert gunicorn.hooks()[-1] == "on_exit"
    assert gunicorn.count("worker_exit") == 2
    assert not (gunicorn.folder / "gunicorn.pid").exists()


def test_hooks_that_print_are_seen_in_gunicorns_order(tmp_path: Path) -> None:
    """A file of the shape that guides print: settings and hooks in one, hooks that print."""
    (tmp_path / "guided.py").write_text(GUIDED)
    seen = []
    for program in ([sys.executable, "-m", "gunicorn"], [str(PROGRAM), "gunicorn"]):
        port = free_port()
        command = [*program, "app.main:app", "-c", str(tmp_path / "guided.py")]
        # A port, a count and places of the test's own; all else is the file's.
        command += ["-b", f"127.0.0.1:{port}", "-w", "2", "-p", str(tmp_path / "pid")]
        command += ["--chdir", str(SHOP)]
        variables = {**os.environ, "SHOP_DATA": str(tmp_path / "shop"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables, text=True
        )
        assert process.stdout is not None
        lines: list[str] = []

        def until(count: int, word: str, lines: list[str], stdout: IO[str]) -> None:
            while sum(word in line for line in lines) < count:
                line = stdout.readline()
                assert line, lines
                lines.append(line.strip())

        until(2, "forked", lines, process.stdout)
        eventually(partial(answers_on, port), "it answers", 30, 0.05)
        process.send_signal(signal.SIGHUP)
        until(4, "forked", lines, process.stdout)
        process.terminate()
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        lines += rest.split("\n")
        seen.append(lines)
    expected, told = (
        [re.sub(r"\d{3,}", "N", line) for line in lines if line.startswith("hook:")]
        for lines in seen
    )
    assert told[:3] == expected[:3] == ["hook: starting", "hook: ready, 2 workers", "hook: forks"]
    # Between a fork and the worker's first line the next fork may come, in either program.
    for word in ("starting", "ready", "forks", "forked", "reload"):
        assert sum(word in line for line in told) == sum(word in line for line in expected), word
    assert [line for line in told if "ed worker" not in line] == [
        line for line in expected if "ed worker" not in line
    ]
    log = seen[1]
    assert any(re.search(r'"GET /lab/worker HTTP/1.1" 200 \d+ "-" "-" \d+$', line) for line in log)


def answers_on(port: int) -> bool:
    """Whether the shop answers on this port."""
    try:
        with Wire(port) as wire:
            return wire.get("/lab/worker").status == 200
    except (OSError, EOFError):
        return False


def test_hup_reads_the_file_again_and_replaces_the_workers(gunicorn: Gunicorn) -> None:
    before = {line.split()[1] for line in gunicorn.hooks() if line.startswith("post_fork")}
    text = gunicorn.file.read_text().replace("workers = 2", "workers = 3")
    gunicorn.file.write_text(text)
    gunicorn.process.send_signal(signal.SIGHUP)
    eventually(lambda: gunicorn.count("on_reload") == 1, "on_reload", 20, 0.1)
    eventually(lambda: gunicorn.count("post_fork") >= 5, "three new workers", 40, 0.1)
    eventually(lambda: not any(alive(int(pid)) for pid in before), "the old ones end", 40, 0.1)
    assert gunicorn.get("/lab/worker").status == 200


def test_ttin_and_ttou_change_the_number_of_workers(gunicorn: Gunicorn) -> None:
    gunicorn.process.send_signal(signal.SIGTTIN)
    eventually(lambda: gunicorn.count("post_fork") == 3, "one more", 20, 0.1)
    gunicorn.process.send_signal(signal.SIGTTOU)
    eventually(lambda: gunicorn.count("worker_exit") == 1, "one fewer", 20, 0.1)
    assert gunicorn.get("/lab/worker").status == 200


def test_a_killed_worker_is_replaced(gunicorn: Gunicorn) -> None:
    victim = gunicorn.get("/lab/worker").json()["worker"]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: gunicorn.count("post_fork") == 3, "another one", 20, 0.1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(victim):
        time.sleep(0.05)
    assert not alive(victim), "it was reaped"


@pytest.mark.parametrize(
    ("more", "flags", "expected"),
    [
        ("workers = 'many'", [], "workers"),
        ("worker_class = 'gevent'", [], "gevent"),
        ("1 / 0", [], "ZeroDivisionError"),
        ("", ["--workerz", "3"], "--workers"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, more: str, flags: list[str], expected: str
) -> None:
    running = Gunicorn(tmp_path, *flags, more=more)
    try:
        assert running.process.wait(20) != 0
    finally:
        running.stop()
    words = running.log.read_text()
    assert expected in words, words
    assert "panicked" not in words
