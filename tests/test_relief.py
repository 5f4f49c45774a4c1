"""`--workers MIN..MAX`: one more worker at once when all event loops stand still."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from running import Evener, Serve, Start, eventually
from test_recycling import APPLICATION, begin

RELIEF = ["--preload", "--timeout-relief", "1s"]


@contextmanager
def standing_still(evener: Evener, loops: int, seconds: float) -> Iterator[None]:
    """So many workers stand still for so long, from before this begins until after it ends."""
    answers: list[int] = []

    def block() -> None:
        answers.append(evener.get(f"/stuck?seconds={seconds}").status)

    threads = [threading.Thread(target=block) for _ in range(loops)]
    for thread in threads:
        thread.start()
        wait_until_stalled(evener, threads.index(thread) + 1)
    yield
    for thread in threads:
        thread.join()
    assert answers == [200] * loops, "what holds a loop is answered in the end"


def wait_until_stalled(evener: Evener, workers: int) -> None:
    """Waits until so many workers stand still."""

    def enough() -> bool:
        return sum(bool(worker["stalled"]) for worker in evener.workers()) >= workers

    eventually(enough, f"{workers} stand still")


def test_one_more_comes_at_once_and_goes_when_it_is_not_needed(
    start: Start, tmp_path: Path
) -> None:
    evener = begin(start, tmp_path, "--workers", "2..4", *RELIEF, workers=2)
    before = evener.ready()
    with standing_still(evener, 2, seconds=3):
        began = time.monotonic()
        answer = evener.get("/")
        took = time.monotonic() - began
        assert answer.status == 200
        assert int(answer.body.split()[0]) not in before
        assert took < 1, "it was not waited for those that stand still"
        status = evener.ask("status")
        assert (status["target"], status["relief"]) == (2, 1)
        assert "1 of them for relief" in evener.tell("status").stdout
    eventually(lambda: evener.ready() == before, "as before", 15, 0.05)
    assert evener.ask("status")["relief"] == 0
    assert "relief: not needed for 1 s: going back to 2 workers" in evener.words()


def test_not_more_than_the_maximum(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "1..2", *RELIEF)
    with standing_still(evener, 1, seconds=3):
        assert evener.get("/").status == 200
        with standing_still(evener, 1, seconds=1.5):
            answer = threading.Thread(target=evener.get, args=("/",))
            answer.start()
            answer.join(0.5)
            assert len(evener.workers()) == 2
            answer.join()
    refused = evener.tell("scale", "3", check=False)
    assert refused.returncode != 0
    assert "between 1 and 2" in refused.stdout + refused.stderr


def test_nobody_comes_while_nobody_waits(start: Start, tmp_path: Path) -> None:
    evener = begin(start, tmp_path, "--workers", "1..2", *RELIEF)
    before = evener.ready()
    assert evener.get("/stuck?seconds=1").status == 200
    assert evener.ready() == before
    assert "relief:" not in evener.words()


def test_a_reload_of_the_file_changes_the_maximum(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text(APPLICATION)

    def text(workers: str, more: str = "") -> str:
        return (
            f'[app]\ntarget = "lasting:app"\napp_dir = "{tmp_path}"\npreload = true\n'
            f'timeout_relief = "1s"\nworkers = {workers}\n{more}'
        )

    served = serve(text("1"), ready_path="/", workers=1)
    assert served.get("/stuck?seconds=0.5").status == 200
    served.write(text('"1..2"'))
    served.tell("reload")
    refused = served.tell("scale", "3", check=False)
    assert "between 1 and 2" in refused.stderr
    before = served.ready()
    with standing_still(served, 1, seconds=2):
        answer = served.get("/")
        assert int(answer.body.split()[0]) not in before, "relief came, which there was none of"
    served.write(text('"1..4"'))
    served.tell("reload")
    assert "3 workers wanted" in served.tell("scale", "3").stdout
    eventually(lambda: len(served.ready()) == 3, "three")
    # What is given again is what the file says.
    served.write(text("2"))
    served.tell("reload")
    eventually(lambda: len(served.workers()) == 2, "two")


def test_a_maximum_that_is_shared_out_waits_for_the_next_start(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "lasting.py").write_text(APPLICATION)

    def text(workers: str) -> str:
        return (
            f'[app]\ntarget = "lasting:app"\napp_dir = "{tmp_path}"\npreload = true\n'
            f"workers = {workers}\n[budget.postgres]\nconnections = 12\n"
        )

    served = serve(text('"1..2"'), ready_path="/", workers=1)
    served.write(text('"1..4"'))
    served.tell("reload")
    assert "the most of `app.workers` (it is shared out)" in served.words()
    assert "next start" in served.words()
