"""No setting of gunicorn's does nothing in silence: what is not obeyed is refused, or said; and
tests for those that no other file looks at.
"""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evener.gunicorn.settings import known
from recording import EVENER, Recorded
from running import alive, eventually, free_port
from test_gunicorn_reload import open_for
from test_gunicorn_settings import TELLING, only_look, told
from test_tls import Authority
from wire import Wire

Begin = Callable[..., Recorded]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts programs with an application that tells about itself."""
    begun: list[Recorded] = []

    def start(settings: str = "", *flags: str, wait: int = 1, **more: object) -> Recorded:
        folder = tmp_path / str(len(begun))
        folder.mkdir()
        (folder / "telling.py").write_text(TELLING)
        arguments = {"app": "telling:app", **more}
        running = Recorded(EVENER, folder, *flags, settings=f"workers = 1\n{settings}", **arguments)  # type: ignore[arg-type]
        begun.append(running)
        return running.wait(wait) if wait else running

    yield start
    for running in begun:
        if running.process.poll() is None:
            running.stop(signal.SIGQUIT)
        assert "panicked" not in running.words()


# Settings with a test of their own, and where it is.
TESTED = {
    "test_against_gunicorn": """
        on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort
        pre_request post_request child_exit worker_exit nworkers_changed on_exit max_requests
    """,
    "test_gunicorn_settings": """
        accesslog access_log_format errorlog loglevel capture_output logconfig logconfig_dict
        logconfig_json logger_class statsd_host statsd_prefix dogstatsd_tags worker_connections
        timeout limit_request_line limit_request_fields limit_request_field_size proc_name user
        group umask raw_env tmp_upload_dir pythonpath chdir reload reload_extra_files
        control_socket control_socket_mode control_socket_disable spew check_config print_config
        bind config
    """,
    "test_gunicorn_signals": "pre_exec pidfile daemon workers",
    "test_gunicorn_proxy": "proxy_protocol proxy_allow_ips",
    "test_gunicorn_reload": "keepalive forwarded_allow_ips root_path",
    "test_leader": "worker_leader preload_app",
    "here": """
        backlog worker_class graceful_timeout max_requests_jitter wsgi_app default_proc_name
        asgi_loop asgi_lifespan websocket_max_message_size http_protocols http2_cleartext
        http2_max_concurrent_streams certfile keyfile ca_certs cert_reqs initgroups
        enable_stdio_inheritance syslog syslog_addr syslog_prefix syslog_facility
        disable_redirect_access_to_syslog enable_backlog_metric
    """,
}
# What makes a setting say something, where no plain value of its kind does.
CHANGED = {
    "protocol": "'uwsgi'",
    "paste": "'x.ini'",
    "dirty_workers": "2",
    "dirty_apps": "['a:b']",
    "raw_paste_global_conf": "['a=b']",
    "sendfile": "False",
    "suppress_ragged_eofs": "False",
    "reload_engine": "'poll'",
    "header_map": "'refuse'",
    "http_parser": "'python'",
    "secure_scheme_headers": "{'X-SECURE': 'yes'}",
    "uwsgi_allow_ips": "'10.0.0.1'",
    "worker_tmp_dir": "'/dev/shm'",
    "ciphers": "'HIGH'",
    "forwarder_headers": "'X-A'",
    "ssl_version": "5",
}
HOOKS = {"ssl_context": 2, "on_dirty_starting": 1, "dirty_post_fork": 2}
HOOKS |= {"dirty_worker_init": 1, "dirty_worker_exit": 1}


def test_every_setting_is_obeyed_or_refused_or_said(tmp_path: Path) -> None:
    tested = {name for names in TESTED.values() for name in names.split()}
    assert tested <= set(known()), tested - set(known())
    (tmp_path / "telling.py").write_text(TELLING)
    silent = []
    for name, setting in known().items():
        if name in tested:
            continue
        file = tmp_path / f"{name}.py"
        if name in HOOKS:
            arguments = ", ".join("abc"[: HOOKS[name]])
            file.write_text(f"def {name}({arguments}):\n    pass\n")
        else:
            value = CHANGED.get(name)
            if value is None:
                assert isinstance(setting.default, int), f"say in CHANGED what {name} could be"
                changed = not setting.default if setting.action else setting.default + 7
                value = repr(changed)
            file.write_text(f"{name} = {value}\n")
        port = free_port()
        command = [*EVENER, "telling:app", "-c", str(file), "--bind", f"127.0.0.1:{port}"]
        command += ["--no-control-socket"]
        words = tmp_path / f"{name}.log"
        with words.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

        def said(process: subprocess.Popen[bytes] = process, words: Path = words) -> bool:
            return process.poll() is not None or "is ready after" in words.read_text()

        eventually(said, f"{name} is taken or refused", 30)
        if process.poll() is None:
            process.terminate()
        process.wait(20)
        place = rf"{re.escape(str(file))}:1:\d+: {name}"
        if not re.search(rf"{place} has no effect: .|{place}: .", words.read_text()):
            silent.append((name, words.read_text()))
    assert not silent, silent


@pytest.mark.parametrize(
    "name",
    [
        "uvicorn.workers.UvicornWorker",
        "uvicorn_worker.UvicornWorker",
        "uvicorn.workers.UvicornH11Worker",
        "uvicorn_worker.UvicornH11Worker",
        "gunicorn.workers.gasgi.ASGIWorker",
        "asgi",
        "evener",
    ],
)
def test_worker_classes_that_mean_ours(begin: Begin, name: str) -> None:
    running = begin(worker_class=name)
    # uvicorn's class for h11 asks for asyncio's loop, others take the fastest there is.
    assert isinstance(told(running)["pid"], int)
    assert "evener" in Path(f"/proc/{running.process.pid}/exe").resolve().name


@pytest.mark.parametrize(
    "name",
    [
        "sync",
        "gthread",
        "gevent",
        "eventlet",
        "tornado",
        "uvicorn.workers.uvicornworker",
        "no.such",
    ],
)
def test_worker_classes_that_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "looked_at.py").write_text(f"worker_class = {name!r}\n")
    done = only_look(EVENER, tmp_path, "--check-config")
    assert done.returncode == 1
    assert "worker_class" in done.stderr
    assert name.rpartition(".")[2] in done.stderr


def test_backlog_is_that_of_the_socket(begin: Begin) -> None:
    running = begin("backlog = 123\n")
    command = ["ss", "-Hltn", f"sport = :{running.port}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert listed[2] == "123", listed


def test_graceful_timeout_bounds_what_is_waited_for(begin: Begin) -> None:
    running = begin("graceful_timeout = 1\n", app="recorded:app")
    with Wire(running.port) as wire:
        wire.request("GET", "/slow")
        eventually(lambda: "asked\n" in running.words(), "the application has the request")
        began = time.monotonic()
        assert running.stop() == 0
        assert 0.9 < time.monotonic() - began < 15, "it would have taken 30 s"


def test_keep_alive_on_the_command_line(begin: Begin) -> None:
    running = begin("keepalive = 60\n", "--keep-alive", "1")
    assert open_for(running, 5) < 3


def test_max_requests_jitter_spreads_the_ends_of_workers(begin: Begin) -> None:
    running = begin("max_requests = 10\nmax_requests_jitter = 40\n")
    pattern = re.compile(r"has had (\d+) requests and is replaced")

    def enough() -> list[int]:
        for _ in range(20):
            told(running)
        return [int(count) for count in pattern.findall(running.words())][:8]

    counts = eventually(lambda: found if len(found := enough()) == 8 else [], "eight", 60, 0)
    assert min(counts) >= 10
    # What was asked meanwhile, between two looks, comes on top.
    assert max(counts) < 10 + 40 + 400
    assert len(set(counts)) > 2, f"they differ: {counts}"


def test_the_application_can_be_named_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(
        TELLING + "\n\ndef make(colour, *, size):\n"
        "    assert (colour, size) == ('bay', 3)\n    return app\n"
    )
    port = free_port()
    file = tmp_path / "own.py"
    file.write_text(
        f'wsgi_app = "telling:make(\'bay\', size=3)"\nbind = "127.0.0.1:{port}"\n'
        "worker_class = 'asgi'\ncontrol_socket_disable = True\n"
    )
    process = subprocess.Popen([*EVENER, "-c", str(file)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:

        def name() -> str:
            try:
                with Wire(port) as wire:
                    return str(wire.get("/").json()["name"])
            except (OSError, EOFError):
                return ""

        # `default_proc_name` is what was named.
        assert eventually(name, "an answer", 30) == "telling:make('bay', size=3)"[:15]
    finally:
        process.terminate()
        process.wait(20)


def test_the_default_file_and_the_environment_are_read(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "gunicorn.conf.py").write_text("raw_env = ['COLOUR=roan']\nworker_class='asgi'\n")
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "WEB_CONCURRENCY": "3"}
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*EVENER, "telling:app", "--no-control-socket"],
            cwd=tmp_path,
            env=environment,
            stderr=out,
        )
    try:
        eventually(lambda: log.read_text().count("is ready after") == 3, "three workers", 30)
        with Wire(port) as wire:
            assert wire.get("/").json()["colour"] == "roan"
        assert f"http://0.0.0.0:{port}" in log.read_text()
    finally:
        process.terminate()
        process.wait(20)


def test_a_descriptor_and_several_addresses_can_be_bound(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    second, third = free_port(), tmp_path / "third.sock"
    with socket.create_server(("127.0.0.1", 0)) as given:
        given.set_inheritable(True)
        binds = [f"fd://{given.fileno()}", f"127.0.0.1:{second}", f"unix:{third}"]
        command = [*EVENER, "telling:app", "-k", "asgi", "--no-control-socket"]
        command += [word for bind in binds for word in ("--bind", bind)]
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=tmp_path, stderr=out, pass_fds=[given.fileno()])
        first = given.getsockname()[1]
    try:
        eventually(lambda: "is ready after" in log.read_text(), "a worker", 30)
        for port in (first, second):
            with Wire(port) as wire:
                assert wire.get("/").status == 200
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(third))
            stream.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            assert stream.recv(15) == b"HTTP/1.1 200 OK"
    finally:
        process.terminate()
        process.wait(20)
    assert not third.exists()


LIFE = """
import asyncio

said = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        said.append("lifespan")
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no hay"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message["bytes"]))})
        return
    body = f"{type(asyncio.get_running_loop()).__module__} {said}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def test_asgi_lifespan_and_loop(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "lively.py").write_text(LIFE)
    running = begin(
        f'pythonpath = "{tmp_path}"\nasgi_lifespan = "off"\nasgi_loop = "asyncio"\n',
        app="lively:app",
    )
    assert running.get() == "asyncio.unix_events []"
    failing = begin(f'pythonpath = "{tmp_path}"\nasgi_lifespan = "on"\n', app="lively:app", wait=0)
    assert failing.process.wait(30) != 0
    assert "no hay" in failing.words()


def test_websocket_max_message_size(begin: Begin, tmp_path: Path) -> None:
    import websockets.exceptions
    from websockets.sync.client import connect

    (tmp_path / "lively.py").write_text(LIFE)
    running = begin(
        f'pythonpath = "{tmp_path}"\nasgi_lifespan = "off"\nwebsocket_max_message_size = 1000\n',
        app="lively:app",
    )
    with connect(f"ws://127.0.0.1:{running.port}/") as stream:
        stream.send(b"x" * 1000)
        assert stream.recv() == "1000"
        stream.send(b"x" * 1001)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            stream.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("settings", "spoken"),
    [
        ('http_protocols = "h1"', False),
        ('http_protocols = "h2,h1"', False),
        ('http_protocols = "h2,h1"\nhttp2_cleartext = "prior-knowledge"', True),
        ('http_protocols = "h2"\nhttp2_cleartext = True\nhttp2_max_concurrent_streams = 5', True),
    ],
)
def test_http_2_in_clear_text_where_it_is_asked_for(
    begin: Begin, settings: str, spoken: bool
) -> None:
    running = begin(settings)
    with socket.create_connection(("127.0.0.1", running.port), 10) as stream:
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        answer = stream.recv(4096)
    # A frame of settings begins with its length; anything else is HTTP/1.1.
    assert (answer[3:4] == b"\4") is spoken, answer
    if "concurrent" in settings:
        # SETTINGS_MAX_CONCURRENT_STREAMS has the number 3.
        assert b"\0\3\0\0\0\5" in answer


