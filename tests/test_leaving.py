"""How the program goes: announced first, with what waits in its backlog, within its budgets."""

import os
import signal
import subprocess
import time
from pathlib import Path

from running import PROGRAM, Serve, Start, eventually
from test_recycling import APPLICATION
from wire import Wire


def test_a_stop_is_announced_and_everything_served_meanwhile(start: Start) -> None:
    evener = start("--drain-delay", "1500ms", "--readiness-path", "/ready", "--workers", "1")
    assert evener.get("/ready").status == 200
    began = time.monotonic()
    with evener.wire() as kept:
        assert kept.get("/lab/worker").status == 200
        evener.signal(signal.SIGTERM)
        eventually(lambda: evener.get("/ready").status == 503, "it says so", 1)
        assert evener.ask("status")["state"] == "draining"
        while time.monotonic() - began < 1.2:
            assert evener.get("/lab/worker").status == 200
            response = kept.get("/lab/worker")
            assert response.status == 200
            assert not response.closes
            time.sleep(0.05)
        assert evener.process.wait(15) == 0
    assert time.monotonic() - began > 1.5
    assert "serving for another 1.5 s" in evener.words()


def test_asked_again_it_does_not_wait(start: Start) -> None:
    evener = start("--drain-delay", "60s", "--workers", "1")
    began = time.monotonic()
    evener.signal(signal.SIGTERM)
    eventually(lambda: "not ready any more" in evener.words(), "it is announced")
    evener.signal(signal.SIGTERM)
    assert evener.process.wait(15) == 0
    assert time.monotonic() - began < 15


def test_what_waits_in_the_backlog_is_served(start: Start) -> None:
    evener = start("--workers", "2", workers=2)
    os.kill(evener.pid, signal.SIGSTOP)
    waiting: list[Wire] = []
    try:
        for _ in range(40):
            wire = evener.wire()
            wire.request("GET", "/lab/worker")
            waiting.append(wire)
        evener.signal(signal.SIGTERM)
    finally:
        os.kill(evener.pid, signal.SIGCONT)
    assert [wire.response().status for wire in waiting] == [200] * 40
    for wire in waiting:
        wire.__exit__(None, None, None)
    assert evener.process.wait(15) == 0


BUDGET = """
[app]
target = "lasting:app"
app_dir = "FOLDER"
workers = "2..3"
preload = true

[budget.postgres]
connections = 30
"""


def test_workers_are_told_their_share_of_a_budget(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text(APPLICATION)
    served = serve(BUDGET.replace("FOLDER", str(tmp_path)), ready_path="/", workers=2)
    # Three workers, and one that drains while another takes its place.
    assert served.get("/").body.split()[1] == b"7"
    refused = served.tell("scale", "4", check=False)
    assert refused.returncode != 0
    assert "budget.postgres" in refused.stdout + refused.stderr


def test_those_that_drain_count_against_a_budget(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text(APPLICATION)
    text = BUDGET.replace("FOLDER", str(tmp_path)).replace("2..3", "3")
    served = serve(text, ready_path="/", workers=3)
    with served.wire() as first, served.wire() as second, served.wire() as third:
        for wire in (first, second, third):
            wire.request("GET", "/wait?seconds=2")
        eventually(lambda: all(w["in_flight"] == 1 for w in served.workers()), "each has one")
        served.tell("scale", "1")
        served.tell("scale", "3")
        seen = set()
        while len(served.ready()) < 3:
            seen.add(len(served.workers()))
        assert max(seen) == 4, "two drain, and only one of two that are missing may come"
        assert [w.response().status for w in (first, second, third)] == [200] * 3


def test_a_budget_that_is_too_small_is_refused_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text(APPLICATION)
    file = tmp_path / "evener.toml"
    text = BUDGET.replace("FOLDER", str(tmp_path)).replace("30", "3")
    file.write_text(text)
    done = subprocess.run(
        [str(PROGRAM), "check", "-c", str(file)], capture_output=True, text=True, check=False
    )
    line = text.splitlines().index("connections = 3") + 1
    assert done.returncode == 1
    assert f"evener.toml:{line}:1: `budget.postgres`: 3 connections are not enough" in done.stderr
    assert "4 or more" in done.stderr
