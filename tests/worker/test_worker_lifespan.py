"""Starting: the import of the application, its lifespan, and clear words when either fails."""

import re
from pathlib import Path

import pytest

from worker.conftest import Serve
from worker.serving import Worker


def failure(folder: Path, app: str, *flags: str) -> str:
    """What a worker says that cannot start."""
    with Worker(folder, app, *flags, wait=False) as worker:
        assert not worker.is_ready()
        assert worker.status() == 3
        return worker.words()


def test_a_startup_that_fails_is_shown_once(tmp_path: Path) -> None:
    words = failure(tmp_path, "lifespans:starlette_fails")
    assert words.startswith("evener: the application's startup (lifespan) failed\nTraceback")
    assert words.count("ConnectionError: no database here") == 1
    assert words.count("Traceback") == 1
    assert words.rstrip().endswith("ConnectionError: no database here")


def test_a_startup_that_fails_in_words(tmp_path: Path) -> None:
    words = failure(tmp_path, "lifespans:says_failed")
    assert words == "evener: the application's startup (lifespan) failed\nout of luck\n"


def test_a_shutdown_that_fails_is_logged(serve: Serve) -> None:
    worker = serve("lifespans:starlette_fails_at_the_end")
    worker.terminate()
    assert worker.status() == 0
    assert "shutdown (lifespan) failed" in worker.words()
    assert worker.words().count("ConnectionError: the database is gone") == 1


def test_an_application_without_lifespan(serve: Serve, tmp_path: Path) -> None:
    worker = serve("lifespans:without")
    with worker.wire() as wire:
        assert wire.get("/").body == b"without"
    worker.terminate()
    assert worker.status() == 0
    assert worker.words() == ""
    words = failure(tmp_path / "on", "lifespans:without", "--lifespan", "on")
    assert "does not answer 'lifespan.startup', and --lifespan is 'on'" in words


def test_lifespan_off(serve: Serve) -> None:
    worker = serve("lifespans:starlette_fails", "--lifespan", "off")
    with worker.wire() as wire:
        assert wire.get("/").status == 404


def test_factories(serve: Serve, tmp_path: Path) -> None:
    worker = serve("lifespans:make", "--factory")
    with worker.wire() as wire:
        assert wire.get("/").body == b"without"
    words = failure(tmp_path / "bad", "lifespans:make_badly", "--factory")
    assert re.match(r"evener: the factory 'lifespans:make_badly' failed: .*\nTraceback", words)
    assert "KeyError: 'SECRET'" in words


@pytest.mark.parametrize(
    ("app", "what"),
    [
        ("no_such_module:app", "there is no module 'no_such_module' in .* --app-dir"),
        ("lifespans:missing", "module 'lifespans' .* has no attribute 'missing'"),
        ("lifespans:number", "'lifespans:number' is an int, not an ASGI application"),
        ("lifespans:make", "takes no arguments, .* add --factory"),
        ("lifespans:wsgi", "as WSGI applications do"),
        ("broken_module", "its module 'broken_module' failed\nTraceback"),
        ("imports_missing:app", "imports 'no_such_library', which is not installed"),
        (":app", "names no module"),
    ],
)
def test_what_cannot_be_imported_is_explained(tmp_path: Path, app: str, what: str) -> None:
    words = failure(tmp_path, app)
    assert words.startswith("evener: ")
    assert re.search(what, words), words
    assert words.count("Traceback") <= 1
    assert "evener/application.py" not in words, "our own frames are of no interest"
    assert "importlib" not in words


def test_environment_files(serve: Serve, tmp_path: Path) -> None:
    marks = tmp_path / "marks of the test"
    file = tmp_path / "env"
    file.write_text(f"# comment\nexport MARKS=\"{marks}\"\nOTHER='a b' # why\n\nPLAIN=x # y\n")
    worker = serve("applications:app", "--env-file", str(file))
    with worker.wire() as wire:
        assert wire.get("/append?from-env").status == 200
    assert marks.read_text() == "from-env\n"
    file.write_text("no equals sign\n")
    words = failure(tmp_path / "bad", "applications:app", "--env-file", str(file))
    assert "line 1: not of the form NAME=value" in words


def test_wrong_flags(tmp_path: Path) -> None:
    with Worker(tmp_path, "applications:app", "--nonsense", wait=False) as worker:
        assert not worker.is_ready()
        assert worker.status() == 2
