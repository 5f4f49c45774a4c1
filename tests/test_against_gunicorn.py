"""The same configuration, with a hook of every kind, under real gunicorn and under Evener: which
hooks are called in which process, in which order and with what must agree.

gunicorn is run with uvicorn's worker class and with its own `asgi`. uvicorn's puts signal handlers
of its own in the place of gunicorn's, and so loses hooks of the worker's side (LOST); Evener calls
them, as gunicorn's own class does.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recording import EVENER, GUNICORN, Called, Recorded
from running import eventually
from wire import Wire

UVICORN = "uvicorn.workers.UvicornWorker"
CLASSES = [UVICORN, "asgi"]
# What uvicorn's worker class does not call: a worker that is told to end dies of the signal.
LOST = {"worker_exit", "worker_int", "worker_abort", "pre_request", "post_request"}

Phases = dict[str, list[Called]]


def life(running: Recorded) -> Phases:
    """Everything that happens to a program, one thing at a time, and the calls of each."""
    phases: Phases = {}
    seen = 0

    def end(name: str) -> None:
        nonlocal seen
        calls = running.calls()
        phases[name] = calls[seen:]
        seen = len(calls)

    running.wait()
    end("start")
    running.signal(signal.SIGTTIN)
    running.until("post_worker_init", 3)
    end("TTIN")
    running.signal(signal.SIGTTOU)
    running.until("child_exit", 1)
    end("TTOU")
    os.kill(running.workers()[2], signal.SIGKILL)
    running.until("post_worker_init", 4)
    end("kill")
    running.signal(signal.SIGHUP)
    running.until("post_worker_init", 6)
    running.until("child_exit", 4)
    end("HUP")
    assert running.stop() == 0
    end("TERM")
    return phases


def side_by_side(
    folder: Path, act: object, settings: str, worker_class: str
) -> tuple[Phases, Phases]:
    """What gunicorn calls, and what Evener calls."""
    assert callable(act)

    def run(name: str, program: list[str]) -> Phases:
        running = Recorded(program, folder / name, settings=settings, worker_class=worker_class)
        try:
            phases: Phases = act(running)
        finally:
            running.stop()
        return phases

    with ThreadPoolExecutor() as pool:
        gunicorn = pool.submit(run, "gunicorn", GUNICORN)
        evener = pool.submit(run, "evener", EVENER)
        return gunicorn.result(), evener.result()


def kept(calls: list[Called], lost: set[str]) -> list[str]:
    """The calls as text, without those that gunicorn's worker class loses."""
    return [str(call) for call in calls if call.hook not in lost]


def of_server(calls: list[Called]) -> list[Called]:
    """Those in the server's process."""
    return [call for call in calls if call.process == "server"]


def of_worker(calls: list[Called], age: int) -> list[Called]:
    """Those about one worker, in either process: each waits for the one before it."""
    return [call for call in calls if call.age == age]


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_hooks_are_called_as_gunicorn_calls_them(
    tmp_path: Path, worker_class: str, preload: bool
) -> None:
    lost = LOST if worker_class == UVICORN else set()
    gunicorn, evener = side_by_side(tmp_path, life, f"preload_app = {preload}", worker_class)
    assert set(evener) == set(gunicorn)
    for phase, expected in gunicorn.items():
        calls = evener[phase]
        for age in range(1, 7):
            told = kept(of_worker(calls, age), lost)
            assert told == kept(of_worker(expected, age), lost), f"{phase}: worker {age}"
        told = kept(of_server(calls), lost)
        wanted = kept(of_server(expected), lost)
        if phase == "TERM":
            # Workers that end together end in no order.
            assert (told[-1], wanted[-1]) == ("server: on_exit(server)",) * 2
            told.sort()
            wanted.sort()
        if phase == "HUP":
            # gunicorn starts all new workers before it ends the first old one, which takes twice
            # the memory; Evener goes one by one. The exits are in the order of the workers' ages.
            told.sort(key=lambda line: "child_exit" in line)
            wanted.sort(key=lambda line: ("child_exit" in line, "child_exit" in line and line))
        assert told == wanted, phase


