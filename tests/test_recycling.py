"""Workers that have done enough are replaced, the new one ready before the old one goes."""

import asyncio
import itertools
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from load import Ask, Load, Outcome
from running import Evener, Start, eventually

SECONDS = float(os.environ.get("LOAD_SECONDS", "3.5"))

APPLICATION = """
import asyncio, os, time
from urllib.parse import parse_qs

held = []
if delay := os.environ.get("IMPORT_SECONDS"):
    time.sleep(float(delay))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        time.sleep(float(os.environ.get("STARTUP_SECONDS", "0")))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = []
    seconds = float(parse_qs(scope["query_string"].decode()).get("seconds", ["0"])[0])
    match scope["path"]:
        case "/grow":
            held.append(os.urandom(8 * 1024 * 1024))
        case "/wait":
            await asyncio.sleep(seconds)
        case "/stuck":
            headers.append((b"x-began", str(time.monotonic()).encode()))
            stand_still(seconds)
    body = f"{os.getpid()} {os.environ.get('EVENER_BUDGET_POSTGRES', '')}".encode()
    length = str(len(body)).encode()
    headers.append((b"content-length", length))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def stand_still(seconds):
    time.sleep(seconds)
"""


def begin(start: Start, folder: Path, *arguments: str, **more: object) -> Evener:
    """Starts this application."""
    (folder / "lasting.py").write_text(APPLICATION)
    return start(*arguments, app="lasting:app", app_dir=folder, ready_path="/", **more)


def loaded(evener: Evener, *paths: str, connections: int = 16) -> Outcome:
    """What comes of asking for these for a while."""

    def asks() -> Iterator[Ask]:
        return itertools.cycle([Ask(path) for path in paths])

    return asyncio.run(Load(evener.port, asks, connections).run(SECONDS))


@pytest.mark.parametrize("kind", ["spawned", "forked"])
@pytest.mark.parametrize("bound", ["requests", "age", "memory"])
def test_no_request_fails_while_workers_are_replaced(
    start: Start, tmp_path: Path, kind: str, bound: str
) -> None:
    flags = {
        "requests": ["--limit-max-requests", "200", "--limit-max-requests-jitter", "50"],
        "age": ["--max-age", "1500ms", "--max-age-jitter", "500ms"],
        "memory": ["--max-rss", "200m"],
    }[bound]
    preload = ["--preload"] if kind == "forked" else []
    evener = begin(start, tmp_path, "--workers", "3", *preload, *flags, workers=3)
    before = evener.ready()
    if bound == "memory":
        outcome = loaded(evener, *["/wait?seconds=0.01"] * 9, "/grow", connections=4)
    else:
        outcome = loaded(evener, "/", "/wait?seconds=0.01")
    print(outcome)
    assert outcome.answered > 100
    assert not outcome.failures, f"{outcome}\n{evener.words()[-4000:]}"
    eventually(lambda: len(evener.ready()) == 3 and not evener.ready() & before, "all new", 30, 0.1)
    reason = {"requests": "requests and is", "age": "s old and is", "memory": "MB and is"}[bound]
    assert evener.words().count(f"{reason} replaced") >= 3
    assert "WARNING" not in evener.words()


def test_the_jitter_of_requests_can_be_none(start: Start, tmp_path: Path) -> None:
    flags = ["--limit-max-requests", "20", "--limit-max-requests-jitter", "0"]
    evener = begin(start, tmp_path, *flags)
    [first] = evener.ready()
    used = sum(int(worker["requests"]) for worker in evener.workers())
    with evener.wire() as wire:
        asked = [int(wire.get("/").body.split()[0]) for _ in range(19 - used)]
    assert set(asked) == {first}, "not before"
    assert evener.get("/").status == 200
    eventually(lambda: first not in evener.ready(), "its successor", 20, 0.05)
    assert "has had 20 requests and is replaced" in evener.words()


