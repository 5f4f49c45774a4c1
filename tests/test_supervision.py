"""Workers come, go and are replaced; clients notice none of it."""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from running import OWN, Evener, Start, alive, eventually, uvicorn_command
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECONDS = float(os.environ.get("LOAD_SECONDS", "6"))
KINDS = {"own": OWN, "uvicorn": ["--worker-command", uvicorn_command()]}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> list[str]:
    """The flags for one kind of worker."""
    return KINDS[request.param]


def short_gets() -> list[Ask]:
    """What a page's visitors ask for, each answer in one piece."""
    return [
        Ask("/lab/text/1024", size=1024),
        Ask("/lab/text/16384", size=16384),
        Ask("/lab/json/1024"),
        Ask("/lab/slow?seconds=0.02"),
        Ask("/products"),
    ]


def shuffled(asks: list[Ask]) -> Iterator[Ask]:
    """These, over and over, in an order of their own."""
    random.shuffle(asks)
    return itertools.cycle(asks)


def mixed_gets() -> Iterator[Ask]:
    """What a page's visitors ask for, streams among it."""
    return shuffled([*short_gets(), Ask("/lab/stream?chunks=5&size=100", size=500)])


def answerable(what: str, kind: list[str]) -> Callable[[], Iterator[Ask]]:
    """Requests of which none may fail under this trouble.

    A stream whose first chunk is with the client cannot be saved when its worker is killed. A
    command writes chunk after chunk, so there streams take part in everything but the killing;
    our own worker writes the chunks of one turn of its loop at once.
    """
    if what == "kill" and kind != OWN:
        return lambda: shuffled(short_gets())
    return mixed_gets


def orders(prefix: str) -> Iterator[Ask]:
    """Orders, each under a key of its own."""
    while True:
        key = f"{prefix}-{uuid.uuid4().hex}"
        yield Ask("/orders", json.dumps({"key": key}).encode(), status=201, key=key)


def under_load(load: Load, seconds: float, trouble: "Trouble") -> Outcome:
    """Runs a load while something is done to the workers over and over."""
    trouble.start()
    try:
        return asyncio.run(load.run(seconds))
    finally:
        trouble.end()


class Trouble(threading.Thread):
    """Does something again and again until told to end."""

    def __init__(self, evener: Evener, what: str, every: float) -> None:
        super().__init__(daemon=True)
        self.evener = evener
        self.what = what
        self.every = every
        self.times = 0
        self.errors: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's work."""
        while not self._over.wait(self.every):
            try:
                self._once()
                self.times += 1
            except (AssertionError, OSError) as error:
                self.errors.append(str(error))

    def _once(self) -> None:
        if self.what == "kill":
            ready = sorted(self.evener.ready())
            if len(ready) > 1:
                os.kill(random.choice(ready), signal.SIGKILL)
        elif self.what == "reload":
            self.evener.tell("reload")
        else:
            self.evener.signal(signal.SIGHUP)

    def end(self) -> None:
        """Stops it and insists that it did something and that nothing went wrong."""
        self._over.set()
        self.join(60)
        assert self.times > 0, f"it never happened: {self.errors}"
        assert not self.errors, self.errors


def test_a_killed_worker_is_replaced(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    before = evener.ready()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(evener.ready() - {victim}) == 2, "two live workers", 30, 0.1)
    assert evener.get("/lab/worker").status == 200


@pytest.mark.parametrize("what", ["kill", "reload", "hangup"])
def test_no_request_fails(start: Start, kind: list[str], what: str) -> None:
    evener = start(*kind, "--workers", "3", workers=3)
    before = evener.ready()
    trouble = Trouble(evener, what, every=1.0)
    outcome = under_load(Load(evener.port, answerable(what, kind)), SECONDS, trouble)
    print(f"{what}: {trouble.times} times; {outcome}")
    assert outcome.answered > 200
    assert not outcome.failures, f"{outcome}\n{evener.words()[-4000:]}"
    eventually(lambda: len(evener.ready()) == 3, "three workers again", 30, 0.1)
    assert evener.ready() != before


def test_no_order_is_taken_twice(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "3", workers=3)
    prefix = uuid.uuid4().hex
    trouble = Trouble(evener, "kill", every=0.7)
    outcome = under_load(Load(evener.port, lambda: orders(prefix), 32), SECONDS, trouble)
    print(f"{trouble.times} killed; {outcome}")
    eventually(lambda: len(evener.ready()) == 3, "three workers again", 30, 0.1)
    count = evener.get(f"/orders/count?prefix={prefix}").json()
    assert count["twice"] == []
    assert outcome.answered > 50
    # Each answered order is there; one whose worker died may be there too, once.
    assert len(outcome.answered_keys) <= count["rows"]
    assert count["rows"] <= outcome.answered + outcome.failures.total()
    refused = [what for what in outcome.failures if "status 50" not in what]
    assert not refused, f"an order ends in an answer, be it 502: {outcome}"


