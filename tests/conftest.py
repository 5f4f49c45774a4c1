"""The fixtures: running programs, shared where a test leaves them as it found them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    OWN,
    PROGRAM,
    Evener,
    Origin,
    Origins,
    Serve,
    Served,
    Start,
    origin_command,
    uvicorn_command,
)


def pytest_configure() -> None:
    """Without the built program nothing can be tested."""
    if not PROGRAM.exists():
        pytest.exit(f"{PROGRAM} is missing: run `make test`, which builds it", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the soak tests out unless they were asked for."""
    if "soak" not in (config.option.markexpr or ""):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run `make soak`"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts programs of a test's own; each is stopped, cleanly, when the test ends."""
    running: list[Evener] = []

    def begin(*arguments: str, wait: bool = True, workers: int = 1, **more: object) -> Evener:
        path = str(more.pop("ready_path", "/lab/worker"))
        folder = tmp_path / str(len(running))
        folder.mkdir()
        evener = Evener(folder, *arguments, **more)  # type: ignore[arg-type]
        running.append(evener)
        if wait:
            evener.wait_until_ready(path, workers)
        return evener

    yield begin
    for evener in running:
        _end(evener)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `evener serve` with files of a test's own; stopped, cleanly, when the test ends."""
    running: list[Evener] = []

    def begin(text: str, *, wait: bool = True, workers: int = 0, **more: object) -> Served:
        path = str(more.pop("ready_path", "/who"))
        folder = tmp_path / f"serve-{len(running)}"
        folder.mkdir()
        served = Served(folder, text, **more)  # type: ignore[arg-type]
        running.append(served)
        if wait:
            served.wait_until_ready(path, workers)
        return served

    yield begin
    for served in running:
        _end(served)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origins]:
    """Starts endpoints; ended when the test ends."""
    running: list[Origin] = []

    def begin(name: str, *, unix: bool = False, **more: object) -> Origin:
        path = tmp_path / f"{name}.sock" if unix else None
        started = Origin(name, path, **more)  # type: ignore[arg-type]
        running.append(started)
        return started

    yield begin
    for started in running:
        started.stop()


def _end(evener: Evener) -> None:
    """Stops a program, and insists that it ends well and leaves no process behind."""
    if evener.process.poll() is not None:
        return
    children = evener.descendants()
    status = evener.stop()
    assert status == 0, f"ended with {status}:\n{evener.words()}"
    left = {child for child in children if Path(f"/proc/{child}").exists()}
    assert not left, f"left behind processes {left}"
    assert "panicked" not in evener.words(), evener.words()


def _shared(folder: Path, *arguments: str, ready_path: str, workers: int) -> Iterator[Evener]:
    evener = Evener(folder, *arguments)
    try:
        evener.wait_until_ready(ready_path, workers)
        yield evener
    finally:
        _end(evener)


@pytest.fixture(scope="session", params=["own", "uvicorn"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evener]:
    """The shop on two workers, Evener's own or uvicorn's; tests leave it running."""
    folder = tmp_path_factory.mktemp(f"shop-{request.param}")
    kind = OWN if request.param == "own" else ["--worker-command", uvicorn_command()]
    arguments = [*kind, "--workers", "2"]
    yield from _shared(folder, *arguments, ready_path="/lab/worker", workers=2)


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evener]:
    """The edge before workers that misbehave as each path says; tests leave it running."""
    folder = tmp_path_factory.mktemp("edge")
    command = ["--workers", "2", "--worker-command", origin_command()]
    deadlines = ["--timeout-first-byte", "1", "--timeout-response-gap", "2"]
    yield from _shared(folder, *command, *deadlines, ready_path="/who", workers=2)


@pytest.fixture
def chromium() -> str:
    """The browser."""
    found = shutil.which("chromium")
    if not found:
        pytest.skip("chromium is not installed (tests/install.sh does, as root)")
    return found