@pytest.mark.parametrize(("workers", "at_once"), [(3, 1), (8, 2)])
def test_not_many_are_replaced_at_once(
    start: Start, tmp_path: Path, workers: int, at_once: int
) -> None:
    """One at a time, or a quarter of all: so many may drain when the next replacement begins."""
    flags = ["--limit-max-requests", "40", "--limit-max-requests-jitter", "0", "--preload"]
    evener = begin(start, tmp_path, "--workers", str(workers), *flags, workers=workers)
    looks: list[dict[str, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            states = [worker["state"] for worker in evener.ask_api("/api/v1/workers")["workers"]]
            looks.append({state: states.count(state) for state in set(states)})

    watching = threading.Thread(target=watch)
    watching.start()
    outcome = loaded(evener, "/", "/wait?seconds=0.05")
    over.set()
    watching.join()
    assert not outcome.failures, outcome
    replaced = evener.words().count("requests and is replaced")
    assert replaced > 2 * workers, "there was something to see"
    assert any(look.get("starting") for look in looks)
    for look in looks:
        leaving = look.get("draining", 0) + look.get("stopping", 0)
        assert look.get("ready", 0) >= workers, look
        assert look.get("starting", 0) <= 1, look
        assert leaving <= at_once, look
        assert sum(look.values()) <= workers + at_once, look
    print(f"{workers} workers: {replaced} replaced, {len(looks)} looks")


def begin_to_ask(load: Load) -> threading.Thread:
    """Asks for a while, beside the test."""
    asking = threading.Thread(target=lambda: asyncio.run(load.run(1.2)))
    asking.start()
    eventually(lambda: load.outcome.answered > 20, "requests are answered")
    return asking


def test_a_blocked_loop_is_out_of_balance_within_a_tenth_of_a_second(
    start: Start, tmp_path: Path
) -> None:
    """From the moment at which the application blocks, by the clock that all processes share. The
    machine may be busy with something else now and then, so it is the median of several.
    """
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    noticed, asked = [], 0
    for _ in range(7):
        load = Load(evener.port, lambda: itertools.repeat(Ask("/")), 4)
        asking = begin_to_ask(load)
        with evener.wire() as blocker:
            blocker.request("GET", "/stuck?seconds=1")
            sent = time.monotonic()
            while not any(w["stalled"] for w in evener.ask_api("/api/v1/workers")["workers"]):
                assert time.monotonic() < sent + 1, "it was never out of balance"
            seen = time.monotonic()
            # A request that it had begun waits for it; no other is given to it.
            others = set()
            while time.monotonic() < sent + 0.8:
                others.add(int(evener.get("/").body.split()[0]))
                asked += 1
            answer = blocker.response()
        asking.join()
        assert int(answer.body.split()[0]) not in others
        assert answer.status == 200
        assert not load.outcome.failures, load.outcome
        noticed.append(seen - float(answer.one("x-began") or "nan"))
    print("noticed after", sorted(noticed), "and passed by", asked, "requests")
    assert statistics.median(noticed) < 0.1
    assert asked > 7


def test_a_worker_that_stands_still_shows_where_and_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    evener = begin(start, tmp_path, "--workers", "2", "--timeout-worker-stall", "1", workers=2)
    with evener.wire() as blocker:
        blocker.request("POST", "/stuck?seconds=60")
        eventually(
            lambda: any(worker["stalled"] for worker in evener.workers()), "its loop stands still"
        )
        [stuck] = {worker["pid"] for worker in evener.workers() if worker["stalled"]}
        outcome = loaded(evener, "/", "/wait?seconds=0.01")
        assert not outcome.failures, outcome
        assert outcome.slowest < 1, outcome
        assert blocker.response().status == 502, "it had begun, and is not run again"
    eventually(lambda: len(evener.ready() - {stuck}) == 2, "two workers again", 20, 0.05)
    words = evener.words()
    assert f"(pid {stuck}): its event loop has stood still for 1." in words
    shown = words.index("this is where its threads are")
    assert "in stand_still" in words[shown:], words
    assert "lasting.py" in words[shown:]
    assert "was aborted, its event loop having stood still" in words
    assert words.count("this is where its threads are") == 1


def test_forked_workers_show_where_they_stand_still(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--preload", "--timeout-worker-stall", "500ms")
    before = evener.ready()
    with evener.wire() as blocker:
        blocker.request("POST", "/stuck?seconds=60")
        assert blocker.response().status == 502
    eventually(lambda: evener.ready() and not evener.ready() & before, "another one")
    assert "in stand_still" in evener.words()


def test_waiting_and_starting_are_not_standing_still(start: Start, tmp_path: Path) -> None:
    slow = {"IMPORT_SECONDS": "1.2", "STARTUP_SECONDS": "1.2"}
    flags = ["--timeout-worker-stall", "400ms"]
    evener = begin(start, tmp_path, *flags, environment=slow)
    before = evener.ready()
    with evener.wire() as wire:
        assert wire.get("/wait?seconds=1.5").status == 200
    assert evener.ready() == before
    assert "stood still" not in evener.words()


def test_a_loop_that_turns_again_in_time_is_left_alone(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--timeout-worker-stall", "off")
    before = evener.ready()
    assert evener.get("/stuck?seconds=1.5").status == 200
    assert evener.ready() == before
