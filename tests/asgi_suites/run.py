"""Runs the public ASGI suites of gunicorn's source package against Evener.

The package is taken from PyPI and unpacked under `.cache`; nothing of it is kept in this
repository. Its containers are replaced by processes on a loopback address of our own: one server
per framework, one for the compliance suite, and nginx, which ends TLS and stands for theirs.

    python tests/asgi_suites/run.py [--server run|worker|uvicorn] [--suite NAME] [pytest's flags]

`run` is the whole program (`evener run`), `worker` the worker alone, `uvicorn` the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import venv
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "asgi-suites"
PACKAGE = "gunicorn"
VERSION = "27.0.1"
# A loopback address that nothing else listens on: the suites fix their ports.
HOST = os.environ.get("ASGI_SUITES_HOST", "127.0.8.1")
START_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """One application to be served."""

    name: str
    port: int
    directory: str
    app: str
    environment: tuple[tuple[str, str], ...] = ()


COMPATIBILITY = "asgi_framework_compat"
COMPLIANCE = "asgi_compliance"
DJANGO = (("DJANGO_SETTINGS_MODULE", "settings"),)
SERVICES = {
    COMPATIBILITY: [
        Service("django", 8001, "frameworks/django_app", "asgi:application", DJANGO),
        Service("fastapi", 8002, "frameworks/fastapi_app", "app:app"),
        Service("starlette", 8003, "frameworks/starlette_app", "app:app"),
        Service("quart", 8004, "frameworks/quart_app", "app:app"),
        Service("litestar", 8005, "frameworks/litestar_app", "app:app"),
        Service("blacksheep", 8006, "frameworks/blacksheep_app", "app:app"),
    ],
    COMPLIANCE: [Service("compliance", 8000, ".", "apps.main_app:app")],
}

# Cases that cannot pass, and why. They fail with uvicorn and granian as well.
KNOWN = {
    "test_scope_reports_http2": "wants HTTP/2 in the scope; TLS and HTTP/2 are ended by nginx here",
}

# Appended to the compliance suite's conftest, in the place of its containers.
REPLACEMENT = """

class _Services(dict):
    def __missing__(self, name):
        pytest.skip(f"{name}: nginx is not installed")


@pytest.fixture(scope="session")
def docker_services():
    import json
    import os

    return _Services(json.loads(os.environ["ASGI_SUITES_SERVICES"]))
"""


def fetch() -> Path:
    """The suites' directory; taken from PyPI the first time."""
    unpacked = CACHE / f"{PACKAGE}-{VERSION}" / "tests" / "docker"
    if unpacked.is_dir():
        return unpacked
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            "-d",
            str(CACHE),
            f"{PACKAGE}=={VERSION}",
        ],
        check=True,
    )
    with tarfile.open(CACHE / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
        archive.extractall(CACHE, filter="data")
    conftest = unpacked / COMPLIANCE / "conftest.py"
    conftest.write_text(conftest.read_text() + REPLACEMENT)
    return unpacked


def python_with_frameworks() -> Path:
    """An environment with the frameworks, which sees the `evener` of our own."""
    home = CACHE / "venv"
    python = home / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = home / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        requirements = str(HERE / "requirements.txt")
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        stamp.write_text(wanted)
    return python


def our_package() -> Path:
    """A directory that holds our Python package and nothing else."""
    import evener

    source = Path(evener.__file__).resolve().parent
    if source.parent.name != "python" and not (source / "_worker.pyi").is_file():
        raise SystemExit(f"{source} is not Evener's package: install it first (pip install .)")
    only = CACHE / "path"
    only.mkdir(parents=True, exist_ok=True)
    link = only / "evener"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(evener.__file__).parent)
    return only


def command(server: str, python: Path, service: Service) -> list[str]:
    """How the server under test is started for a service."""
    where = ["--host", HOST, "--port", str(service.port)]
    if server == "worker":
        return [str(python), "-m", "evener.worker", "--proxy-headers", *where, service.app]
    if server == "uvicorn":
        return [str(python), "-m", "uvicorn", *where, "--no-access-log", service.app]
    program = Path(sys.executable).parent / "evener"
    found = str(program) if program.is_file() else shutil.which("evener")
    if found is None:
        raise SystemExit("there is no `evener` program: install it first (pip install .)")
    # One worker: a case counts in a worker's memory, and requests of one connection are shared
    # among all. The Python is named: the one beside the program knows none of the frameworks.
    where += ["--python", str(python)]
    return [found, "run", service.app, *where, "--workers", "1", "--no-access-log"]