def test_hooks_of_a_request_are_told_what_gunicorn_tells_them(tmp_path: Path) -> None:
    def request(running: Recorded) -> Phases:
        running.wait(1)
        running.get("/hooked?a=1", "X-Told: question")
        running.until("post_request", 1)
        return {"request": [call for call in running.calls() if "request" in call.hook]}

    gunicorn, evener = side_by_side(tmp_path, request, "workers = 1", "asgi")
    told = kept(evener["request"], set())
    assert told == kept(gunicorn["request"], set())
    assert len(told) == 2


def recycling(running: Recorded) -> Phases:
    """Both workers reach their number of requests."""
    running.wait()

    def both_are_over() -> bool:
        try:
            running.get()
        except (OSError, EOFError, AssertionError):
            # gunicorn answers nobody between its workers.
            assert running.process.poll() is None, running.words()
        return {call.age for call in running.calls() if call.hook == "child_exit"} >= {1, 2}

    eventually(both_are_over, "both have been replaced", 30, 0.01)
    return {"recycling": running.calls()}


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_worker_with_max_requests_has_the_same_life(tmp_path: Path, worker_class: str) -> None:
    gunicorn, evener = side_by_side(tmp_path, recycling, "max_requests = 8", worker_class)
    for age in (1, 2):
        told = kept(of_worker(evener["recycling"], age), set())
        assert told == kept(of_worker(gunicorn["recycling"], age), set())
        assert told[-1] == f"server: child_exit(server, worker {age})"


@pytest.mark.parametrize(
    ("number", "hook"),
    [
        (signal.SIGINT, "worker_int"),
        (signal.SIGQUIT, "worker_int"),
        (signal.SIGABRT, "worker_abort"),
        (signal.SIGTERM, None),
    ],
)
def test_a_signal_to_a_worker_calls_what_gunicorns_own_class_calls(
    tmp_path: Path, number: signal.Signals, hook: str | None
) -> None:
    def act(running: Recorded) -> Phases:
        running.wait()
        os.kill(running.workers()[1], number)
        running.until("post_worker_init", 3)
        return {"life": running.calls()}

    gunicorn, evener = side_by_side(tmp_path, act, "", "asgi")
    told = of_worker(evener["life"], 1)
    assert kept(told, set()) == kept(of_worker(gunicorn["life"], 1), set())
    assert hook is None or hook in {call.hook for call in told}


RAISING = """
_recorded = {hook}

def {hook}({arguments}):
    _recorded({arguments})
    raise ValueError("raised on purpose")
"""
TWO = {"pre_fork", "post_fork", "child_exit", "worker_exit", "pre_request", "post_request"}


def status_of(running: Recorded, path: str) -> int | None:
    """The status of an answer, if there is one."""
    try:
        with Wire(running.port) as wire:
            return wire.get(path).status
    except (OSError, EOFError):
        return None


def ends(running: Recorded) -> bool:
    """Whether it has ended by itself."""
    return running.process.poll() is not None


