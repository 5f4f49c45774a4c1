"""The leader: one worker, and never two, does the jobs that must run once; it is told by a hook.

The hook keeps a file open with an exclusive lock for as long as it leads. A second leader would not
get the lock, and says so.
"""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from recording import EVENER, Recorded
from running import Evener, Serve, Start, alive, eventually, uvicorn_command

JOB = '''
import fcntl
import os

held = []


def say(word):
    with open(os.environ["LEADERS"], "a") as file:
        file.write(f"{word} {os.getpid()}\\n")


def lead(*_):
    """Leads: until this process ends it has the lock, or there is another leader."""
    assert os.environ["EVENER_LEADER"] == "1"
    lock = open(os.environ["LEADERS"] + ".lock", "w")
    held.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("second")
    else:
        say("leads")
'''

APPLICATION = (
    JOB
    + """
import asyncio
import time


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/wait":
        await asyncio.sleep(0.3)
    elif scope["path"] == "/stand":
        time.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    leads = f" {os.environ.get('EVENER_LEADER', '')}." if scope["path"] == "/leads" else ""
    await send({"type": "http.response.body", "body": f"{os.getpid()}{leads}".encode()})


def takes_the_application(found):
    assert found is app
    say("given")


def raises():
    say("raises")
    raise RuntimeError("not my job")


async def job():
    say("begins")
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.2)
        say("ends")


async def fails():
    await asyncio.sleep(0)
    raise RuntimeError("a job that fails")
"""
)


class Leaders:
    """What the hook has written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "leaders"
        self.environment = {"LEADERS": str(self.path)}
        (folder / "led.py").write_text(APPLICATION)

    def lines(self, word: str) -> list[int]:
        """The processes that have written this word."""
        text = self.path.read_text() if self.path.exists() else ""
        pairs = [line.split() for line in text.splitlines()]
        assert not [pair for pair in pairs if pair[0] == "second"], text
        return [int(pid) for said, pid in pairs if said == word]

    def now(self, *, after: int = 0) -> int:
        """The leader's process id, once there is one that is alive and not `after`."""

        def led() -> int:
            pids = self.lines("leads")
            return pids[-1] if pids and pids[-1] != after and alive(pids[-1]) else 0

        return eventually(led, "a leader", 20)


@pytest.fixture
def leaders(tmp_path: Path) -> Leaders:
    return Leaders(tmp_path)


def begin(start: Start, leaders: Leaders, *flags: str, hook: str = "led:lead", count: int = 3):  # type: ignore[no-untyped-def]
    """A program whose leader calls a hook."""
    return start(
        "--workers",
        str(count),
        "--leader-hook",
        hook,
        *flags,
        app="led:app",
        app_dir=leaders.path.parent,
        environment=leaders.environment,
        ready_path="/",
        workers=count,
    )


def shown(evener: Evener) -> list[int]:
    """Who leads, as the program tells."""
    return [worker["pid"] for worker in evener.workers() if worker["leader"]]


@pytest.mark.parametrize("kind", ["spawned", "forked"])
def test_the_lead_moves_when_the_leader_is_killed(
    start: Start, leaders: Leaders, kind: str
) -> None:
    evener = begin(start, leaders, *(["--preload"] if kind == "forked" else []))
    for turn in range(1, 6):
        leader = leaders.now()
        assert shown(evener) == [leader]
        assert leaders.lines("leads")[-1] == leader
        assert len(leaders.lines("leads")) == turn
        survivors = evener.ready() - {leader}
        os.kill(leader, signal.SIGKILL)
        heir = leaders.now(after=leader)
        assert heir in survivors, "one that runs already takes over"
        eventually(lambda: len(evener.ready()) == 3, "three again")
    assert f"(pid {heir}) is the leader now" in evener.words()
    assert re.search(rf"{heir} +ready, leader", evener.tell("workers").stdout)


def test_the_lead_moves_when_the_leader_is_recycled(start: Start, leaders: Leaders) -> None:
    flags = ["--preload", "--limit-max-requests", "60", "--limit-max-requests-jitter", "20"]
    evener = begin(start, leaders, *flags)
    first = leaders.now()
    load = Load(evener.port, lambda: repeat(Ask("/")), 8)
    outcome: list[Outcome] = []
    asking = threading.Thread(target=lambda: outcome.append(asyncio.run(load.run(3))))
    asking.start()
    asking.join()
    assert not outcome[0].failures, outcome[0]
    assert len(leaders.lines("leads")) > 3, "many have led"
    eventually(lambda: not alive(first), "the first one is over", 20)
    eventually(lambda: shown(evener) == [leaders.now()], "the program knows", 10)


def test_the_lead_moves_last_in_a_reload_and_when_there_are_fewer(
    start: Start, leaders: Leaders
) -> None:
    evener = begin(start, leaders, "--preload")
    first = leaders.now()
    evener.tell("reload")
    second = leaders.now(after=first)
    assert second in evener.ready()
    evener.tell("scale", "1")
    eventually(lambda: len(evener.workers()) == 1, "one is left")
    assert evener.ready() == {second}, "the leader goes last"
    assert leaders.lines("leads") == [first, second]


