"""gunicorn's settings, each with a test that fails if it did nothing: logs, limits, users."""

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recording import EVENER, GUNICORN, Recorded
from running import alive, eventually
from wire import Response, Wire

Begin = Callable[..., Recorded]

TELLING = """
import asyncio
import os
import sys
import tempfile
import time


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/print":
        print("printed by the application")
        sys.stderr.write("complained by the application\\n")
        sys.stderr.flush()
    if scope["path"] == "/stand":
        time.sleep(60)
    if scope["path"] == "/wait":
        await asyncio.sleep(0.5)
    told = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "folder": os.getcwd(),
        "path": sys.path,
        "colour": os.environ.get("COLOUR"),
        "temporary": tempfile.gettempdir(),
        "name": open("/proc/self/comm").read().strip(),
        "root_path": scope["root_path"],
        "client": scope["client"],
    }
    import json
    headers = [(b"content-type", b"application/json"), (b"x-answer", b"forty-two")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts programs with an application that tells about itself."""
    begun: list[Recorded] = []

    def start(settings: str = "", *flags: str, wait: int = 1, **more: object) -> Recorded:
        folder = tmp_path / str(len(begun))
        folder.mkdir()
        (folder / "telling.py").write_text(TELLING)
        settings = f"workers = 1\n{settings}"
        running = Recorded(EVENER, folder, *flags, settings=settings, app="telling:app", **more)  # type: ignore[arg-type]
        begun.append(running)
        return running.wait(wait) if wait else running

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop()
        assert "panicked" not in running.words()


def told(running: Recorded, path: str = "/") -> dict[str, object]:
    """What the application tells."""
    answer: dict[str, object] = json.loads(running.get(path))
    return answer


ATOMS = list("hlutrsmUqHbBfaTMDLp")
FORMAT = " | ".join(f"{atom}=%({atom})s" for atom in ATOMS)
FORMAT += " | i=%({X-Asked}i)s | o=%({x-answer}o)s | e=%({REQUEST_METHOD}e)s %({HTTP_X_ASKED}e)s"
FORMAT += " | %(nothing)s %({nothing}i)s %%"
ASKED = ['X-Asked: on\\e "quoted"', "Authorization: Basic YWRhOnNlY3JldA==", "Referer: http://r/"]


def line_of(running: Recorded, access: Path) -> str:
    """The access log's line of one request."""
    with Wire(running.port) as wire:
        wire.get("/a%20b/x?q=1&r=%20", "User-Agent: tester/1", *ASKED)

    def written() -> list[str]:
        lines = access.read_text().splitlines() if access.exists() else []
        return [line for line in lines if "/a%20b/x" in line]

    return eventually(written, "the line", 10)[0]


def comparable(line: str) -> str:
    """A line without what differs from one request to the next."""
    line = re.sub(r"t=\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d ([+-]\d{4})\]", r"t=\1", line)
    line = re.sub(r"\b([bB])=\d+", r"\1=N", line)
    line = re.sub(r"\b([TMDL])=[\d.]+", r"\1=N", line)
    return re.sub(r"p=<\d+>", "p=<N>", line)


@pytest.mark.parametrize("how", ["by the edge", "by Python"])
def test_every_atom_of_the_access_log_is_as_gunicorn_writes_it(
    begin: Begin, tmp_path: Path, how: str
) -> None:
    # A width is Python's to understand: then workers write the log.
    form = FORMAT if how == "by the edge" else FORMAT + " %(s)4s"
    settings = f'accesslog = "access"\naccess_log_format = {form!r}\n'
    folder = tmp_path / "gunicorn"
    folder.mkdir()
    (folder / "telling.py").write_text(TELLING)
    settings_of_gunicorn = f"workers = 1\n{settings}"
    gunicorn = Recorded(
        GUNICORN,
        folder,
        settings=settings_of_gunicorn,
        app="telling:app",
        worker_class="asgi",
    ).wait(1)
    try:
        expected = line_of(gunicorn, folder / "access")
    finally:
        gunicorn.stop()
    running = begin(settings, worker_class="asgi")
    line = line_of(running, running.folder / "access")
    assert comparable(line) == comparable(expected)
    assert f"p=<{told(running)['pid']}>" in line
    seconds = re.search(r"T=(\d+) \| M=(\d+) \| D=(\d+) \| L=(\d+\.\d{6})", line)
    assert seconds, line
    assert int(seconds[2]) == int(seconds[3]) // 1000
    assert float(seconds[4]) == int(seconds[3]) / 1e6


