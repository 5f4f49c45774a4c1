"""`--reload`: what has changed is said once, and served."""

import time
from pathlib import Path

import pytest
from running import Evener, Start, eventually

SOURCE = """
from helper import VERSION

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": VERSION.encode()})
"""


def write(folder: Path, version: str) -> None:
    (folder / "helper.py").write_text(f"VERSION = {version!r}\n")


def serves(evener: Evener, version: str) -> bool:
    return {evener.get("/").body.decode() for _ in range(4)} == {version}


@pytest.mark.parametrize("kind", ["spawned", "forked"])
def test_changed_files_are_served_and_said_once(start: Start, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "changing.py").write_text(SOURCE)
    write(folder, "one")
    flags = ["--reload", "--reload-delay", "300ms", "--workers", "2"]
    flags += ["--preload"] if kind == "forked" else []
    evener = start(
        *flags,
        app="changing:app",
        app_dir=folder,
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
        ready_path="/",
        workers=2,
    )
    assert serves(evener, "one")
    # An editor writes several times, and other files as well.
    (folder / "notes.txt").write_text("not watched")
    for version in ("t", "tw", "two"):
        write(folder, version)
        time.sleep(0.05)
    eventually(lambda: serves(evener, "two"), "the new version", 20, 0.05)
    said = [line for line in evener.words().splitlines() if "changed:" in line]
    assert len(said) == 1, said
    assert "helper.py; replacing the workers" in said[0]
    assert "notes.txt" not in said[0]
    # What does not start changes nothing, and what mends it is taken up.
    (folder / "helper.py").write_text("nonsense(")
    eventually(lambda: "given up" in evener.words(), "it is said", 20, 0.05)
    assert serves(evener, "two")
    write(folder, "three")
    eventually(lambda: serves(evener, "three"), "the mended version", 20, 0.05)
