"""Claims: what the edge has taken back never runs, what the worker has claimed is the worker's.

The test plays the edge, with a page of its own.
"""

import os
import signal
from pathlib import Path

import pytest
from running import eventually

from worker.conftest import Serve
from worker.serving import UnixWire, VitalsPage, Worker


def preface(slot: int, sequence: int) -> str:
    return f"EVENER/1 slot={slot} seq={sequence}\r\n"


@pytest.fixture
def page() -> VitalsPage:
    return VitalsPage()


@pytest.fixture
def marking(serve: Serve, page: VitalsPage, tmp_path: Path) -> Worker:
    """A worker whose application leaves marks."""
    return serve(page=page, environment={"MARKS": str(tmp_path / "marks")})


def marks(tmp_path: Path) -> list[str]:
    path = tmp_path / "marks"
    return path.read_text().split() if path.exists() else []


def test_each_request_on_a_connection_is_claimed(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    with marking.wire() as wire:
        for sequence in range(5, 9):
            page.offer(3, sequence)
            if sequence == 5:
                wire.send(preface(3, 5))
            assert wire.get(f"/append?{sequence}").status == 200
            assert page.slot(3) == (sequence, "claimed")
    assert marks(tmp_path) == ["5", "6", "7", "8"]


def test_the_edge_says_whose_client_speaks_http2(marking: Worker, page: VitalsPage) -> None:
    """A line before a request is for that request alone, however it is cut."""
    line = "EVENER/1 http=2\r\n"
    request = "GET /scope HTTP/1.1\r\nHost: a\r\n\r\n"
    with marking.wire() as wire:
        wire.send(preface(3, 1))
        for sequence, pieces in enumerate(
            [[line + request], [request], list(line + request), [line, request]], start=1
        ):
            page.offer(3, sequence)
            for piece in pieces:
                wire.send(piece)
            version = "2" if "http=2" in "".join(pieces) else "1.1"
            assert wire.response().json()["http_version"] == version
    with marking.wire() as wire:
        wire.send(line + request)
        assert wire.is_closed(), "nobody but the edge may say so"


def test_what_was_taken_back_does_not_run(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    page.offer(0, 1)
    page.revoke(0, 1)
    with marking.wire() as wire:
        wire.send(preface(0, 1))
        wire.request("POST", "/append?revoked", body=b"x")
        assert not wire.more(), "the connection is closed without a word"
    assert marks(tmp_path) == []
    eventually(lambda: page.in_flight == 0, "nothing is in flight")
    assert page.done == 0


def test_what_was_never_offered_does_not_run(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    page.offer(1, 7)
    for line in (preface(1, 6), preface(1, 8), preface(2, 1), preface(99, 1)):
        with marking.wire() as wire:
            wire.send(line)
            wire.request("GET", "/append?never")
            assert not wire.more()
    assert marks(tmp_path) == []
    assert page.slot(1) == (7, "offered")


def test_a_malformed_preface_ends_the_connection(marking: Worker) -> None:
    with marking.wire() as wire:
        wire.send("EVENER/1 slot=x seq=1\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not wire.more()


def test_a_connection_without_a_preface_is_plain_http(marking: Worker, tmp_path: Path) -> None:
    with marking.wire() as wire:
        assert wire.get("/append?plain").status == 200
    assert marks(tmp_path) == ["plain"]


def offered(worker: Worker, page: VitalsPage, slots: range) -> list[UnixWire]:
    """Requests that are sent, each on a connection of its own, as the edge does it."""
    wires = []
    for slot in slots:
        page.offer(slot, 1)
        wire = worker.wire()
        target = f"/append?{slot}"
        wire.send(preface(slot, 1) + f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
        wires.append(wire)
    return wires


def test_a_blocked_worker_claims_nothing(marking: Worker, page: VitalsPage, tmp_path: Path) -> None:
    with marking.wire() as blocker:
        blocker.request("GET", "/block?0.6")
        eventually(lambda: page.in_flight == 1, "it blocks")
        wires = offered(marking, page, range(6))
        for slot in range(3):
            page.revoke(slot, 1)
        assert blocker.response().body == b"blocked"
    for slot, wire in enumerate(wires):
        if slot < 3:
            assert not wire.more()
        else:
            assert wire.response().status == 200
        wire.close()
    assert sorted(marks(tmp_path)) == ["3", "4", "5"]


def test_requests_behind_a_blocking_one_in_the_same_turn_are_not_claimed(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    # All of them are read in one pass: the first one's task then holds the loop.
    with marking.wire() as first:
        first.request("GET", "/block?0.3")
        eventually(lambda: page.in_flight == 1, "it blocks")
        second = marking.wire()
        page.offer(7, 1)
        second.send(preface(7, 1) + "GET /block?0.6 HTTP/1.1\r\nHost: a\r\n\r\n")
        wires = offered(marking, page, range(3))
        assert first.response().body == b"blocked"
        eventually(lambda: page.slot(7) == (1, "claimed"), "the second one blocks")
        for slot in range(3):
            assert page.slot(slot) == (1, "offered")
            page.revoke(slot, 1)
        assert second.response().body == b"blocked"
    for wire in wires:
        assert not wire.more()
        wire.close()
    second.close()
    assert marks(tmp_path) == []


def test_a_stopped_worker_claims_nothing(marking: Worker, page: VitalsPage, tmp_path: Path) -> None:
    os.kill(marking.process.pid, signal.SIGSTOP)
    wires = offered(marking, page, range(4))
    for slot in (0, 2):
        page.revoke(slot, 1)
    os.kill(marking.process.pid, signal.SIGCONT)
    outcomes = [wires[slot].more() for slot in range(4)]
    assert outcomes == [False, True, False, True]
    assert sorted(marks(tmp_path)) == ["1", "3"]


def test_a_killed_worker_leaves_its_claims(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    with marking.wire() as blocker:
        page.offer(7, 1)
        blocker.send(preface(7, 1) + "GET /block?30 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: page.slot(7) == (1, "claimed"), "it blocks")
        wires = offered(marking, page, range(4))
        marking.process.kill()
        marking.process.wait()
        for slot, wire in enumerate(wires):
            assert page.slot(slot) == (1, "offered"), "free to be sent to another"
            wire.close()
    assert page.slot(7) == (1, "claimed"), "not to be sent again"
    assert marks(tmp_path) == []


def test_a_request_whose_sender_has_gone_does_not_run(
    marking: Worker, page: VitalsPage, tmp_path: Path
) -> None:
    with marking.wire() as blocker:
        blocker.request("GET", "/block?0.4")
        eventually(lambda: page.in_flight == 1, "it blocks")
        for wire in offered(marking, page, range(3)):
            wire.close()
        assert blocker.response().body == b"blocked"
        assert blocker.get("/hello").status == 200
    assert marks(tmp_path) == []


def test_a_page_that_is_none_is_refused(tmp_path: Path) -> None:
    class NoPage(VitalsPage):
        def __init__(self) -> None:
            self.descriptor = os.memfd_create("no page", os.MFD_ALLOW_SEALING)

    with Worker(tmp_path, "applications:app", page=NoPage(), wait=False) as worker:
        assert not worker.is_ready()
        assert worker.status() != 0
        assert "not a vitals page" in worker.words()