def test_a_leader_that_stands_still_is_replaced_as_such(start: Start, leaders: Leaders) -> None:
    evener = begin(start, leaders, "--timeout-worker-stall", "500ms", "--preload", count=1)
    first = leaders.now()
    with evener.wire() as wire:
        wire.request("POST", "/stand")
        assert wire.response().status == 502
    assert leaders.now(after=first) != first


def test_a_job_is_cancelled_when_the_worker_goes_and_waited_for(
    start: Start, leaders: Leaders
) -> None:
    evener = begin(start, leaders, hook="led:job", count=2)
    [first] = eventually(lambda: leaders.lines("begins"), "it runs")
    assert evener.get("/").status == 200, "beside the requests"
    evener.tell("reload")
    assert eventually(lambda: leaders.lines("ends"), "it has tidied up") == [first]
    eventually(lambda: len(leaders.lines("begins")) == 2, "its successor runs")
    assert evener.stop() == 0
    assert leaders.lines("ends") == leaders.lines("begins")


@pytest.mark.parametrize(("hook", "said"), [("raises", "not my job"), ("fails", "that fails")])
def test_a_hook_that_raises_is_said_and_requests_are_served(
    start: Start, leaders: Leaders, hook: str, said: str
) -> None:
    evener = begin(start, leaders, hook=f"led:{hook}", count=2)
    eventually(lambda: said in evener.words(), "the exception")
    assert "exception in the leader's hook" in evener.words()
    assert len(evener.ready()) == 2
    assert len(shown(evener)) == 1


def test_the_hook_may_take_the_application(start: Start, leaders: Leaders) -> None:
    begin(start, leaders, hook="led:takes_the_application", count=2)
    eventually(lambda: leaders.lines("given"), "it was called with it")


@pytest.mark.parametrize(
    ("hook", "said"),
    [("led:nothing", "led:nothing"), ("nowhere:lead", "nowhere"), ("led", "module:function")],
)
def test_a_hook_that_is_not_there_is_said_at_the_start(
    start: Start, leaders: Leaders, hook: str, said: str
) -> None:
    evener = start(
        *["--leader-hook", hook],
        app="led:app",
        app_dir=leaders.path.parent,
        environment=leaders.environment,
        wait=False,
    )
    assert evener.process.wait(30) == 3
    assert f"--leader-hook {hook}" in evener.words()
    assert said in evener.words()


def test_other_kinds_of_workers_have_no_hook(start: Start) -> None:
    evener = start("--leader-hook", "a:b", "--worker", "command", wait=False)
    assert evener.process.wait(20) == 2
    assert "--leader-hook needs Evener's own workers" in evener.words()


def test_a_file_can_name_the_hook(serve: Serve, leaders: Leaders) -> None:
    text = '[app]\ntarget = "led:app"\nworkers = 2\nleader_hook = "led:lead"\n'
    text += f'app_dir = "{leaders.path.parent}"\n'
    served = serve(text, environment=leaders.environment, ready_path="/", workers=2)
    first = leaders.now()
    os.kill(first, signal.SIGKILL)
    assert leaders.now(after=first) in served.ready()


def test_the_environment_of_the_program_itself_makes_no_leader(
    start: Start, leaders: Leaders
) -> None:
    leaders.environment["EVENER_LEADER"] = "1"
    evener = begin(start, leaders)
    leaders.now()
    for pid in evener.ready() - set(leaders.lines("leads")):
        assert b"EVENER_LEADER" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert len(leaders.lines("leads")) == 1


def environment_of(evener: Evener) -> dict[int, bool]:
    """Of each process of a worker, on its way out or not, whether it was started as the leader."""
    found = {}
    for worker in evener.workers():
        try:
            text = Path(f"/proc/{worker['pid']}/environ").read_bytes()
        except OSError:
            continue
        found[worker["pid"]] = b"EVENER_LEADER=1" in text.split(b"\0")
    return found


def test_of_other_kinds_of_workers_one_is_replaced_to_be_told_by_its_environment(
    start: Start, leaders: Leaders
) -> None:
    command = uvicorn_command("led:app", leaders.path.parent)
    evener = start(
        *["--workers", "3", "--worker-command", command],
        app=None,
        app_dir=None,
        ready_path="/",
        workers=3,
    )
    most = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, sum(environment_of(evener).values()))

    def settled(but: int) -> int:
        told = environment_of(evener)
        led = [pid for pid, leads in told.items() if leads and pid != but]
        return led[0] if len(told) == 3 and len(led) == 1 and but not in told else 0

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        leader = eventually(lambda: settled(0), "a leader")
        os.kill(leader, signal.SIGKILL)
        leader = eventually(lambda: settled(leader), "another", 20)
        evener.tell("reload")
        leader = eventually(lambda: settled(leader), "another after a reload", 20)
        assert "its successor is started as the leader" in evener.words()
        evener.tell("scale", "1")
        eventually(lambda: len(evener.workers()) == 1, "one is left")
        assert environment_of(evener) == {leader: True}
    finally:
        over.set()
        watching.join()
    assert most == 1


