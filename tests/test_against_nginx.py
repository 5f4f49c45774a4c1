"""The same requests, failures and recoveries for nginx and for Evener: the same endpoints answer.

Every case of `balancing.py` is run against a real nginx and then against `evener serve` with the
same members, each time with fresh origins; endpoint and status must agree, request by request.
"""

import shutil
from pathlib import Path

import pytest
from balancing import Case, Origins, Seen, accepts, cases, drive
from nginx_transcripts import Nginx
from running import Served, eventually

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")

# A window that ends while a long case runs ends at another step each time: here those cases' do not
# end at all. `crates/policy/tests/nginx.rs` has them as they went with nginx.
LASTING_SECONDS = 600


def chosen() -> dict[str, Case]:
    """The cases, a few of those that chance made among them."""
    made = {case.name: case for case in cases()}
    for number in range(5, 12):
        del made[f"wandering {number}"]
    for number in range(5):
        for server in made[f"wandering {number}"].servers:
            server.fail_timeout = LASTING_SECONDS
    return made


CASES = chosen()


def evener_configuration(case: Case) -> str:
    """What makes Evener do a case."""
    words = case.method.split(" ")
    policy = f'"{words[0]}"'
    if words[0] == "hash":
        consistent = "true" if words[-1] == "consistent" else "false"
        policy = f'{{ hash = "$http_x_key", consistent = {consistent} }}'
    endpoints = []
    for server in case.servers:
        more = f'address = "{server.address}", weight = {server.weight}'
        more += f", max_fails = {server.max_fails}, fail_timeout = {server.fail_timeout}"
        more += f", max_conns = {server.max_conns}"
        more += ", backup = true" * server.backup + ", down = true" * server.down
        endpoints.append(f"  {{ {more} }},")
    conditions = ", ".join(f'"{word}"' for word in case.next_upstream.split(" "))
    return "\n".join(
        [
            'trusted = ["127.0.0.1"]',
            '[[listener]]\naddress = "127.0.0.1:PORT"',
            '[[route]]\ncluster = "endpoints"',
            f"[cluster.endpoints]\npolicy = {policy}\nqueue = 0",
            f"next_upstream = [{conditions}]\nnext_upstream_tries = {case.tries}",
            "endpoints = [",
            *endpoints,
            "]",
        ]
    )


def with_nginx(case: Case) -> list[Seen]:
    """What nginx makes of a case."""
    origins = Origins(case.servers)
    nginx = Nginx(case)
    try:
        return list(drive(case, nginx.port, origins))
    finally:
        nginx.close()
        origins.close()


def with_evener(case: Case, folder: Path) -> list[Seen]:
    """What Evener makes of it."""
    origins = Origins(case.servers)
    served = Served(folder, evener_configuration(case))
    try:
        eventually(lambda: accepts(served.port), "Evener accepts connections", 20)
        return list(drive(case, served.port, origins))
    finally:
        served.stop()
        origins.close()


def outcome(seen: Seen) -> tuple[str, int, int]:
    """What must agree. Where nginx has nobody to ask it says 502 whatever the reason; Evener says
    503 when all that are alive are full.
    """
    status = 502 if (seen.status, seen.answered) == (503, 0) else seen.status
    return seen.step, status, seen.answered


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CASES)
def test_the_same_endpoints_answer(name: str, tmp_path: Path) -> None:
    """Request by request."""
    case = CASES[name]
    nginx = [outcome(seen) for seen in with_nginx(case)]
    evener = [outcome(seen) for seen in with_evener(case, tmp_path)]
    for number, (theirs, ours) in enumerate(zip(nginx, evener, strict=True)):
        assert ours == theirs, f"step {number}; nginx: {theirs}, Evener: {ours}"
