"""Signals to `evener gunicorn`, as gunicorn takes them: stopping at once, opening logs again, a
newer program beside the old one, going on without workers; and life as a container's first process.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from recording import EVENER, Recorded
from running import PROGRAM, alive, eventually
from wire import Response, Wire

Begin = Callable[..., Recorded]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts recording programs; they are gone when the test ends."""
    begun: list[Recorded] = []

    def start(settings: str = "", *, wait: int = 2, **more: object) -> Recorded:
        running = Recorded(EVENER, tmp_path / str(len(begun)), settings=settings, **more)  # type: ignore[arg-type]
        begun.append(running)
        return running.wait(wait) if wait else running

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop(signal.SIGQUIT)
        assert "panicked" not in running.words()


class Slow:
    """A request that takes half a minute, unless it is cut."""

    def __init__(self, running: Recorded, path: str = "/slow") -> None:
        self.answer: Response | None = None
        self._port, self._path = running.port, path
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        eventually(lambda: "asked\n" in running.words(), "the application has the request")

    def _ask(self) -> None:
        try:
            with Wire(self._port) as wire:
                self.answer = wire.get(self._path)
        except (OSError, EOFError):
            self.answer = None

    def status(self) -> int | None:
        """The answer's status; None if there was none."""
        self._thread.join(40)
        return self.answer.status if self.answer else None


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_stop_without_waiting_for_requests(
    begin: Begin, number: signal.Signals
) -> None:
    running = begin()
    slow = Slow(running)
    began = time.monotonic()
    assert running.stop(number) == 0
    assert time.monotonic() - began < 15, "the request would have taken longer"
    assert slow.status() != 200
    assert running.count("worker_int") == 2
    assert running.count("worker_exit") == 2
    assert [call.hook for call in running.calls()][-1] == "on_exit"


def test_int_hurries_a_stop_and_a_second_term_does_not(begin: Begin) -> None:
    running = begin("graceful_timeout = 60")
    slow = Slow(running)
    running.signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: " in running.words(), "it stops")
    running.signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM again" in running.words(), "it has heard it again")
    assert running.process.poll() is None
    began = time.monotonic()
    assert running.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 15
    assert slow.status() != 200


def test_term_waits_for_what_is_under_way(begin: Begin) -> None:
    running = begin("graceful_timeout = 60")
    slow = Slow(running, "/second")
    assert running.stop() == 0
    assert slow.status() == 200


REQUESTS_LOG = """
def pre_request(worker, req):
    worker.log.error("logged by a worker")
"""


def test_usr1_opens_all_logs_again(begin: Begin, tmp_path: Path) -> None:
    errors, access = tmp_path / "errors", tmp_path / "access"
    running = begin(f'errorlog = "{errors}"\naccesslog = "{access}"\n', more=REQUESTS_LOG, wait=2)
    eventually(lambda: "GET / " in access.read_text(), "a line")
    eventually(lambda: "logged by a worker" in errors.read_text(), "a worker's line")
    for path in (errors, access):
        path.rename(path.with_suffix(".1"))
    running.signal(signal.SIGUSR1)
    eventually(lambda: errors.exists() and access.exists(), "new files")

    def all_write_to_the_new_files() -> bool:
        running.get("/after")
        return "GET /after" in access.read_text() and "logged by a worker" in errors.read_text()

    eventually(all_write_to_the_new_files, "lines in the new files")
    running.signal(signal.SIGTTIN)
    eventually(lambda: "scaling from 2 to 3" in errors.read_text(), "the program's own lines too")
    assert running.count("post_fork") >= 2
    assert running.process.poll() is None


def pid_in(path: Path) -> int:
    """The process id in a file; 0 if there is none."""
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0