def test_without_a_hook_the_environment_of_the_process_tells(
    start: Start, leaders: Leaders
) -> None:
    """`os.environ` of a worker that runs changes when it becomes the leader."""
    evener = start(
        *["--workers", "3", "--preload"],
        app="led:app",
        app_dir=leaders.path.parent,
        environment=leaders.environment,
        ready_path="/",
        workers=3,
    )

    def leader() -> int:
        told: dict[int, bool] = {}
        for _ in range(12):
            pid, leads = evener.get("/leads").body.decode().split()
            told[int(pid)] = leads == "1."
        led = [pid for pid, leads in told.items() if leads and alive(pid)]
        return led[0] if len(led) == 1 and shown(evener) == led else 0

    for _ in range(3):
        before = eventually(leader, "a leader")
        os.kill(before, signal.SIGKILL)
        eventually(lambda before=before: leader() not in (0, before), "another")  # type: ignore[misc]
    assert evener.words().count("is the leader now") == 3


GUNICORN = (
    JOB + "\n\ndef worker_leader(worker):\n    assert worker.pid == os.getpid()\n    lead()\n"
)

Begin = Callable[..., Recorded]


@pytest.fixture
def gunicorn(tmp_path: Path, leaders: Leaders) -> Iterator[Begin]:
    """Starts recording programs whose file has the hook."""
    begun: list[Recorded] = []

    def start(settings: str = "", more: str = GUNICORN) -> Recorded:
        folder = tmp_path / str(len(begun))
        environment = leaders.environment
        running = Recorded(EVENER, folder, settings=settings, more=more, environment=environment)
        begun.append(running)
        return running.wait(2)

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop(signal.SIGQUIT)
        assert "panicked" not in running.words()


@pytest.mark.parametrize("preload", [False, True])
def test_the_hook_of_a_gunicorn_file(gunicorn: Begin, leaders: Leaders, preload: bool) -> None:
    running = gunicorn(f"preload_app = {preload}")
    first = leaders.now()
    assert first in running.workers().values()
    assert "worker_leader" not in running.words(), "it is no unknown name"
    # SIGTTOU takes the oldest away, which leads.
    running.signal(signal.SIGTTOU)
    second = leaders.now(after=first)
    assert not alive(first)
    os.kill(second, signal.SIGKILL)
    third = leaders.now(after=second)
    running.signal(signal.SIGTTIN)
    running.until("post_worker_init", 4)
    running.signal(signal.SIGHUP)
    fourth = leaders.now(after=third)
    assert not alive(third)
    assert running.stop() == 0
    assert leaders.lines("leads") == [first, second, third, fourth]


def test_the_hook_comes_and_goes_with_the_file(gunicorn: Begin, leaders: Leaders) -> None:
    running = gunicorn(more=JOB)
    assert leaders.lines("leads") == []
    running.write("", more=GUNICORN)
    running.signal(signal.SIGHUP)
    first = leaders.now()
    running.write("", more=JOB)
    running.signal(signal.SIGHUP)
    eventually(lambda: not alive(first), "the one with the hook has gone", 30)
    eventually(lambda: running.count("child_exit") >= 4, "all are replaced", 30)
    assert leaders.lines("leads") == [first]


def test_a_newer_program_leads_when_the_older_one_is_gone(
    gunicorn: Begin, leaders: Leaders
) -> None:
    running = gunicorn()
    first = leaders.now()
    running.signal(signal.SIGUSR2)
    running.until("post_worker_init", 4)
    eventually((running.folder / "pid.2").exists, "the newer one is there", 20)
    newer = int((running.folder / "pid.2").read_text())
    # Both serve, and the older one leads; its leader is replaced by one of its own.
    os.kill(first, signal.SIGKILL)
    second = leaders.now(after=first)
    parent = Path(f"/proc/{second}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) == running.process.pid
    assert running.stop() == 0
    third = leaders.now(after=second)
    parent = Path(f"/proc/{third}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) == newer
    os.kill(newer, signal.SIGTERM)
    eventually(lambda: not alive(newer), "it stops", 30)


@pytest.mark.soak
def test_never_two_leaders_while_everything_happens(start: Start, leaders: Leaders) -> None:
    evener = begin(start, leaders, "--preload", "--limit-max-requests", "200")
    load = Load(evener.port, lambda: repeat(Ask("/")), 8)
    outcome: list[Outcome] = []
    asking = threading.Thread(target=lambda: outcome.append(asyncio.run(load.run(30))))
    asking.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        os.kill(leaders.now(), signal.SIGKILL)
        evener.tell("scale", "4")
        evener.tell("reload", "--no-wait", check=False)
        evener.tell("scale", "2")
    asking.join()
    leaders.now()
    print(len(leaders.lines("leads")), "have led;", outcome[0])
