"""`evener check` and what `evener serve` says about files that are wrong."""

import os
import subprocess
from pathlib import Path

import pytest
from running import PROGRAM

GOOD = """
[[listener]]
address = "127.0.0.1:8080"

[[route]]
path = "/"
cluster = "api"

[cluster.api]
policy = "round_robin"
endpoints = [
  { address = "127.0.0.1:9001", weight = 3 },
  { address = "unix:/run/app.sock", backup = true },
]

[app]
target = "main:app"
workers = "auto"
"""


def evener(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the program in a folder."""
    return subprocess.run(
        [str(PROGRAM), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **variables},
    )


def test_a_good_file(tmp_path: Path) -> None:
    """The status is 0, and no application is looked for."""
    (tmp_path / "evener.toml").write_text(GOOD)
    done = evener(tmp_path, "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "evener.toml: good: 1 listener, 1 route, 2 clusters\n"
    assert evener(tmp_path, "check", "-c", str(tmp_path / "evener.toml")).returncode == 0
    # It says more about a cluster that is there already.
    (tmp_path / "evener.toml").write_text(GOOD + "[cluster.app]\nqueue = 5\n")
    assert evener(tmp_path, "check").stdout == done.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_all_errors_at_once(tmp_path: Path, command: str) -> None:
    """Each with file, line and column, the rule, and what was meant; the status is 1."""
    text = GOOD.replace("policy", "polcy").replace('cluster = "api"', 'cluster = "apo"')
    text = text.replace("weight = 3", "weight = 0") + 'server_header = "maybe"\n'
    (tmp_path / "my.toml").write_text(text)
    done = evener(tmp_path, command, "-c", "my.toml")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "my.toml:7:11: there is no cluster `apo`; did you mean `api`?",
        "my.toml:10:1: unknown key `polcy` in [cluster.NAME]; did you mean `policy`?",
        "my.toml:12:42: `cluster.api.endpoints.weight`: `0` is not a whole number from 1 to 65535",
        "my.toml:19:17: `app.server_header`: `maybe` is neither `true` nor `false`",
    ]


def test_the_environment(tmp_path: Path) -> None:
    """Variables are put in, with defaults; one that is missing is an error with a place."""
    text = GOOD.replace("8080", "${PORT:-8081}").replace("weight = 3", 'weight = "${WEIGHT}"')
    (tmp_path / "evener.toml").write_text(text)
    assert evener(tmp_path, "check", WEIGHT="2").returncode == 0
    done = evener(tmp_path, "check")
    assert done.stderr.startswith("evener.toml:12:42: ")
    assert "the environment variable `WEIGHT` is not set" in done.stderr
    done = evener(tmp_path, "check", WEIGHT="2", PORT="eighty")
    assert "evener.toml:3:11: `listener.address`: `127.0.0.1:eighty`: the port is" in done.stderr


def test_settings_of_the_application_are_held_to_the_flags(tmp_path: Path) -> None:
    """What `evener run` would refuse has a place in the file."""
    (tmp_path / "evener.toml").write_text('[app]\nworkers = 2\nenv_file = "none"\nws = "x"\n')
    assert evener(tmp_path, "check").returncode == 0
    done = evener(tmp_path, "serve")
    assert done.returncode == 1
    assert "evener.toml:1:1: `[app]`: " in done.stderr


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """They are named, with what to do."""
    done = evener(tmp_path, "check")
    assert done.returncode == 1
    assert done.stderr == "evener.toml: there is no such file; name another with -c\n"
    (tmp_path / "evener.toml").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in evener(tmp_path, "serve").stderr
    (tmp_path / "evener.toml").write_text("[[listener\n")
    assert evener(tmp_path, "check").stderr.startswith("evener.toml:1:")