def test_logs_go_to_standard_output_and_error_or_to_files(begin: Begin) -> None:
    both = begin('accesslog = "-"\nerrorlog = "-"\n')
    told(both)
    eventually(lambda: '"GET / HTTP/1.1" 200' in both.words(), "a line of the access log")
    own = re.search(
        r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[(\d+)\] \[INFO\] Evener",
        both.words(),
        re.MULTILINE,
    )
    assert own, both.words()
    assert int(own[1]) == both.process.pid
    files = begin('accesslog = "access"\nerrorlog = "errors"\n')
    told(files)
    eventually(lambda: "GET / " in (files.folder / "access").read_text(), "its line")
    errors = (files.folder / "errors").read_text()
    assert "Booting worker" in errors
    assert "Evener" in errors
    assert files.words() == ""
    quiet = begin("accesslog = None\nerrorlog = None\n")
    told(quiet)
    assert quiet.stop() == 0
    assert quiet.words() == ""


def test_loglevel_decides_what_is_logged(begin: Begin) -> None:
    running = begin(
        'loglevel = "error"\n',
        more="""
def when_ready(server):
    server.log.warning("minor")
    server.log.error("major")
""",
    )
    words = running.words()
    assert "major" in words
    assert "minor" not in words
    assert "Booting" not in words
    assert "is ready" not in words


@pytest.mark.parametrize("captured", [True, False])
def test_capture_output_is_for_what_is_printed(begin: Begin, captured: bool) -> None:
    running = begin(f'errorlog = "errors"\ncapture_output = {captured}\n')
    running.get("/print")
    errors = running.folder / "errors"

    def printed() -> bool:
        where = errors.read_text() if captured else running.words()
        return "complained by the application" in where

    eventually(printed, "what was written to standard error")
    assert ("complained" in running.words()) is not captured
    running.stop()
    assert ("printed by" in errors.read_text()) is captured


LOGCONFIG = {
    "version": 1,
    "formatters": {"own": {"format": "OWN %(name)s %(levelname)s %(message)s"}},
    "handlers": {
        "own": {"class": "logging.FileHandler", "formatter": "own", "filename": "own.log"}
    },
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["own"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["own"], "propagate": False},
    },
    "root": {"level": "INFO", "handlers": ["own"]},
}
LOGCONFIG_FILE = """
[loggers]
keys=root, gunicorn.error, gunicorn.access
[handlers]
keys=own
[formatters]
keys=own
[formatter_own]
format=OWN %(name)s %(levelname)s %(message)s
[handler_own]
class=FileHandler
args=("own.log",)
formatter=own
[logger_root]
level=INFO
handlers=own
[logger_gunicorn.error]
level=INFO
handlers=own
propagate=0
qualname=gunicorn.error
[logger_gunicorn.access]
level=INFO
handlers=own
propagate=0
qualname=gunicorn.access
"""


