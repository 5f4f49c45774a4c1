"""Under systemd: what it is told, the sockets it opens for us, and the unit that it reads.

systemd itself is not needed: its side of the protocol is a datagram socket and three variables.
"""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from hanging import hung, thread
from load import Ask, Load, Outcome
from running import PROGRAM, SHOP, Evener, Served, Start, eventually, free_port

# As systemd does: the sockets from 3 on, and the process that they are for.
ACTIVATE = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(os.dup(listener.fileno()), 3, inheritable=True)
os.set_inheritable(3, True)
listener.detach()
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """systemd's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def heard(self, words: str) -> bool:
        """Whether it has been told this; takes it, and what came before it, off the list."""
        try:
            while True:
                self.said.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            pass
        for index, said in enumerate(self.said):
            if words in said:
                del self.said[: index + 1]
                return True
        return False

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A notification socket."""
    created = Manager(tmp_path / "notify")
    yield created
    created.close()


def test_it_says_when_it_serves_reloads_and_stops(start: Start, manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000"}
    evener = start("--workers", "2", environment=environment, wait=False)
    eventually(lambda: manager.heard("READY=1"), "it is ready", 40)
    assert evener.get("/lab/worker").status == 200, "and so it is"
    eventually(lambda: manager.heard("STATUS=ready: 2 of 2 workers"), "how it is doing", 20)
    for _ in range(3):
        eventually(lambda: manager.heard("WATCHDOG=1"), "it lives", 5)
    before = evener.ready()
    evener.signal(signal.SIGHUP)
    eventually(lambda: manager.heard("RELOADING=1\nMONOTONIC_USEC="), "it reloads", 10)
    eventually(lambda: manager.heard("READY=1"), "it has reloaded", 40)
    assert not evener.ready() & before
    evener.signal(signal.SIGTERM)
    eventually(lambda: manager.heard("STOPPING=1"), "it stops", 10)
    assert evener.process.wait(20) == 0


def is_silent(manager: Manager, seconds: float) -> bool:
    """Whether the watchdog hears nothing for so long, and then nothing that was on its way."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if manager.heard("WATCHDOG=1"):
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("name", ["shard-0", "shard-1", "evener"])
def test_the_watchdog_hears_nothing_of_a_program_whose_threads_hang(
    start: Start, manager: Manager, name: str
) -> None:
    """The thread is stopped, the process is not: whoever watches the process sees nothing."""
    interval = 0.4
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(int(interval * 1e6))}
    evener = start("--shards", "2", environment=environment)
    for _ in range(3):
        eventually(lambda: manager.heard("WATCHDOG=1"), "it lives", 5)
    with hung(thread(evener.pid, name)):
        # What it was about to say when it was stopped.
        eventually(lambda: is_silent(manager, 2 * interval), "it falls silent", 10)
        assert is_silent(manager, 5 * interval), "and stays so"
        assert evener.process.poll() is None
        if name != "evener":
            assert evener.ask("status")["state"] == "ready", "the control thread runs"
    for _ in range(3):
        eventually(lambda: manager.heard("WATCHDOG=1"), "it lives again", 5)
    assert evener.get("/lab/worker").status == 200


def test_the_watchdog_hears_of_a_program_that_has_much_to_do(
    start: Start, manager: Manager
) -> None:
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    evener = start("--workers", "2", environment=environment, workers=2)
    load = Load(evener.port, lambda: repeat(Ask("/lab/worker")), 32)
    outcomes: list[Outcome] = []
    asking = threading.Thread(target=lambda: outcomes.append(asyncio.run(load.run(4))))
    asking.start()
    while asking.is_alive():
        eventually(lambda: manager.heard("WATCHDOG=1"), "within its time", 1)
    asking.join()
    assert not outcomes[0].failures, outcomes[0]


def test_workers_do_not_speak_for_it(start: Start, manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    told = str(sorted(n for n in os.environ if 'NOTIFY' in n or 'LISTEN' in n)).encode()\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': told})\n"
    )
    environment = {"NOTIFY_SOCKET": str(manager.path), "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    evener = start(app="tells:app", app_dir=tmp_path, environment=environment, ready_path="/")
    assert evener.get("/").body == b"[]"


class Activated(Evener):
    """A program whose sockets were opened before it was started."""

    def _begin(self, command: list[str], environment: dict[str, str] | None) -> None:
        starter = [sys.executable, "-c", ACTIVATE, str(self.port)]
        super()._begin([*starter, *command], environment)


def test_it_serves_on_the_socket_that_was_opened_for_it(tmp_path: Path) -> None:
    # Its own port would be another one: the socket takes its place.
    evener = Activated(tmp_path, "--port", "1", "--workers", "1")
    evener.wait_until_ready()
    assert f"on http://127.0.0.1:{evener.port}" in evener.words()
    assert evener.stop() == 0


class ActivatedServed(Served):
    """The same for `evener serve`."""

    opened = 0

    def _begin(self, command: list[str], environment: dict[str, str] | None) -> None:
        starter = [sys.executable, "-c", ACTIVATE, str(self.opened or self.port)]
        super()._begin([*starter, *command], environment)


APP = f'[app]\ntarget = "app.main:app"\napp_dir = "{SHOP}"'


def test_a_listener_of_the_file_takes_the_socket_on_its_address(tmp_path: Path) -> None:
    served = ActivatedServed(tmp_path, APP)
    served.wait_until_ready("/lab/worker", workers=1)
    served.tell("reload")
    assert served.get("/lab/worker").status == 200, "it is kept by a reload"
    assert served.stop() == 0


def test_a_socket_that_no_listener_names_is_said(tmp_path: Path) -> None:
    class Other(ActivatedServed):
        opened = free_port()

    served = Other(tmp_path, APP)
    assert served.process.wait(20) == 2
    assert "no `[[listener]]`" in served.words()
    assert f"127.0.0.1:{Other.opened} (descriptor 3)" in served.words()


def unit(folder: Path, *arguments: str) -> str:
    """The unit that is written there."""
    command = [str(PROGRAM), "generate", "systemd", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    return done.stdout


def test_the_units_are_ones(tmp_path: Path) -> None:
    service = unit(tmp_path, "--user", "www-data", "main:app", "--workers", "2..4", "--preload")
    line = f"ExecStart={PROGRAM} run main:app --workers 2..4 --preload --name evener"
    assert line in service
    assert f"WorkingDirectory={tmp_path}" in service
    assert "User=www-data" in service
    (tmp_path / "evener.service").write_text(service)
    (tmp_path / "evener.socket").write_text(unit(tmp_path, "--socket", "80"))
    (tmp_path / "evener.toml").write_text("[app]\n[timeouts]\ngraceful_shutdown = 90\n")
    served = unit(tmp_path)
    assert f"{PROGRAM} serve\n" in served
    assert "TimeoutStopSec=105" in served
    verify = shutil.which("systemd-analyze")
    if verify:
        files = [str(tmp_path / name) for name in ("evener.service", "evener.socket")]
        command = [verify, "verify", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [line for line in done.stderr.splitlines() if "evener" in line]
        assert not ours, ours


def test_a_command_line_that_is_none_gets_no_unit(tmp_path: Path) -> None:
    command = [str(PROGRAM), "generate", "systemd", "main:app", "--wrokers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--wrokers" in done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir())