def test_an_upgrade_to_http_2_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "looked_at.py").write_text(
        'worker_class = "asgi"\nhttp_protocols = "h2"\nhttp2_cleartext = "both"\n'
    )
    done = only_look(EVENER, tmp_path, "--bind", "127.0.0.1:0")
    assert done.returncode == 2
    assert "looked_at.py:3:1: http2_cleartext" in done.stderr


def test_tls_and_certificates_of_clients(begin: Begin, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = f'certfile = "{authority.certificate}"\nkeyfile = "{authority.key}"\n'
    settings += f'ca_certs = "{authority.pem}"\ncert_reqs = 2\n'
    running = begin(settings, wait=0)
    running.until("post_worker_init", 1)

    def ask(context: ssl.SSLContext) -> str:
        client = http.client.HTTPSConnection("localhost", running.port, timeout=15, context=context)
        client.request("GET", "/")
        return str(json.loads(client.getresponse().read())["client"][0])

    with pytest.raises((OSError, http.client.HTTPException)):
        ask(authority.context())
    known_one = authority.context()
    authority.ca.issue_cert("client.example").configure_cert(known_one)
    assert ask(known_one) in {"127.0.0.1", "::1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("initgroups", [True, False])
def test_initgroups(begin: Begin, tmp_path: Path, initgroups: bool) -> None:
    import grp
    import pwd

    # Somebody with further groups, if there is anybody.
    several = [
        user
        for user in pwd.getpwall()
        if user.pw_uid and len(os.getgrouplist(user.pw_name, user.pw_gid)) > 1
    ]
    if not several:
        pytest.skip("nobody here has more than one group")
    user = several[0]
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    group = grp.getgrgid(user.pw_gid).gr_name
    running = begin(
        f'user = "{user.pw_name}"\ngroup = "{group}"\ninitgroups = {initgroups}\n', wait=0
    )
    (running.folder / "hooks").touch()
    (running.folder / "hooks").chmod(0o666)
    running.wait(1)
    groups = set(told(running)["groups"])  # type: ignore[call-overload]
    every = set(os.getgrouplist(user.pw_name, user.pw_gid))
    assert groups == (every if initgroups else {user.pw_gid})


@pytest.mark.parametrize("inherits", [True, False])
def test_a_daemon_keeps_its_output_where_that_is_asked_for(begin: Begin, inherits: bool) -> None:
    running = begin(
        f"daemon = True\nenable_stdio_inheritance = {inherits}\n",
        more="\ndef when_ready(server):\n    print('printed by a daemon', flush=True)\n",
        wait=0,
    )
    assert running.process.wait(20) == 0
    running.until("post_worker_init", 1)
    daemon = int((running.folder / "pid").read_text())
    try:
        eventually(running.serves, "it answers", 30)
        assert ("printed by a daemon" in running.words()) is inherits
    finally:
        os.kill(daemon, signal.SIGTERM)
        eventually(lambda: not alive(daemon), "it stops", 30)


@pytest.mark.parametrize("redirect", [True, False])
def test_syslog(begin: Begin, tmp_path: Path, redirect: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.1)
        running = begin(
            f'syslog = True\nsyslog_addr = "udp://127.0.0.1:{server.getsockname()[1]}"\n'
            f'syslog_prefix = "stable"\nsyslog_facility = "local3"\n'
            f"disable_redirect_access_to_syslog = {not redirect}\n"
        )
        heard: list[str] = []

        def listen() -> str:
            try:
                while True:
                    heard.append(server.recv(4096).decode())
            except TimeoutError:
                return "\n".join(heard)

        told(running, "/logged")
        # The facility local3 is 19, the level informational 6.
        number = 19 * 8 + 6
        eventually(lambda: f"<{number}>" in listen() and "Booting worker" in listen(), "the errors")
        assert all("stable" in line for line in heard if "Booting" in line)
        if redirect:
            eventually(lambda: "GET /logged" in listen(), "the access log")
        else:
            for _ in range(5):
                assert "GET /logged" not in listen()


def test_enable_backlog_metric(begin: Begin) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = f'statsd_host = "127.0.0.1:{server.getsockname()[1]}"\n'
        running = begin(f"{address}enable_backlog_metric = True\n")
        eventually(lambda: b"gunicorn.backlog:" in server.recv(4096), "the metric", 20, 0)
        running.stop()
        server.setblocking(False)
        while True:
            try:
                server.recv(4096)
            except BlockingIOError:
                break
        server.settimeout(10)
        running = begin(address)
        seen = [server.recv(4096) for _ in range(3)]
        assert not any(b"gunicorn.backlog:" in one for one in seen), seen