@pytest.mark.parametrize("setting", ["logconfig_dict", "logconfig_json", "logconfig"])
def test_pythons_loggers_write_both_logs_when_they_are_configured(
    begin: Begin, tmp_path: Path, setting: str
) -> None:
    if setting == "logconfig_dict":
        value: object = LOGCONFIG
    else:
        value = str(tmp_path / "log.conf")
        text = json.dumps(LOGCONFIG) if setting == "logconfig_json" else LOGCONFIG_FILE
        Path(str(value)).write_text(text)
    running = begin(f"{setting} = {value!r}\naccess_log_format = '%(m)s %(U)s %(s)s'\n")
    told(running, "/x")
    own = running.folder / "own.log"
    eventually(lambda: "OWN gunicorn.access INFO GET /x 200\n" in own.read_text(), "its line")
    eventually(lambda: "OWN gunicorn.error INFO Evener" in own.read_text(), "the program's own")
    assert "OWN gunicorn.error INFO Booting worker" in own.read_text()
    running.signal(signal.SIGTTIN)
    eventually(lambda: "INFO scaling from 1 to 2" in own.read_text(), "what it does later")


def test_a_logger_class_of_ones_own_writes_both_logs(begin: Begin) -> None:
    running = begin(
        'accesslog = "access"\n',
        more="""
from gunicorn.glogging import Logger

class Own(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        self.error_log.info("an own class")

    def access(self, resp, req, environ, request_time):
        self.error_log.info("own %s %s %s", req.method, req.path, resp.status)

logger_class = Own
""",
    )
    told(running, "/x")
    eventually(lambda: "own GET /x 200" in running.words(), "its line")
    assert "an own class" in running.words()


def test_without_gunicorn_installed_files_that_use_it_are_read(
    begin: Begin, tmp_path: Path
) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import sys\nfor name in ('gunicorn', 'uvicorn_worker', 'uvicorn.workers'):\n"
        "    sys.modules[name] = None\n"
    )
    running = begin(
        more="""
from gunicorn.glogging import CONFIG_DEFAULTS, Logger
from uvicorn.workers import UvicornWorker

assert CONFIG_DEFAULTS["version"] == 1

class Own(UvicornWorker):
    CONFIG_KWARGS = {"root_path": "/mounted"}

worker_class = Own
""",
        environment={"PYTHONPATH": str(tmp_path)},
    )
    assert told(running)["root_path"] == "/mounted"
    running.signal(signal.SIGHUP)
    running.until("post_worker_init", 2)
    assert told(running)["root_path"] == "/mounted"


def test_statsd_is_told_what_happens(begin: Begin) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        running = begin(
            f'statsd_host = "127.0.0.1:{server.getsockname()[1]}"\nstatsd_prefix = "shop"\n'
            'dogstatsd_tags = "colour:bay"\n',
            more="\ndef pre_request(worker, req):\n"
            '    worker.log.warning("one")\n'
            '    worker.log.info("", extra={"metric": "own", "value": 7, "mtype": "gauge"})\n',
        )
        for _ in range(3):
            told(running)
        heard: list[str] = []

        def complete() -> bool:
            heard.extend(server.recv(4096).decode().split("\n"))
            wanted = ["shop.gunicorn.requests:", "shop.gunicorn.workers:1|g|#colour:bay"]
            wanted += ["shop.gunicorn.request.status.200:", "shop.gunicorn.request.duration:"]
            wanted += ["shop.gunicorn.log.warning:1|c|@1.0|#colour:bay", "shop.own:7|g"]
            return all(any(line.startswith(want) for line in heard) for want in wanted)

        eventually(complete, "all metrics", 20, 0)
        assert all(line.endswith("|#colour:bay") for line in heard)


