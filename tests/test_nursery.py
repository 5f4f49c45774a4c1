"""`--preload`: workers that are forked from a nursery, which may die at any time."""

import os
import signal
from pathlib import Path

from running import Evener, Start, alive, eventually
from wire import Response

APPLICATION = """
import os, threading
from pathlib import Path

VERSION = "one"
IMPORTED_BY = os.getpid()
with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()}\\n")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    leader = os.environ.get("EVENER_LEADER", "0")
    told = f"{os.getpid()} {os.getppid()} {IMPORTED_BY} {VERSION} {leader}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told.encode()})
"""


def begin(start: Start, folder: Path, *arguments: str, **more: object) -> Evener:
    (folder / "forked.py").write_text(APPLICATION)
    return start(
        "--preload",
        *arguments,
        app="forked:app",
        app_dir=folder,
        environment={"IMPORTS": str(folder / "imports")},
        ready_path="/",
        **more,
    )


def told(response: Response) -> list[str]:
    """Process id, parent, importer, version and leadership of the worker that answered."""
    assert response.status == 200
    return response.body.decode().split()


def nursery(evener: Evener) -> int:
    """The process that is neither the program nor a worker."""
    [pid] = {int(told(evener.get("/"))[2])}
    return pid


def everyone(evener: Evener) -> dict[int, list[str]]:
    """What each ready worker tells."""
    found: dict[int, list[str]] = {}

    def complete() -> bool:
        answer = told(evener.get("/"))
        found[int(answer[0])] = answer
        return set(found) >= evener.ready()

    eventually(complete, "every worker has answered")
    return {pid: answer for pid, answer in found.items() if pid in evener.ready()}


def test_the_application_is_imported_once_and_workers_are_the_programs(
    start: Start, tmp_path: Path
) -> None:
    evener = begin(start, tmp_path, "--workers", "3", workers=3)
    answers = everyone(evener)
    assert len((tmp_path / "imports").read_text().split()) == 1
    assert {int(answer[1]) for answer in answers.values()} == {evener.pid}
    importers = {int(answer[2]) for answer in answers.values()}
    assert len(importers) == 1
    assert not importers & set(answers)
    assert sorted(answer[4] for answer in answers.values()) == ["0", "0", "1"], "one leader"


def test_a_nursery_that_dies_is_replaced_and_no_worker_notices(
    start: Start, tmp_path: Path
) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    before, old = evener.ready(), nursery(evener)
    os.kill(old, signal.SIGKILL)
    eventually(lambda: len((tmp_path / "imports").read_text().split()) == 2, "another nursery")
    assert evener.ready() == before
    evener.tell("scale", "3")
    eventually(lambda: len(evener.ready()) == 3, "a third worker")
    assert evener.ready() > before
    assert {int(answer[2]) for answer in everyone(evener).values()} > {old}


def test_a_worker_that_dies_is_forked_again(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    victim = min(evener.ready())
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(evener.ready() - {victim}) == 2, "two workers again")
    assert not Path(f"/proc/{victim}").exists(), "it has been taken note of"
    assert len((tmp_path / "imports").read_text().split()) == 1


def test_nothing_outlives_a_killed_program(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    processes = evener.descendants()
    assert len(processes) == 3
    evener.process.kill()
    evener.process.wait()
    eventually(lambda: not any(alive(pid) for pid in processes), "all have ended")


def test_the_leader_has_a_successor(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    [leader] = [pid for pid, answer in everyone(evener).items() if answer[4] == "1"]
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: len(evener.ready() - {leader}) == 2, "two workers again")
    assert sorted(answer[4] for answer in everyone(evener).values()) == ["0", "1"]
    evener.tell("reload")
    assert sorted(answer[4] for answer in everyone(evener).values()) == ["0", "1"]


def test_the_leader_stays_when_there_are_fewer(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    [leader] = [pid for pid, answer in everyone(evener).items() if answer[4] == "1"]
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: len(evener.ready() - {leader}) == 2, "two workers again")
    evener.tell("scale", "1")
    eventually(lambda: len(evener.workers()) == 1, "one worker")
    assert [answer[4] for answer in everyone(evener).values()] == ["1"]


def test_reload_serves_what_has_changed(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "2", workers=2)
    before = evener.ready()
    source = tmp_path / "forked.py"
    source.write_text(APPLICATION.replace('"one"', '"two, anew"'))
    evener.tell("reload")
    assert not evener.ready() & before
    assert {answer[3] for answer in everyone(evener).values()} == {"two,"}
    source.write_text("nonsense(")
    failed = evener.tell("reload", check=False)
    assert failed.returncode != 0
    assert "nonsense" in evener.words()
    assert {answer[3] for answer in everyone(evener).values()} == {"two,"}


def test_an_application_that_cannot_be_imported_is_said(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\napp = None\n")
    evener = start("--preload", app="broken:app", app_dir=tmp_path, wait=False)
    assert evener.process.wait(30) == 3
    assert "nowhere_to_be_found" in evener.words()


def test_threads_that_an_import_starts_are_warned_of(start: Start, tmp_path: Path) -> None:
    threaded = (
        APPLICATION + "\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (tmp_path / "threaded.py").write_text(threaded)
    evener = start(
        "--preload",
        app="threaded:app",
        app_dir=tmp_path,
        environment={"IMPORTS": str(tmp_path / "imports")},
        ready_path="/",
    )
    assert "the application started 1 threads" in evener.words()
