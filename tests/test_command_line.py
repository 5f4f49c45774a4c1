"""What people type, rightly and wrongly: one clear message, and a status that tells."""

import subprocess
from pathlib import Path

import pytest
from running import OWN, PROGRAM, SHOP, Start, free_port


def evener(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the program and expects it to end by itself."""
    return subprocess.run(
        [str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def refused(*arguments: str, folder: Path | None = None) -> str:
    """The message of a command line that cannot be served."""
    done = evener(*arguments, folder=folder)
    words = done.stdout + done.stderr
    assert done.returncode not in (0, 101), words
    assert done.returncode > 0, f"ended by signal {-done.returncode}: {words}"
    for never in ("panicked", "RUST_BACKTRACE", "unwrap", "src/main.rs"):
        assert never not in words
    return words


def test_version() -> None:
    done = evener("version")
    assert done.returncode == 0
    assert "0.1.0" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["workers", "--help"]])
def test_help(arguments: list[str]) -> None:
    done = evener(*arguments)
    assert done.returncode == 0
    assert len(done.stdout) > 100


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("--worker", "--workers"), ("--prot", "--port"), ("--app_dir", "--app-dir")],
)
def test_an_unknown_flag_names_the_nearest(typed: str, meant: str) -> None:
    words = refused("run", "main:app", typed, "4")
    assert typed in words
    assert meant in words


def test_an_unknown_command_names_the_nearest() -> None:
    assert "workers" in refused("worker")


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["--port", "99999"], "port"),
        (["--port", "http"], "http"),
        (["--workers", "0"], "workers"),
        (["--workers", "many"], "many"),
        (["--host", "not a host"], "not a host"),
        (["--forwarded-allow-ips", "10.0.0.0/99"], "10.0.0.0/99"),
        (["--header", "no colon"], "no colon"),
        (["--log-level", "shout"], "shout"),
        (["--timeout-keep-alive", "-1"], "-1"),
        (["--app-dir", "/does/not/exist"], "/does/not/exist"),
        (["--env-file", "/does/not/exist"], "/does/not/exist"),
    ],
)
def test_a_wrong_value_is_named(arguments: list[str], mention: str) -> None:
    if "--app-dir" not in arguments:
        arguments = [*arguments, "--app-dir", str(SHOP)]
    assert mention in refused("run", "app.main:app", *arguments)


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """A folder of applications that cannot be served."""
    (tmp_path / "broken.py").write_text("def app(:\n")
    (tmp_path / "raises.py").write_text("raise RuntimeError('no such horse')\napp = None\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "number.py").write_text("app = 42\n")
    (tmp_path / "needs.py").write_text("import a_module_nobody_has\napp = None\n")
    (tmp_path / "lifespan.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    raise RuntimeError('the stable is on fire')\n"
        "def factory():\n"
        "    return app\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("app", "mentions"),
    [
        ("nowhere:app", ["nowhere"]),
        ("empty:app", ["empty", "app"]),
        ("broken:app", ["broken.py", "SyntaxError"]),
        ("raises:app", ["no such horse"]),
        ("needs:app", ["a_module_nobody_has"]),
        ("number:app", ["number:app"]),
    ],
)
def test_an_application_that_cannot_be_imported(apps: Path, app: str, mentions: list[str]) -> None:
    port = str(free_port())
    flags = [*OWN, "--app-dir", str(apps), "--port", port, "--workers", "2"]
    words = refused("run", app, *flags)
    for mention in mentions:
        assert mention in words
    assert words.count("Traceback") <= 1, f"once, not once for each worker:\n{words}"


def test_a_lifespan_that_fails(apps: Path) -> None:
    lifespan = [*OWN, "--lifespan", "on", "--port", str(free_port()), "--workers", "2"]
    words = refused("run", "lifespan:app", "--app-dir", str(apps), *lifespan)
    assert "the stable is on fire" in words


def test_no_application_is_found(tmp_path: Path) -> None:
    words = refused("run", folder=tmp_path)
    assert "main.py" in words


def test_the_application_may_be_left_out(start: Start) -> None:
    found = start("--workers", "1", app=None, app_dir=SHOP)
    assert found.get("/products").status == 200


def test_a_factory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "def build():\n"
        "    async def app(scope, receive, send):\n"
        "        assert scope['type'] == 'http'\n"
        "        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "        await send({'type': 'http.response.body', 'body': b'built'})\n"
        "    return app\n"
    )
    made = start("--factory", "--workers", "1", app="made:build", app_dir=tmp_path, ready_path="/")
    assert made.get("/").body == b"built"


def test_an_environment_file(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_text("# the shop's\nSHOP_TITLE='The Other Shop'\n")
    shop = start("--env-file", str(path), "--workers", "1")
    assert shop.get("/openapi.json").json()["info"]["title"] == "The Other Shop"


def test_a_port_in_use(start: Start) -> None:
    first = start("--workers", "1")
    words = refused("run", "app.main:app", "--app-dir", str(SHOP), "--port", str(first.port))
    assert str(first.port) in words
    assert "in use" in words


def test_nothing_runs_under_that_name(tmp_path: Path) -> None:
    for command in ("status", "workers", "reload"):
        words = refused(command, "--admin", str(tmp_path / "nobody.sock"))
        assert "nobody.sock" in words