def answers(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_usr2_starts_a_newer_program_that_takes_over(begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    running = begin(f'bind = [bind, "unix:{path}"]')
    pidfile, beside = running.folder / "pid", running.folder / "pid.2"
    old = running.process.pid
    assert pid_in(pidfile) == old
    running.signal(signal.SIGUSR2)
    newer = eventually(lambda: pid_in(beside), "a newer program", 30)
    assert newer != old
    running.until("post_worker_init", 4)
    running.signal(signal.SIGUSR2)
    eventually(lambda: "SIGUSR2 is ignored" in running.words(), "only one at a time")
    assert running.count("pre_exec") == 1
    # Both serve side by side.
    parents: set[int] = set()

    def both() -> bool:
        stat = Path(f"/proc/{running.get()}/stat").read_text()
        parents.add(int(stat.rpartition(")")[2].split()[1]))
        return parents == {old, newer}

    eventually(both, "workers of both answer", 30, 0.005)
    # Clients that ask one thing after the other on connections that stay open notice nothing.
    load = Load(running.port, lambda: repeat(Ask("/")), 16)
    outcomes: list[Outcome] = []
    asking = threading.Thread(target=lambda: outcomes.append(asyncio.run(load.run(3))))
    asking.start()
    eventually(lambda: load.outcome.answered > 100, "a load")
    assert running.stop() == 0
    eventually(lambda: pid_in(pidfile) == newer, "it has the pid file", 30)
    asking.join()
    assert not outcomes[0].failures, outcomes[0]
    assert not beside.exists()
    assert answers(path), "the socket's file is the newer one's now"
    os.kill(newer, signal.SIGTERM)
    eventually(lambda: not alive(newer), "the newer one stops too", 30)
    assert not path.exists()
    assert not pidfile.exists()


def test_a_newer_program_that_does_not_come_up_changes_nothing(begin: Begin) -> None:
    running = begin()
    text = running.file.read_text()
    running.file.write_text(text + "\nraise RuntimeError('not this one')\n")
    running.signal(signal.SIGUSR2)
    eventually(lambda: "this one goes on" in running.words(), "it has ended", 30)
    assert "not this one" in running.words()
    assert running.get()
    running.file.write_text(text)
    running.signal(signal.SIGUSR2)
    newer = eventually(lambda: pid_in(running.folder / "pid.2"), "the next one comes up", 30)
    running.until("post_worker_init", 4)
    os.kill(newer, signal.SIGTERM)
    eventually(lambda: not alive(newer), "it has stopped", 30)
    assert running.get()


def test_pre_exec_that_raises_prevents_the_newer_program(begin: Begin) -> None:
    running = begin(more="def pre_exec(server):\n    raise RuntimeError('not now')\n")
    running.signal(signal.SIGUSR2)
    eventually(lambda: "no newer program was started" in running.words(), "it is said")
    assert "RuntimeError: not now" in running.words()
    assert running.get()
    assert not (running.folder / "pid.2").exists()


def test_winch_is_a_terminals_unless_in_the_background(begin: Begin) -> None:
    running = begin()
    running.signal(signal.SIGWINCH)
    eventually(lambda: "SIGWINCH is a terminal's" in running.words(), "it was heard")
    assert running.count("child_exit") == 0
    assert running.get()


def test_winch_lets_a_daemon_rest_until_hup(begin: Begin) -> None:
    running = begin("daemon = True\nerrorlog = __file__ + '.log'\n", wait=0)
    assert running.process.wait(20) == 0, "the foreground has gone"
    daemon = eventually(lambda: pid_in(running.folder / "pid"), "it runs", 30)
    try:
        running.until("post_worker_init", 2)
        eventually(running.serves, "it answers", 30)
        assert os.getsid(daemon) == daemon
        os.kill(daemon, signal.SIGWINCH)
        running.until("child_exit", 2)
        assert [c.arguments[1:] for c in running.calls() if c.hook == "nworkers_changed"] == [
            (2, None),
            (0, 2),
        ]
        with Wire(running.port) as waiting:
            # Nobody takes the connection, and it is not refused either.
            waiting.send(b"GET / HTTP/1.1\r\nHost: rests\r\n\r\n")
            os.kill(daemon, signal.SIGHUP)
            assert waiting.response().status == 200
        running.until("post_worker_init", 4)
    finally:
        os.kill(daemon, signal.SIGTERM)
        eventually(lambda: not alive(daemon), "it stops", 30)
    assert running.count("on_exit") == 1


ORPHANS = """
def post_worker_init(worker):
    note("post_worker_init", worker)
    if worker.age == 1:
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "0.3"])
            os._exit(0)
        os.waitpid(child, 0)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-pf", "true"], capture_output=True, check=False).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="needs the right to make a process namespace",
)
def test_it_works_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    program = ["unshare", "--pid", "--fork", "--mount-proc", *EVENER]
    running = Recorded(program, tmp_path, more=ORPHANS).wait()
    first = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    inner = int(first.read_text())
    try:
        assert Path(f"/proc/{inner}/exe").resolve() == PROGRAM.resolve()
        status = Path(f"/proc/{inner}/status").read_text()
        assert f"\nNSpid:\t{inner}\t1\n" in status

        def zombies() -> list[str]:
            mine = Path(f"/proc/{inner}/root/proc")
            stats = [path.read_text() for path in mine.glob("[0-9]*/stat")]
            return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]

        def sleeps() -> bool:
            mine = Path(f"/proc/{inner}/root/proc")
            return any("(sleep)" in path.read_text() for path in mine.glob("[0-9]*/stat"))

        eventually(lambda: not sleeps(), "the orphan is over", 10)
        eventually(lambda: not zombies(), "it has been taken note of", 10)
        os.kill(inner, signal.SIGHUP)
        running.until("post_worker_init", 4)
        assert running.get()
    finally:
        os.kill(inner, signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert running.count("on_exit") == 1


def test_hooks_go_on_in_another_nursery_when_theirs_dies(begin: Begin) -> None:
    running = begin()
    before = running.workers()
    first = next(call.pid for call in running.calls() if call.process == "server")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "starting another" in running.words(), "its death was noticed")
    assert running.get()
    os.kill(before[1], signal.SIGKILL)
    running.until("post_worker_init", 3)
    later = [call for call in running.calls() if call.pid not in {first, *before.values()}]
    assert [str(call) for call in later if call.process == "server"] == [
        "server: child_exit(server, worker 1)",
        "server: pre_fork(server, worker 3)",
    ]
    assert alive(before[2]), "the other worker has not noticed"
    assert running.stop() == 0
    hooks = [call.hook for call in running.calls()]
    assert (hooks.count("on_starting"), hooks.count("when_ready"), hooks[-1]) == (1, 1, "on_exit")
    assert running.count("child_exit") == 3
