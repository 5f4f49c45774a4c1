"""Health checks that Evener answers in the place of an application that has none."""

import os
import signal
from pathlib import Path

from running import Evener, Start, alive, eventually

BARE = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/lab/worker")
def worker():
    return {}
"""
CHECK = """
@app.get("/health/%s")
def %s():
    return {"the application's": "own"}
"""


def _serve(start: Start, folder: Path, text: str) -> Evener:
    (folder / "checked.py").write_text(text)
    return start("--workers", "2", app="checked:app", app_dir=folder, workers=2)


def test_an_application_without_health_checks_gets_them(start: Start, tmp_path: Path) -> None:
    evener = _serve(start, tmp_path, BARE)
    for path in ("/health/liveness", "/health/readiness", "/health/liveness?verbose=1"):
        for _ in range(3):
            response = evener.get(path)
            assert (response.status, response.body) == (200, b"ok\n"), path
    # The worker was asked once for each, and one connection serves on behind the answer.
    with evener.wire() as wire:
        for _ in range(3):
            wire.request("GET", "/health/readiness")
            assert wire.response().status == 200
    assert evener.get("/health/other").status == 404
    assert evener.get("/health").status == 404


def test_an_application_that_has_them_is_asked(start: Start, tmp_path: Path) -> None:
    evener = _serve(start, tmp_path, BARE + CHECK % ("readiness", "readiness"))
    for _ in range(3):
        assert b"own" in evener.get("/health/readiness").body
        assert evener.get("/health/liveness").body == b"ok\n"


def test_new_code_is_asked_again(start: Start, tmp_path: Path) -> None:
    evener = _serve(start, tmp_path, BARE)
    assert evener.get("/health/liveness").body == b"ok\n"
    (tmp_path / "checked.py").write_text(BARE + CHECK % ("liveness", "liveness"))
    evener.tell("reload")
    assert b"own" in evener.get("/health/liveness").body


def test_without_a_worker_it_lives_and_is_not_ready(start: Start, tmp_path: Path) -> None:
    evener = _serve(start, tmp_path, BARE + CHECK % ("liveness", "liveness"))
    assert b"own" in evener.get("/health/liveness").body
    # The next ones cannot start.
    (tmp_path / "checked.py").write_text("raise RuntimeError('broken')\n")
    pids = evener.ready()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)) and not evener.ready(), "no worker")
    alive_still = evener.get("/health/liveness")
    assert (alive_still.status, alive_still.body) == (200, b"ok\n")
    assert evener.get("/health/readiness").status == 503