@contextmanager
def serving(server: str, python: Path, root: Path, service: Service) -> Iterator[None]:
    """A service that answers, for as long as the context lasts."""
    log = (CACHE / f"{server}-{service.name}.log").open("w")
    environment = dict(os.environ, PYTHONPATH=str(our_package()), PYTHONUNBUFFERED="1")
    environment |= {"VIRTUAL_ENV": str(python.parent.parent), **dict(service.environment)}
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    directory = root / service.directory
    environment["PYTHONPATH"] += f":{directory}"
    process = subprocess.Popen(
        command(server, python, service), cwd=directory, env=environment, stdout=log, stderr=log
    )
    try:
        await_health(f"http://{HOST}:{service.port}/health", process, log.name)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def await_health(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    """Waits until the service says that it is well."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  (our own address)
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{url} does not answer; its log is {log}") from None
            time.sleep(0.1)


@contextmanager
def proxied() -> Iterator[dict[str, str]]:
    """The addresses of the compliance suite's services, nginx among them if there is one."""
    services = {"gunicorn_http": f"http://{HOST}:8000"}
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        yield services
        return
    directory = CACHE / "nginx"
    directory.mkdir(exist_ok=True)
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(directory / "server.key"),
            "-out",
            str(directory / "server.crt"),
        ],
        check=True,
        capture_output=True,
    )
    text = (HERE / "nginx.conf").read_text()
    config = directory / "nginx.conf"
    config.write_text(text.replace("@DIRECTORY@", str(directory)).replace("@HOST@", HOST))
    process = subprocess.Popen([nginx, "-c", config, "-p", directory])
    try:
        deadline = time.monotonic() + START_SECONDS
        while socket.socket().connect_ex((HOST, 8080)) != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("nginx did not start")
            time.sleep(0.1)
        services |= {
            "gunicorn_https": f"https://{HOST}:8445",
            "nginx_http": f"http://{HOST}:8080",
            "nginx_https": f"https://{HOST}:8444",
        }
        yield services
    finally:
        process.terminate()
        process.wait()


def run_suite(name: str, server: str, python: Path, root: Path, flags: list[str]) -> Path:
    """Serves what the suite needs, runs it, and returns its report."""
    report = CACHE / f"{server}-{name}.xml"
    report.unlink(missing_ok=True)
    suite = root / name
    with ExitStack() as stack:
        for service in SERVICES[name]:
            stack.enter_context(serving(server, python, suite, service))
        environment = dict(os.environ, DOCKER_HOST_IP=HOST)
        if name == COMPLIANCE:
            services = stack.enter_context(proxied())
            environment["ASGI_SUITES_SERVICES"] = json.dumps(services)
            # The package's own settings want coverage of the package's own code.
            settings = CACHE / "pytest.ini"
            settings.write_text("[pytest]\nasyncio_mode = auto\n")
            arguments = ["-c", str(settings)]
        else:
            arguments = ["--skip-docker-check", "tests"]
        # Everything in the suites' own directory: neither our settings nor our plugins apply.
        arguments += ["--rootdir", str(suite), "-q", "-rfs", "--tb=short", f"--junitxml={report}"]
        subprocess.run(
            [python, "-m", "pytest", *arguments, *flags], cwd=suite, env=environment, check=False
        )
    return report


def summarise(report: Path, name: str, server: str) -> int:
    """Prints how many cases passed, by framework or file; returns how many failed unexpectedly."""
    print(f"\n{name}, served by {server}:")
    known = 0
    counts: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        title = case.get("name", "")
        group = title.partition("[")[2].rstrip("]") if name == COMPATIBILITY else ""
        group = group.partition("-")[0] or case.get("classname", "").rpartition(".")[0]
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        if failed and title in KNOWN:
            known += 1
            print(f"  known: {title} {KNOWN[title]}")
        outcome = "failed" if failed else "skipped" if skipped else "passed"
        counts.setdefault(group, Counter())[outcome] += 1
    total: Counter[str] = Counter()
    for group, count in sorted(counts.items()):
        total += count
        print(f"  {group:32}", line(count))
    print(f"  {'all':32}", line(total))
    return total["failed"] - known


def line(count: Counter[str]) -> str:
    """One line of the table."""
    return ", ".join(f"{count[outcome]} {outcome}" for outcome in ("passed", "skipped", "failed"))


def main() -> int:
    """Runs the suites; the exit status says whether any case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=["run", "worker", "uvicorn"], default="run")
    parser.add_argument("--suite", choices=[*SERVICES], action="append")
    options, flags = parser.parse_known_args()
    root, python = fetch(), python_with_frameworks()
    names = options.suite or [*SERVICES]
    reports = {name: run_suite(name, options.server, python, root, flags) for name in names}
    if not all(report.is_file() for report in reports.values()):
        raise SystemExit("pytest could not run a suite: see above")
    failures = [summarise(report, name, options.server) for name, report in reports.items()]
    return 1 if any(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
