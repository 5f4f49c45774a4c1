"""Every bound has its answer: sizes, deadlines, connections, and the queue before the workers."""

import json
import threading
import time

import pytest
from running import Evener, Start, eventually, origin_command
from test_supervision import wait_until_in_flight
from wire import Wire

ORIGIN = ["--worker-command", origin_command()]


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Evener:  # type: ignore[misc]
    """An edge whose bounds are all close at hand."""
    bounds = [
        *("--limit-head-bytes", "4096", "--limit-header-count", "20", "--limit-body-bytes", "1000"),
        *("--timeout-header-read", "1", "--timeout-body-gap", "1", "--timeout-keep-alive", "1"),
        *("--timeout-first-byte", "1", "--timeout-response-gap", "1"),
    ]
    evener = Evener(tmp_path_factory.mktemp("tight"), *ORIGIN, "--workers", "1", *bounds)
    evener.wait_until_ready("/who")
    yield evener
    assert evener.stop() == 0


def answer(evener: Evener, request: str) -> int:
    with evener.wire() as wire:
        wire.send(request)
        response = wire.response()
        assert response.closes
        assert wire.is_closed()
        return response.status


def test_head_bytes(tight: Evener) -> None:
    assert answer(tight, f"GET / HTTP/1.1\r\nHost: t\r\nX: {'a' * 5000}\r\n\r\n") == 431
    assert tight.get("/head", f"X: {'a' * 3000}").status == 200


def test_target_bytes(tight: Evener) -> None:
    assert answer(tight, f"GET /{'a' * 5000} HTTP/1.1\r\nHost: t\r\n\r\n") == 414
    assert tight.get(f"/head?{'a' * 3000}").status == 200


def test_header_count(tight: Evener) -> None:
    assert answer(tight, "GET / HTTP/1.1\r\nHost: t\r\n" + "X: y\r\n" * 30 + "\r\n") == 431
    assert tight.get("/head", *["X: y"] * 10).status == 200


def test_body_bytes_by_length(tight: Evener) -> None:
    head = "POST /head HTTP/1.1\r\nHost: t\r\nContent-Length: 1001\r\n\r\n"
    assert answer(tight, head) == 413
    with tight.wire() as wire:
        assert wire.post("/head", b"x" * 1000).status == 200


def test_body_bytes_by_chunks(tight: Evener) -> None:
    head = "POST /head HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answer(tight, head + "1f4\r\n" + "x" * 500 + "\r\n1f5\r\n" + "x" * 501 + "\r\n") == 413


def test_body_bytes_with_an_expectation(tight: Evener) -> None:
    head = "POST /head HTTP/1.1\r\nHost: t\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"
    assert answer(tight, head) == 413


def test_a_head_that_does_not_come(tight: Evener) -> None:
    with tight.wire() as wire:
        wire.send("GET / HTTP/1.1\r\nHost:")
        assert wire.response().status == 408
        assert wire.is_closed()


def test_a_head_that_comes_a_byte_at_a_time(tight: Evener) -> None:
    """The deadline is for the whole head: dripping does not put it off."""
    started = time.monotonic()
    with tight.wire() as wire:
        wire.socket.settimeout(0.1)
        for byte in b"GET / HTTP/1.1\r\nHost: t\r\nX-A: " + b"a" * 500:
            try:
                wire.send(bytes([byte]))
                if not wire.more() or wire.buffer:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        wire.socket.settimeout(5)
        assert wire.response().status == 408
    assert time.monotonic() - started < 4


def test_a_connection_that_says_nothing(tight: Evener) -> None:
    with tight.wire() as wire:
        started = time.monotonic()
        words = wire.rest()
        assert time.monotonic() - started < 4
        assert words == b"" or words.startswith(b"HTTP/1.1 408")


def test_a_body_that_stops(tight: Evener) -> None:
    with tight.wire() as wire:
        wire.send("POST /head HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\nfirst part")
        assert wire.response().status == 408
        assert wire.is_closed()


def test_a_body_that_drips_may_take_its_time(tight: Evener) -> None:
    with tight.wire() as wire:
        wire.send("POST /head HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n")
        for byte in b"0123456789":
            wire.send(bytes([byte]))
            time.sleep(0.15)  # the body gap is one second, the whole takes longer
        assert wire.response().body.endswith(b"0123456789")


def test_an_idle_connection(tight: Evener) -> None:
    with tight.wire() as wire:
        assert wire.get("/who").status == 200
        started = time.monotonic()
        assert wire.is_closed()
        assert 0.5 < time.monotonic() - started < 4


def test_an_answer_that_does_not_begin(tight: Evener) -> None:
    with tight.wire() as wire:
        assert wire.get("/never").status == 504


def test_the_whole_request(start: Start) -> None:
    evener = start(*ORIGIN, "--workers", "1", "--timeout-request", "1", ready_path="/who")
    with evener.wire() as wire:
        assert wire.get("/slow?5").status == 504
    with evener.wire() as wire:
        wire.request("GET", "/stream-forever")
        assert wire.head().status == 200
        with pytest.raises(EOFError):
            while wire.chunk():
                pass


