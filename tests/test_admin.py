"""The admin socket: what it tells, what it can be told, and that it is for its owner only."""

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load import Load
from running import PROGRAM, Evener, Start, eventually
from test_command_line import evener as run_program
from test_supervision import SECONDS, Trouble, mixed_gets, under_load


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evener]:
    """Two workers; tests leave them running."""
    evener = Evener(tmp_path_factory.mktemp("team"), "--workers", "2")
    evener.wait_until_ready(workers=2)
    yield evener
    assert evener.stop() == 0


def ask(path: Path, target: str) -> tuple[int, str]:
    """Status and body of a GET on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        words = b""
        while data := client.recv(65536):
            words += data
    head, _, body = words.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def test_the_socket_is_its_owners(team: Evener) -> None:
    mode = team.admin.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
def test_health(team: Evener, target: str) -> None:
    assert ask(team.admin, target)[0] == 200


def test_metrics_count_what_happened(team: Evener) -> None:
    def answered() -> float:
        status, text = ask(team.admin, "/metrics")
        assert status == 200
        assert "# TYPE" in text
        lines = [line for line in text.splitlines() if line.startswith("evener_requests_total")]
        return sum(float(line.split()[-1]) for line in lines)

    before = answered()
    for _ in range(7):
        assert team.get("/lab/worker").status == 200
    eventually(lambda: answered() >= before + 7, "seven more requests")


@pytest.mark.parametrize("what", ["status", "workers", "clusters"])
def test_the_api_is_json_that_its_document_describes(team: Evener, what: str) -> None:
    status, body = ask(team.admin, f"/api/v1/{what}")
    assert status == 200
    assert json.loads(body)
    document: dict[str, Any] = json.loads(ask(team.admin, "/api/v1/openapi.json")[1])
    assert any(path.endswith(f"/{what}") for path in document["paths"])


def test_unknown_paths(team: Evener) -> None:
    assert ask(team.admin, "/api/v1/horses")[0] == 404


def test_nothing_of_it_is_served_to_clients(team: Evener) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/api/v1/status"):
        assert team.get(path).status == 404


def test_two_programs_of_one_name_are_refused(start: Start, tmp_path: Path) -> None:
    first = start("--workers", "1")
    arguments = ["run", "app.main:app", "--admin", str(first.admin), "--port", "0"]
    done = run_program(*arguments, "--app-dir", str(PROGRAM.parent))
    assert done.returncode != 0
    assert first.get("/lab/worker").status == 200
    assert first.ready()


def test_scaling_loses_no_request(start: Start) -> None:
    evener = start("--workers", "2", workers=2)

    class Scaling(Trouble):
        def _once(self) -> None:
            self.evener.tell("scale", "3" if self.times % 2 == 0 else "1")

    outcome = under_load(
        Load(evener.port, mixed_gets), SECONDS, Scaling(evener, "scale", every=1.0)
    )
    assert not outcome.failures, f"{outcome}\n{evener.words()[-3000:]}"
    evener.tell("scale", "2")
    eventually(lambda: len(evener.ready()) == 2, "two workers", 30, 0.1)


def test_drain_ends_the_program_and_loses_nothing(start: Start) -> None:
    evener = start("--workers", "2", workers=2)

    with evener.wire() as wire:
        wire.request("GET", "/lab/slow?seconds=1")
        eventually(lambda: evener.ask("status")["traffic"]["in_flight"] >= 1, "in flight")
        evener.tell("drain")
        assert wire.response().status == 200
    assert evener.process.wait(20) == 0
    assert not evener.admin.exists()


def test_the_edge_answers_for_its_health_where_asked_to(start: Start) -> None:
    paths = ["--liveness-path", "/live", "--readiness-path", "/ready"]
    evener = start("--workers", "1", *paths)
    assert evener.get("/live").status == 200
    assert evener.get("/ready").status == 200
