"""What signals do to `evener gunicorn`, asked for by commands over its control socket; and what the
same commands say to programs that cannot do it.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recording import EVENER, Recorded
from running import Start, alive, eventually
from test_gunicorn_signals import Slow, pid_in
from wire import Wire

Begin = Callable[..., Recorded]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts recording programs with a control socket."""
    begun: list[Recorded] = []

    def start(settings: str = "", **more: Any) -> Recorded:
        folder = tmp_path / str(len(begun))
        settings = f'control_socket_disable = False\ncontrol_socket = "control"\n{settings}'
        running = Recorded(EVENER, folder, settings=settings, **more)
        begun.append(running)
        return running.wait(2)

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop(signal.SIGQUIT)
        assert "panicked" not in running.words()


def tell(running: Recorded, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `evener WORDS` against its control socket."""
    command = [EVENER[0], *words, "--admin", str(running.folder / "control")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


def status(running: Recorded) -> dict[str, Any]:
    """What `evener status` tells."""
    told: dict[str, Any] = json.loads(tell(running, "status", "--json").stdout)
    return told


def test_one_more_and_one_fewer(begin: Begin) -> None:
    running = begin()
    assert "3 workers wanted" in tell(running, "scale", "+1").stdout
    running.until("post_worker_init", 3)
    assert json.loads(tell(running, "scale", "-1", "--json").stdout)["message"] == (
        "2 workers wanted"
    )
    running.until("child_exit", 1)
    # As SIGTTOU takes it: the oldest, and the hook is told of both.
    assert [call.age for call in running.calls() if call.hook == "child_exit"] == [1]
    counts = [call.arguments[1:] for call in running.calls() if call.hook == "nworkers_changed"]
    assert counts == [(2, None), (3, 2), (2, 3)]
    assert "1 workers wanted" in tell(running, "scale", "-9").stdout, "never below one"
    for wrong in ("0", "many", "+0"):
        refused = tell(running, "scale", wrong, check=False)
        assert refused.returncode == 2
        assert "not a number of workers" in refused.stderr


def test_reload_is_what_hup_is(begin: Begin) -> None:
    running = begin()
    assert "2 new workers serve" in tell(running, "reload").stdout
    assert running.count("on_reload") == 1
    running.until("child_exit", 2)


def test_reopen_opens_all_logs_again(begin: Begin, tmp_path: Path) -> None:
    errors, access = tmp_path / "errors", tmp_path / "access"
    running = begin(f'errorlog = "{errors}"\naccesslog = "{access}"')
    for path in (errors, access):
        path.rename(path.with_suffix(".1"))
    assert "opened again" in tell(running, "reopen").stdout
    running.get("/after")
    eventually(lambda: "GET /after" in access.read_text(), "lines in the new file")
    tell(running, "scale", "+1")
    eventually(lambda: "scaling from 2 to 3" in errors.read_text(), "the program's own")
    eventually(lambda: "Booting worker" in errors.read_text(), "and a worker's")


def test_upgrade_starts_a_newer_program_and_drain_leaves_the_service_to_it(begin: Begin) -> None:
    running = begin()
    pidfile, beside = running.folder / "pid", running.folder / "pid.2"
    old = running.process.pid
    said = tell(running, "upgrade").stdout
    newer = eventually(lambda: pid_in(beside), "a newer program", 30)
    assert f"a newer program (process {newer})" in said
    running.until("post_worker_init", 4)
    refused = tell(running, "upgrade", check=False)
    assert refused.returncode != 0
    assert f"a newer program (process {newer}) runs already" in refused.stderr
    assert status(running)["pid"] == old, "the older one has its place"
    assert (running.folder / "control.2").is_socket()
    assert "stopping after what is under way" in tell(running, "drain").stdout
    assert running.process.wait(30) == 0
    eventually(lambda: pid_in(pidfile) == newer, "it has the pid file", 30)
    eventually((running.folder / "control").is_socket, "and the control socket")
    assert status(running)["pid"] == newer
    assert running.get()
    tell(running, "drain")
    eventually(lambda: not alive(newer), "it stops", 30)
    assert not (running.folder / "control").exists()


def test_rest_ends_the_workers_until_a_reload(begin: Begin) -> None:
    running = begin()
    tell(running, "rest")
    running.until("child_exit", 2)
    again = tell(running, "rest", check=False)
    assert again.returncode != 0
    assert "it rests already" in again.stderr
    assert status(running)["workers"] == []
    with Wire(running.port) as waiting:
        waiting.send(b"GET / HTTP/1.1\r\nHost: rests\r\n\r\n")
        tell(running, "reload")
        assert waiting.response().status == 200
    running.until("post_worker_init", 4)


def test_drain_can_be_quick(begin: Begin) -> None:
    running = begin("graceful_timeout = 60")
    slow = Slow(running)
    began = time.monotonic()
    assert "without waiting" in tell(running, "drain", "--quick").stdout
    assert running.process.wait(20) == 0
    assert time.monotonic() - began < 15, "the request would have taken longer"
    assert slow.status() != 200
    assert running.count("worker_int") == 2, "workers are told as by SIGQUIT"


def test_a_quick_drain_of_evener_run(start: Start, tmp_path: Path) -> None:
    evener = start("--timeout-graceful-shutdown", "60")
    with evener.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=30")
        eventually(lambda: evener.ask("status")["traffic"]["in_flight"] == 1, "it has it")
        began = time.monotonic()
        evener.tell("drain", "--quick")
        assert evener.process.wait(20) == 0
        assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("reopen", "has no log files"),
        ("upgrade", "only `evener gunicorn` can be upgraded"),
        ("rest", "only `evener gunicorn` can go on without workers"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    start: Start, command: str, said: str
) -> None:
    evener = start()
    before = evener.ready()
    refused = evener.tell(command, check=False)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert evener.ready() == before
    # The signals are heard and do no harm.
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        os.kill(evener.pid, number)
    assert evener.get("/lab/worker").status == 200
    assert evener.ready() == before