def test_worker_connections_is_the_most_that_a_worker_has_at_once(begin: Begin) -> None:
    running = begin("worker_connections = 1\n")
    began = time.monotonic()
    asking = [threading.Thread(target=told, args=(running, "/wait")) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert time.monotonic() - began >= 1.4, "three of half a second, one after the other"


def test_timeout_aborts_a_worker_that_stands_still(begin: Begin) -> None:
    running = begin("timeout = 1\n")
    asking = threading.Thread(target=status, args=(running, "/stand"))
    asking.start()
    running.until("post_worker_init", 2, 20)
    asking.join()
    assert running.count("worker_abort") == 1
    assert "time.sleep(60)" in running.words() or "telling.py" in running.words(), "where it stood"
    assert told(running)


def status(running: Recorded, path: str = "/", *fields: str) -> int:
    """The status of one answer."""
    with Wire(running.port) as wire:
        response: Response = wire.get(path, *fields)
    return response.status


def test_limits_on_the_head_of_a_request(begin: Begin) -> None:
    running = begin(
        "limit_request_line = 60\nlimit_request_fields = 5\nlimit_request_field_size = 40\n"
    )
    line = len("GET  HTTP/1.1")
    assert status(running, "/" + "a" * (59 - line)) == 200
    assert status(running, "/" + "a" * (60 - line)) == 414
    assert status(running, "/", "X: " + "a" * 35) == 200
    assert status(running, "/", "X: " + "a" * 36) == 431
    assert status(running, "/", *[f"X{number}: 1" for number in range(6)]) == 431


def test_names_of_processes(begin: Begin) -> None:
    running = begin('proc_name = "bay-mare"\n')
    assert told(running)["name"] == "bay-mare"
    own = Path(f"/proc/{running.process.pid}/comm").read_text().strip()
    assert own == "bay-mare"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_run_as_user_and_group(begin: Begin, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    path = tmp_path / "bound.sock"
    running = begin(
        f'user = "nobody"\ngroup = {nobody.pw_gid}\nerrorlog = "errors"\numask = 0o117\n'
        f'bind = [bind, "unix:{path}"]\naccesslog = "access"\n',
        wait=0,
    )
    (running.folder / "hooks").touch(0o666)
    (running.folder / "hooks").chmod(0o666)
    running.wait(1)
    answer = told(running)
    assert (answer["uid"], answer["gid"]) == (nobody.pw_uid, nobody.pw_gid)
    assert 0 not in answer["groups"] or nobody.pw_gid == 0  # type: ignore[operator]
    assert Path(f"/proc/{running.process.pid}").stat().st_uid == 0, "the program keeps its rights"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (nobody.pw_uid, 0o660)
    assert (running.folder / "errors").stat().st_uid == nobody.pw_uid
    assert (running.folder / "access").stat().st_uid == nobody.pw_uid


def test_environment_folders_and_paths(begin: Begin, tmp_path: Path) -> None:
    for name in ("temporary", "modules"):
        (tmp_path / name).mkdir()
    running = begin(
        f'raw_env = ["COLOUR=bay"]\ntmp_upload_dir = "{tmp_path}/temporary"\n'
        f'pythonpath = "{tmp_path}/modules"\n'
    )
    answer = told(running)
    assert answer["colour"] == "bay"
    assert answer["temporary"] == f"{tmp_path}/temporary"
    assert f"{tmp_path}/modules" in answer["path"]  # type: ignore[operator]
    assert answer["folder"] == str(running.folder)


def test_reload_replaces_workers_when_files_change(begin: Begin, tmp_path: Path) -> None:
    extra = tmp_path / "elsewhere" / "extra.yaml"
    extra.parent.mkdir()
    extra.write_text("1")
    running = begin(f'reload = True\nreload_extra_files = ["{extra}"]\n')
    source = running.folder / "telling.py"
    source.write_text(source.read_text().replace("forty-two", "forty-three"))
    running.until("post_worker_init", 2)

    def changed() -> bool:
        with Wire(running.port) as wire:
            return wire.get("/").one("x-answer") == "forty-three"

    eventually(changed, "the changed application answers", 20)
    before = running.count("post_worker_init")
    extra.write_text("2")
    running.until("post_worker_init", before + 1)
    eventually(lambda: "extra.yaml" in running.words(), "it is said which file it was")


def test_the_control_socket_is_where_the_program_is_asked(begin: Begin) -> None:
    settings = 'control_socket = "control.sock"\ncontrol_socket_disable = False\n'
    running = begin(settings + "control_socket_mode = 0o660\n")
    assert (running.folder / "control.sock").stat().st_mode & 0o777 == 0o660
    usual = begin('control_socket = "control.sock"\ncontrol_socket_disable = False\n')
    assert (usual.folder / "control.sock").stat().st_mode & 0o777 == 0o600
    off = begin('control_socket = "control.sock"\ncontrol_socket_disable = True\n')
    assert not (off.folder / "control.sock").exists()
    assert "no socket (it is switched off)" in off.words()
    command = [EVENER[0], "workers", "--json", "--admin", str(running.folder / "control.sock")]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    listed = answer["workers"] if isinstance(answer, dict) else answer
    assert [worker["pid"] for worker in listed] == [told(running)["pid"]]


def test_spew_shows_every_line_that_runs(begin: Begin) -> None:
    running = begin("spew = True\n")
    told(running)
    line = re.compile(r"^telling:\d+: +told = \{", re.MULTILINE)
    eventually(lambda: line.search(running.words()), "a line")


def only_look(program: list[str], folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that ends by itself."""
    command = [*program, "telling:app", "-c", "looked_at.py", *flags]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=30
    )


def test_print_config_prints_what_gunicorn_prints(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "looked_at.py").write_text(
        "workers = 3\nbind = ['127.0.0.1:1', 'unix:x']\ntimeout = 12\nraw_env = ['A=b']\n"
        "worker_class = 'asgi'\numask = '0o27'\n"
        "def on_starting(server):\n    pass\n"
    )

    def printed(program: list[str]) -> dict[str, str]:
        done = only_look(program, tmp_path, "--print-config", "--keep-alive", "7")
        assert done.returncode == 0, done.stderr
        pairs = [line.partition(" = ") for line in done.stdout.splitlines()]
        return {name: value for name, _, value in pairs}

    expected, lines = printed(GUNICORN), printed(EVENER)
    assert list(lines) == list(expected)
    for name, value in expected.items():
        # gunicorn's own logger, its own place for its control socket, its hooks that do nothing.
        own = name.strip() in {"control_socket", "logger_class"} or re.fullmatch(
            r"<\w+\.\w+\(\)>", value
        )
        assert own or lines[name] == value, name


@pytest.mark.parametrize(
    ("line", "status"),
    [("workers = 2", 0), ("workers = -1", 1), ("import nowhere", 1), ("wsgi_app = 'x'", 0)],
)
def test_check_config_ends_as_gunicorn_ends(tmp_path: Path, line: str, status: int) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "looked_at.py").write_text(f"worker_class = 'asgi'\n{line}\n")
    for program in (GUNICORN, EVENER):
        done = only_look(program, tmp_path, "--check-config")
        assert done.returncode == status, (program, done.stdout, done.stderr)


@pytest.mark.parametrize("which", ["typed", "in the environment"])
def test_a_later_source_wins(begin: Begin, which: str) -> None:
    flags = ["--name", "typed"] if which == "typed" else []
    environment = {"GUNICORN_CMD_ARGS": "--name variable --env COLOUR=dun"}
    running = begin('proc_name = "written"\nraw_env = []\n', *flags, environment=environment)
    expected = "typed" if which == "typed" else "variable"
    assert told(running)["name"] == expected
    assert told(running)["colour"] == "dun"


def test_a_worker_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    reader, writer = os.pipe()
    os.close(reader)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        command = [sys.executable, "-m", "evener.worker", "telling:app", "--app-dir", str(tmp_path)]
        command += ["--socket-fd", str(listener.fileno()), "--ready-fd", str(writer)]
        worker = subprocess.Popen(
            command,
            pass_fds=[listener.fileno(), writer],
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        _, words = worker.communicate(timeout=20)
    assert worker.returncode == 3
    assert "nobody waits for this worker" in words
    assert not alive(worker.pid)
