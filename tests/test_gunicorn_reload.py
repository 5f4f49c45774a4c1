"""What SIGHUP takes up of a gunicorn file that has changed: for the workers, for the data plane,
for the logs; and what it says of the rest.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recording import EVENER, Recorded
from running import alive, eventually
from test_gunicorn_settings import TELLING, status, told
from wire import Wire

Begin = Callable[..., Recorded]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts programs with an application that tells about itself."""
    begun: list[Recorded] = []

    def start(settings: str = "") -> Recorded:
        folder = tmp_path / str(len(begun))
        folder.mkdir()
        (folder / "telling.py").write_text(TELLING)
        running = Recorded(EVENER, folder, settings=f"workers = 1\n{settings}", app="telling:app")
        begun.append(running)
        return running.wait(1)

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop(signal.SIGQUIT)
        assert "panicked" not in running.words()


def change(running: Recorded, settings: str) -> None:
    """Writes other settings, and has them read; the new worker is the only one then."""
    before = running.count("post_worker_init")
    old = set(running.workers().values())
    running.write(f"workers = 1\n{settings}")
    running.signal(signal.SIGHUP)
    running.until("post_worker_init", before + 1)
    eventually(lambda: not any(map(alive, old)), "the old ones have gone", 30)


def test_the_level_of_the_log(begin: Begin) -> None:
    running = begin('loglevel = "error"')
    assert "is ready after" not in running.words()
    change(running, 'loglevel = "info"')
    eventually(lambda: "is ready after" in running.words(), "the program's own lines")
    assert "Booting worker" in running.words()
    change(running, 'loglevel = "error"')
    said = running.words().count("is ready after")
    change(running, 'loglevel = "error"')
    assert running.words().count("is ready after") == said


def open_for(running: Recorded, most: float) -> float:
    """For how long a connection without a request is kept, up to so many seconds."""
    with Wire(running.port) as wire:
        assert wire.get("/").status == 200
        began = time.monotonic()
        wire.socket.settimeout(most)
        with contextlib.suppress(TimeoutError):
            assert wire.is_closed()
        return time.monotonic() - began


def test_keepalive(begin: Begin) -> None:
    running = begin("keepalive = 1")
    assert 0.8 < open_for(running, 5) < 3
    change(running, "keepalive = 60")
    assert open_for(running, 3) >= 3


def test_limits_on_the_head_of_a_request(begin: Begin) -> None:
    running = begin("limit_request_line = 60\nlimit_request_fields = 5")
    long, many = "/" + "a" * 100, [f"X{number}: 1" for number in range(8)]
    assert (status(running, long), status(running, "/", *many)) == (414, 431)
    change(running, "limit_request_line = 200\nlimit_request_fields = 20")
    assert (status(running, long), status(running, "/", *many)) == (200, 200)


def test_whom_to_believe(begin: Begin) -> None:
    running = begin('forwarded_allow_ips = "10.0.0.1"')

    def client() -> object:
        with Wire(running.port) as wire:
            return wire.get("/", "X-Forwarded-For: 203.0.113.9").json()["client"][0]

    assert client() == "127.0.0.1"
    change(running, 'forwarded_allow_ips = "127.0.0.1"')
    assert client() == "203.0.113.9"


def test_the_proxy_protocol(begin: Begin) -> None:
    running = begin()

    def client() -> object:
        with Wire(running.port) as wire:
            wire.send(
                "PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n"
            )
            answer = wire.response()
        return answer.json()["client"][0] if answer.status == 200 else answer.status

    assert client() == 400
    change(running, "proxy_protocol = True")
    assert client() == "203.0.113.7"
    change(running, "")
    assert client() == 400


def test_when_a_worker_has_done_enough(begin: Begin) -> None:
    running = begin()
    change(running, "max_requests = 5")
    before = running.count("post_worker_init")
    for _ in range(6):
        told(running)
    running.until("post_worker_init", before + 1)
    assert "has had" in running.words()


def test_how_long_a_loop_may_stand_still(begin: Begin) -> None:
    running = begin("timeout = 600")
    change(running, "timeout = 1")
    assert status(running, "/stand") >= 500
    assert running.count("worker_abort") == 1


@pytest.mark.parametrize("preload", [False, True])
def test_flags_of_the_workers(begin: Begin, preload: bool) -> None:
    preloaded = f"preload_app = {preload}\n"
    running = begin(f'{preloaded}root_path = "/one"')
    assert told(running)["root_path"] == "/one"
    change(running, f'{preloaded}root_path = "/two"\nraw_env = ["COLOUR=grey"]')
    assert (told(running)["root_path"], told(running)["colour"]) == ("/two", "grey")
    # Another nursery knows of it too.
    nursery = next(call.pid for call in reversed(running.calls()) if call.process == "server")
    os.kill(nursery, signal.SIGKILL)
    eventually(lambda: "starting another; the workers go on" in running.words(), "it was noticed")
    before = running.count("post_worker_init")
    os.kill(int(str(told(running)["pid"])), signal.SIGKILL)
    running.until("post_worker_init", before + 1)
    assert told(running)["root_path"] == "/two"


def test_what_waits_for_the_next_start_is_said_with_its_place(begin: Begin) -> None:
    running = begin('statsd_prefix = "one"\nbacklog = 100')
    assert "next start" not in running.words()
    change(running, 'statsd_prefix = "two"\nbacklog = 200')
    for name in ("statsd_prefix", "backlog"):
        line = f"{name} has changed: that takes effect at the next start"
        assert f"{running.file}:" in running.words()
        assert line in running.words()
    said = running.words().count("next start")
    change(running, 'statsd_prefix = "two"\nbacklog = 200\nkeepaliv = 3')
    assert running.words().count("next start") == said, "once for each change"
    assert "keepaliv is no setting; is keepalive meant?" in running.words()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("workers = 'many'", "workers"),
        ("1 / 0", "ZeroDivisionError"),
        ('bind = "127.0.0.1:1"', "new addresses need a restart"),
        ('protocol = "uwsgi"', "protocol"),
    ],
)
def test_what_is_refused_changes_nothing(begin: Begin, settings: str, said: str) -> None:
    running = begin("keepalive = 60")
    before = told(running)["pid"]
    running.write(f"workers = 1\nkeepalive = 1\n{settings}")
    running.signal(signal.SIGHUP)
    eventually(lambda: "nothing has changed" in running.words(), "it is said")
    assert said in running.words()
    assert told(running)["pid"] == before
    assert open_for(running, 2) >= 2