@pytest.mark.parametrize(
    ("hook", "act"),
    [
        ("on_starting", None),
        ("when_ready", None),
        ("nworkers_changed", None),
        ("pre_fork", None),
        ("post_fork", None),
        ("post_worker_init", None),
        ("on_reload", "HUP"),
        ("child_exit", "kill"),
        ("worker_exit", "TERM"),
        ("worker_int", "INT"),
        ("worker_abort", "ABRT"),
        ("pre_request", "request"),
        ("post_request", "request"),
        ("on_exit", "stop"),
    ],
)
def test_an_exception_in_a_hook_does_what_it_does_in_gunicorn(
    tmp_path: Path, hook: str, act: str | None
) -> None:
    arguments = "a, b" if hook in TWO else "a, b, c" if hook == "nworkers_changed" else "a"
    more = RAISING.format(hook=hook, arguments=arguments)

    def outcome(name: str, program: list[str]) -> tuple[object, ...]:
        # Two workers that fail at once can end gunicorn in the middle of its own end.
        count = 2 if act else 1
        running = Recorded(
            program,
            tmp_path / name,
            settings=f"workers = {count}",
            worker_class="asgi",
            more=more,
        )
        try:
            status = None
            if act is None:
                eventually(lambda: ends(running), "it ends", 30, 0.05)
            else:
                running.until("post_worker_init", 2)
            if act == "request":
                status = eventually(lambda: status_of(running, "/hooked"), "an answer", 30, 0.05)
            elif act == "HUP":
                running.signal(signal.SIGHUP)
                eventually(lambda: ends(running), "it ends", 30, 0.05)
            elif act == "kill":
                os.kill(running.workers()[1], signal.SIGKILL)
                eventually(lambda: ends(running), "it ends", 30, 0.05)
            elif act in {"TERM", "INT", "ABRT"}:
                os.kill(running.workers()[1], signal.Signals[f"SIG{act}"])
                running.until("post_worker_init", 3)
            by_itself = ends(running)
            code = running.stop()
            # Two exceptions, one at the death and one while it stops, are two statuses in one.
            failed = code if act != "kill" else code != 0
            hooks = {call.hook for call in running.calls()}
            said = "raised on purpose" in running.words() and "Traceback" in running.words()
            return status, by_itself, failed, said, "on_exit" in hooks
        finally:
            running.stop(signal.SIGQUIT)

    with ThreadPoolExecutor() as pool:
        gunicorn = pool.submit(outcome, "gunicorn", GUNICORN)
        evener = pool.submit(outcome, "evener", EVENER)
        assert evener.result() == gunicorn.result()


ATTRIBUTES = """
KINDS = {{}}


def kinds(name, thing, names):
    for attribute in names.split():
        value = getattr(thing, attribute)
        if callable(value):
            kind = "callable"
        elif isinstance(value, (list, dict, str, bool, float)):
            kind = type(value).__name__
        elif value is None or isinstance(value, int):
            kind = value if value in (None, 0, 1, 2, 3) else "int"
        else:
            kind = "object"
        KINDS[f"{{name}}.{{attribute}}"] = kind


def look(where, server, worker):
    if server is not None:
        kinds(where + " server", server, "pid cfg log app num_workers WORKERS LISTENERS "
              "worker_age timeout proc_name address master_pid master_name reexec_pid systemd "
              "START_CTX worker_class")
        kinds(where + " server.cfg", server.cfg, "workers bind address uid gid proc_name timeout "
              "worker_class_str is_ssl env settings on_starting pidfile")
    if worker is not None:
        kinds(where + " worker", worker, "pid age ppid cfg log app sockets timeout booted aborted "
              "alive nr max_requests reloader notify")
    for log in (server or worker).log,:
        kinds(where + " log", log, "info debug warning error critical exception log access "
              "reopen_files error_log access_log cfg setup loglevel")


def when_ready(server):
    look("when_ready", server, None)
    note("when_ready", server, len(server.LISTENERS), server.LISTENERS[0].getsockname()[1] > 0)


def pre_fork(server, worker):
    look("pre_fork", server, worker)
    note("pre_fork", server, worker, str(worker), len(server.WORKERS))


def post_worker_init(worker):
    look("post_worker_init", None, worker)
    note("post_worker_init", worker, callable(worker.asgi), worker.app.app_uri)


def child_exit(server, worker):
    look("child_exit", server, worker)
    note("child_exit", server, worker, worker.pid in server.WORKERS, worker.booted)


def on_exit(server):
    note("on_exit", server, json.dumps(KINDS))
"""


def test_server_and_worker_have_the_attributes_that_hooks_use(tmp_path: Path) -> None:
    def once(name: str, program: list[str]) -> list[str]:
        more = ATTRIBUTES.replace("{{", "{").replace("}}", "}")
        running = Recorded(
            program, tmp_path / name, settings="workers = 1", worker_class="asgi", more=more
        )
        try:
            running.wait(1)
        finally:
            running.stop()
        return kept(running.calls(), {"worker_exit"})

    assert once("evener", EVENER) == once("gunicorn", GUNICORN)