def test_reload_replaces_every_worker(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    before = evener.ready()
    evener.tell("reload")
    eventually(lambda: len(evener.ready()) == 2 and not evener.ready() & before, "all new", 40, 0.1)
    eventually(lambda: not any(alive(pid) for pid in before), "the old ones have ended", 40, 0.1)


def test_reload_waits_for_what_is_under_way(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "1")
    with evener.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=3")
        old = evener.get("/lab/worker").json()["worker"]
        evener.tell("reload", "--no-wait")
        eventually(lambda: evener.get("/lab/worker").json()["worker"] != old, "a new one", 20, 0.1)
        assert wire.response().json()["worker"] == old


def test_the_least_busy_worker_is_chosen(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    with evener.wire() as busy:
        busy.request("GET", "/lab/slow?seconds=3")
        wait_until_in_flight(evener, 1)
        others = {evener.get("/lab/worker").json()["worker"] for _ in range(20)}
        assert len(others) == 1
        assert busy.response().json()["worker"] not in others


def test_equals_take_turns(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    with evener.wire() as wire:
        asked = [wire.get("/lab/worker").json()["worker"] for _ in range(20)]
    assert 6 <= asked.count(asked[0]) <= 14


def wait_until_in_flight(evener: Evener, number: int) -> None:
    """Waits until the workers have so many requests between them."""

    def enough() -> bool:
        return number <= sum(int(worker["in_flight"]) for worker in evener.workers())

    eventually(enough, f"{number} requests in flight")


def test_a_blocked_worker_holds_up_nobody_else(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    with evener.wire() as blocker:
        blocker.request("GET", "/lab/block?seconds=2")
        wait_until_in_flight(evener, 1)
        started = time.monotonic()
        for _ in range(20):
            assert evener.get("/lab/worker").status == 200
        assert time.monotonic() - started < 1.5
        assert blocker.response().status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_finished_before_the_end(
    start: Start, kind: list[str], number: signal.Signals
) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    idle = evener.wire()
    assert idle.get("/lab/worker").status == 200
    with evener.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=1.5")
        wait_until_in_flight(evener, 1)
        evener.signal(number)
        assert idle.is_closed(), "an idle connection is closed at once"
        response = wire.response()
        assert response.status == 200
        assert response.closes
    assert evener.process.wait(15) == 0
    with pytest.raises(OSError, match="refused"):
        evener.wire()
    assert not evener.descendants()


def test_the_end_does_not_wait_for_ever(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "1", "--timeout-graceful-shutdown", "1")
    with evener.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=60")
        wait_until_in_flight(evener, 1)
        started = time.monotonic()
        evener.signal(signal.SIGTERM)
        evener.process.wait(15)
        assert time.monotonic() - started < 10


def test_websockets_are_closed_at_the_end(start: Start) -> None:
    evener = start(*OWN, "--workers", "1", "--timeout-graceful-shutdown", "5")
    with connect(evener.url("/live/echo", "ws")) as socket:
        socket.send("hello")
        assert socket.recv(10) == "hello"
        evener.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
        assert socket.close_code in (1001, 1012)
    assert evener.process.wait(15) == 0


def test_no_worker_outlives_a_killed_supervisor(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    children = evener.descendants()
    assert len(children) >= 2
    evener.process.kill()
    evener.process.wait()
    eventually(lambda: not any(alive(child) for child in children), "all have ended", 20, 0.1)


def test_a_worker_that_dies_at_once_is_reported_and_not_started_in_a_spin(
    start: Start, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    script = tmp_path / "dies.py"
    script.write_text(
        "import sys\n"
        f"open({str(starts)!r}, 'a').write('x')\n"
        "sys.exit('the database password is missing')\n"
    )
    command = f"{sys.executable} {script} {{socket}}"
    evener = start("--worker-command", command, "--workers", "1", wait=False)
    eventually(lambda: "the database password is missing" in evener.words(), "its words", 20)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline and evener.process.poll() is None:
        time.sleep(0.1)
    assert len(starts.read_text()) <= 12, "it backs off"
    if evener.process.poll() is not None:
        assert evener.process.returncode != 0


def test_a_crashing_worker_leaves_the_others_alone(start: Start, kind: list[str]) -> None:
    evener = start(*kind, "--workers", "2", workers=2)
    for _ in range(3):
        with evener.wire() as wire:
            wire.request("POST", "/lab/exit?code=7")
            assert wire.response().status == 502
        assert evener.get("/lab/worker").status == 200
    eventually(lambda: len(evener.ready()) == 2, "both are back", 40, 0.1)


def test_status_and_workers_for_machines_and_people(start: Start) -> None:
    evener = start("--workers", "2", "--name", "team", workers=2)
    workers = evener.workers()
    assert {worker["state"] for worker in workers} == {"ready"}
    assert {worker["pid"] for worker in workers} <= evener.descendants()
    assert isinstance(evener.ask("status"), dict)
    for words in ("status", "workers"):
        table = evener.tell(words).stdout
        assert table.strip()
        assert not table.lstrip().startswith(("{", "["))
    assert all(str(worker["pid"]) in evener.tell("workers").stdout for worker in workers)


def test_workers_auto_counts_the_cores(start: Start) -> None:
    evener = start("--workers", "auto")
    cores = len(os.sched_getaffinity(0))
    eventually(lambda: 1 <= len(evener.ready()) <= cores, "as many as cores", 30, 0.1)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", ["kill", "reload", "hangup"])
def test_soak(start: Start, kind: list[str], what: str) -> None:
    evener = start(*kind, "--workers", "4", workers=4)
    trouble = Trouble(evener, what, every=1.0)
    outcome = under_load(Load(evener.port, answerable(what, kind)), 60, trouble)
    print(f"\n{what}: {trouble.times} times; {outcome}")
    assert not outcome.failures, str(outcome)
