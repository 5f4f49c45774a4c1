"""Fixtures: workers that serve the applications beside this file."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from worker.serving import Worker

Serve = Callable[..., Worker]


def _loops() -> list[str]:
    return ["uvloop", "asyncio"]


@pytest.fixture(scope="session", params=_loops())
def worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker with the raw applications, on either loop; tests leave it running."""
    folder = tmp_path_factory.mktemp(request.param)
    with Worker(folder, "applications:app", "--loop", request.param) as shared:
        yield shared
        assert shared.process.poll() is None, f"it ended:\n{shared.words()}"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts workers of a test's own."""
    with ExitStack() as stack:
        count = 0

        def begin(app: str = "applications:app", *flags: str, **more: object) -> Worker:
            nonlocal count
            count += 1
            folder = tmp_path / str(count)
            return stack.enter_context(Worker(folder, app, *flags, **more))  # type: ignore[arg-type]

        yield begin