def test_slow_readers_and_writers_hold_up_nobody(start: Start) -> None:
    evener = start(*ORIGIN, "--workers", "1", ready_path="/who")
    slow = [Wire(evener.port) for _ in range(100)]
    try:
        for number, wire in enumerate(slow):
            if number % 2:
                wire.send("POST /head HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nx")
            else:
                wire.send("GET /head HTTP/1.1\r\nHost: t\r\nX-A: ")
        started = time.monotonic()
        for _ in range(50):
            assert evener.get("/who").status == 200
        assert time.monotonic() - started < 5
    finally:
        for wire in slow:
            wire.close()


def test_connections_beyond_the_limit_wait(start: Start) -> None:
    evener = start(*ORIGIN, "--workers", "1", "--limit-connections", "8", ready_path="/who")
    held = [evener.wire() for _ in range(8)]
    for wire in held:
        assert wire.get("/who").status == 200
    with evener.wire() as late:
        late.request("GET", "/who")
        late.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.response()
        held.pop().close()
        late.socket.settimeout(10)
        assert late.response().status == 200
    for wire in held:
        wire.close()


def test_a_request_waits_for_its_turn(start: Start) -> None:
    evener = start("--workers", "1", "--worker-in-flight", "1")
    with evener.wire() as first, evener.wire() as second:
        first.request("GET", "/lab/slow?seconds=0.8")
        wait_until_in_flight(evener, 1)
        started = time.monotonic()
        second.request("GET", "/lab/worker")
        assert second.response().status == 200
        assert time.monotonic() - started > 0.4
        assert first.response().status == 200


def test_the_queue_is_first_come_first_served(start: Start) -> None:
    evener = start("--workers", "1", "--worker-in-flight", "1")
    order: list[int] = []
    with evener.wire() as first:
        first.request("GET", "/lab/slow?seconds=1")
        wait_until_in_flight(evener, 1)

        def ask(number: int, wire: Wire) -> None:
            assert wire.response().status == 200
            order.append(number)

        wires = [evener.wire() for _ in range(5)]
        threads = []
        for number, wire in enumerate(wires):
            wire.request("GET", "/lab/slow?seconds=0.05")
            queued(evener, number + 1)
            threads.append(threading.Thread(target=ask, args=(number, wire)))
            threads[-1].start()
        assert first.response().status == 200
        for thread in threads:
            thread.join()
        for wire in wires:
            wire.close()
    assert order == sorted(order)


def queued(evener: Evener, number: int) -> None:
    """Waits until so many requests wait for a worker."""
    eventually(lambda: evener.ask("status")["traffic"]["queued"] >= number, f"{number} are queued")


def refused_because_busy(evener: Evener, *fields: str) -> tuple[float, str]:
    with evener.wire() as first, evener.wire() as second:
        first.request("GET", "/lab/slow?seconds=2")
        wait_until_in_flight(evener, 1)
        started = time.monotonic()
        response = second.get("/lab/worker", *fields)
        took = time.monotonic() - started
        assert response.status == 503
        assert int(response.one("retry-after") or -1) >= 0
        return took, response.body.decode()


def test_a_queue_of_no_length(start: Start) -> None:
    evener = start("--workers", "1", "--worker-in-flight", "1", "--limit-queue", "0")
    took, body = refused_because_busy(evener, "Accept: application/json")
    assert took < 0.5
    assert json.loads(body)


def test_a_wait_that_is_too_long(start: Start) -> None:
    evener = start("--workers", "1", "--worker-in-flight", "1", "--timeout-queue", "0.5")
    took, body = refused_because_busy(evener)
    assert 0.3 < took < 1.6
    assert body


def test_whoever_leaves_the_queue_is_forgotten(start: Start) -> None:
    evener = start("--workers", "1", "--worker-in-flight", "1", "--limit-queue", "2")
    with evener.wire() as first:
        first.request("GET", "/lab/slow?seconds=20")
        wait_until_in_flight(evener, 1)
        for _ in range(4):
            with evener.wire() as impatient:
                impatient.request("GET", "/lab/worker")
                queued(evener, 1)
            eventually(lambda: evener.ask("status")["traffic"]["queued"] == 0, "none is queued")


@pytest.mark.parametrize(("path", "status"), [("/never", 504), ("/close", 502), ("/garbage", 502)])
@pytest.mark.parametrize("accept", ["application/json", "text/html", ""])
def test_the_form_of_an_error(tight: Evener, path: str, status: int, accept: str) -> None:
    with tight.wire() as wire:
        response = wire.get(path, *([f"Accept: {accept}"] if accept else []))
    assert response.status == status
    kind = response.one("content-type") or ""
    if accept == "application/json":
        assert "application/json" in kind
        assert str(status) in json.dumps(response.json())
    else:
        assert "text/plain" in kind
    assert int(response.one("content-length") or 0) == len(response.body) > 0
