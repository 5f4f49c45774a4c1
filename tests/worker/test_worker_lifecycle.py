"""Ready, drain, limits: the life of a worker."""

import signal
import time
from contextlib import ExitStack
from functools import partial

import pytest
from running import eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from worker.conftest import Serve
from worker.serving import VitalsPage


def test_drain_finishes_what_runs_and_closes_what_idles(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as idle, worker.wire() as busy, worker.wire() as background:
        idle.get("/hello")
        busy.request("GET", "/slow?0.5")
        assert background.get("/background").body == b"answered"
        worker.terminate()
        assert not idle.more()
        response = busy.response()
        assert (response.body, response.closes) == (b"slow", True)
        assert not busy.more()
    assert worker.status() == 0
    assert worker.words().splitlines()[-2:] == ["background done", "lifespan shutdown"]


def test_drain_serves_what_has_connected(serve: Serve) -> None:
    worker = serve()
    with worker.wire() as blocker:
        blocker.request("GET", "/block?0.5")
        wires = [worker.wire() for _ in range(5)]
        for wire in wires:
            wire.request("GET", "/hello")
        worker.terminate()
        assert blocker.response().body == b"blocked"
        assert [wire.response().body for wire in wires] == [b"hello"] * 5
        for wire in wires:
            wire.close()
    assert worker.status() == 0


def test_streams_are_told_after_the_grace_period(serve: Serve) -> None:
    worker = serve("applications:app", "--timeout-graceful-shutdown", "0.5")
    with worker.wire() as wire:
        wire.request("GET", "/until-disconnect")
        wire.head()
        wire.chunk()
        started = time.monotonic()
        worker.terminate()
        assert worker.status() == 0
        assert 0.4 < time.monotonic() - started < 3
    assert "told: http.disconnect" in worker.words()


def test_what_does_not_end_is_cancelled(serve: Serve) -> None:
    worker = serve("applications:app", "--timeout-graceful-shutdown", "0.2")
    with worker.wire() as wire:
        wire.request("GET", "/stubborn")
        with worker.wire() as other:
            other.get("/hello")
        worker.terminate()
        assert worker.status() == 0
    assert "stubborn was cancelled" in worker.words()
    assert "lifespan shutdown" in worker.words()


def test_websockets_are_closed_with_1012(serve: Serve) -> None:
    worker = serve()
    with ExitStack() as stack:
        connect = partial(unix_connect, str(worker.path), "ws://worker/echo")
        sockets = [stack.enter_context(connect()) for _ in range(5)]
        worker.terminate()
        for socket in sockets:
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(timeout=10)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
    assert worker.status() == 0
    assert "ERROR" not in worker.words()


def test_the_limit_counts_requests_and_websockets(serve: Serve) -> None:
    worker = serve("applications:app", "--limit-max-requests", "3")
    with worker.wire() as wire:
        assert wire.get("/hello").status == 200
        with unix_connect(str(worker.path), "ws://worker/echo") as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
        assert wire.get("/hello").status == 200
    assert worker.status() == 0


def test_the_supervisor_decides_about_interrupts(serve: Serve) -> None:
    worker = serve()
    worker.process.send_signal(signal.SIGINT)
    with worker.wire() as wire:
        assert wire.get("/hello").status == 200
    assert worker.process.poll() is None


def test_idle_connections_are_closed_in_time(serve: Serve) -> None:
    worker = serve("applications:app", "--timeout-keep-alive", "0.3")
    with worker.wire() as wire, worker.wire() as silent:
        for _ in range(4):
            time.sleep(0.1)
            assert wire.get("/hello").status == 200
        started = time.monotonic()
        assert not wire.more()
        assert 0.2 < time.monotonic() - started < 2
        assert not silent.more()


def test_out_of_descriptors(serve: Serve) -> None:
    import resource

    worker = serve()
    with worker.wire() as wire:
        used = wire.get("/measure").json()["descriptors"]
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (used + 4, used + 4))
    wires = [worker.wire() for _ in range(12)]
    for wire in wires:
        wire.request("GET", "/hello", "Connection: close")
    assert [wire.response().status for wire in wires] == [200] * 12
    assert "cannot accept connections, trying again" in worker.words()


def test_the_page_shows_the_life(serve: Serve) -> None:
    page = VitalsPage()
    worker = serve(page=page)
    assert page.state == "ready"
    assert page.rss_bytes > 10_000_000
    with worker.wire() as wire:
        wire.request("GET", "/slow?0.3")
        eventually(lambda: page.in_flight == 1, "one is in flight")
        first = page.tick_ns
        eventually(lambda: page.tick_ns > first, "the loop ticks while it waits")
        wire.response()
        eventually(lambda: (page.in_flight, page.done) == (0, 1), "it is done")
    assert page.in_flight == 0
    worker.terminate()
    eventually(lambda: page.state in {"draining", "gone"}, "it drains")
    assert worker.status() == 0
    assert page.state == "gone"


def test_an_idle_worker_sleeps(serve: Serve) -> None:
    page = VitalsPage()
    worker = serve(page=page)
    with worker.wire() as wire:
        wire.get("/hello")
        ticks = set()
        eventually(lambda: page.in_flight == 0, "it is idle")

        def still() -> bool:
            ticks.add(page.tick_ns)
            time.sleep(0.1)
            return page.tick_ns in ticks

        eventually(still, "the ticks have stopped")
        switches = _switches(worker.process.pid)
        time.sleep(0.5)
        assert _switches(worker.process.pid) - switches <= 2


def _switches(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        found = [line for line in status if line.startswith("voluntary_ctxt_switches")]
    return int(found[0].split()[1])


def test_a_blocked_loop_shows_on_the_page(serve: Serve) -> None:
    page = VitalsPage()
    worker = serve(page=page)
    with worker.wire() as wire:
        wire.request("GET", "/block?0.4")
        stalled = eventually(lambda: _stalled_ms(page) > 100, "the tick stands still")
        assert stalled
        assert wire.response().body == b"blocked"
        eventually(lambda: page.lag_us > 100_000, "the heartbeat was late")


def _stalled_ms(page: VitalsPage) -> float:
    if page.in_flight == 0:
        return 0
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - page.tick_ns) / 1e6
