"""Endpoints that go wrong under load: no request fails, and the bad one is soon out.

The endpoints, the load and the proxies are those of the bench's case (j); the table is printed with
`-s`. The long form has nginx and HAProxy beside.
"""

import shutil
from pathlib import Path

import pytest
from running import PROGRAM
from sidebyside import running, templates
from sidebyside.faults import wire
from sidebyside.faults.happenings import HAPPENINGS, Found, witness
from sidebyside.faults.proxies import BARE, CHECKED, makers
from sidebyside.table import METRICS, number, text

SECONDS = 4.0
LONG_SECONDS = 10.0
# The first that meets it, or the second that is waited for an answer, and then some.
OUT_SECONDS = {
    "killed": 1.0,
    "stopped": 2.5,
    # It takes a second to be as slow as to be given up, and another to give up.
    "slower and slower": 3.0,
    "flapping": 1.0,
    "refusing": 1.0,
    "answering 503": 1.0,
    # The time to live.
    "gone from its name": 2.5,
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bench writes goes to a folder of the test's own."""
    monkeypatch.setattr(templates, "RUN", tmp_path)
    monkeypatch.setattr(running, "RUN", tmp_path)


def judge(name: str, found: Found) -> None:
    """No request failed, and the bad endpoint was out in time."""
    assert not found.arrivals.failures, found
    assert found.arrivals.worst() < 4.0, found.arrivals.worst()
    if wire.can_look():
        assert found.out is not None, "it was tried to the end"
        assert found.out < OUT_SECONDS[name], found.out


@pytest.mark.parametrize("name", HAPPENINGS)
def test_no_request_fails(name: str) -> None:
    """Whatever happens to one endpoint of three."""
    found = witness(HAPPENINGS[name], makers(str(PROGRAM))["evener"], SECONDS)
    print(f"\n{name}: {found.values()}")
    judge(name, found)
    assert found.arrivals.by.keys() >= {"127.0.0.2", "127.0.0.4"}


@pytest.mark.parametrize("name", ["killed", "flapping", "refusing", "gone from its name"])
def test_a_list_of_addresses_is_enough(name: str) -> None:
    """For all that is an error at once, nothing has to be set."""
    found = witness(HAPPENINGS[name], makers(str(PROGRAM))[BARE], SECONDS)
    judge(name, found)


@pytest.mark.parametrize("name", ["stopped", "slower and slower"])
def test_checks_are_enough(name: str) -> None:
    """For endpoints that hang: what waits for them goes elsewhere when a check has failed."""
    found = witness(HAPPENINGS[name], makers(str(PROGRAM))[CHECKED], SECONDS)
    print(f"\n{name}: {found.values()}")
    judge(name, found)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_side_by_side() -> None:
    """Each proxy as its operators would set it up for this; the table is for people."""
    lines: list[list[str]] = []
    shown: list[str] = []
    makes = makers(str(PROGRAM))
    for name, happening in HAPPENINGS.items():
        for peer, make in makes.items():
            if not (peer.startswith("evener") or shutil.which(peer)):
                continue
            found = witness(happening, make, LONG_SECONDS)
            values = found.values()
            if not lines:
                shown = list(values)
                lines.append(["what", "proxy", *(METRICS[metric] for metric in shown), "failures"])
            failures = ", ".join(f"{n} {kind}" for kind, n in found.arrivals.failures.items())
            cells = [number(values[metric]) if metric in values else "never" for metric in shown]
            lines.append([name, peer, *cells, failures])
            if peer == "evener":
                judge(name, found)
    print("\n" + text(lines))
