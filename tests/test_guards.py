"""What protects clusters from more than they can do: breakers with fallbacks, caps, adaptive
concurrency, shedding; and tries that are given up, or wait."""

import concurrent.futures
import time
from collections import Counter
from urllib.parse import urlencode

from running import Origins, Serve, Served, eventually, free_port


def clusters(route: str = "", **named: str) -> str:
    """A file that routes everything to cluster `a`, of which this is said besides."""
    text = f'[[route]]\ncluster = "a"\n{route}\n'
    for name, more in named.items():
        text += f"[cluster.{name}]\n{more}\n"
    return text


def answers(status: str) -> str:
    """A path that the origin answers with this status."""
    return "/reply?" + urlencode({"status": status})


def breaker(served: Served) -> str | None:
    """The state of the breaker of cluster `a`."""
    for cluster in served.ask_api("/api/v1/clusters"):
        if cluster["name"] == "a":
            state: str | None = cluster.get("breaker")
            return state
    return None


def test_a_breaker_opens_probes_and_closes(serve: Serve, origin: Origins) -> None:
    """Failures in a row open it; what is refused reaches nobody; a good probe closes it."""
    one = origin("one")
    served = serve(
        clusters(
            a=f'endpoints = ["{one.address}"]\nnext_upstream = "off"\n'
            'breaker = { consecutive_failures = 3, error_percent = 0, open = "700ms" }'
        )
    )
    with served.wire() as wire:
        assert breaker(served) == "closed"
        for _ in range(3):
            assert wire.get(answers("500 Broken")).status == 500
        assert breaker(served) == "open"
        refused = wire.get("/who", "Accept: application/json")
        assert refused.status == 503
        assert refused.json()["detail"] == "too many requests have failed of late; try again later"
        assert refused.one("retry-after") == "1"
        # Half open, a failure opens it again, for twice as long.
        eventually(lambda: wire.get(answers("500 Broken")).status == 500, "a probe")
        opened = time.monotonic()
        assert wire.get("/who").status == 503
        eventually(lambda: wire.get("/who").status == 200, "a probe that succeeds")
        assert time.monotonic() - opened > 1.0
        assert breaker(served) == "closed"
        assert [wire.get("/who").status for _ in range(5)] == [200] * 5
    metrics = served.tell("status").stdout
    assert metrics


def test_a_breaker_by_share_and_by_latency(serve: Serve, origin: Origins) -> None:
    """Half of the requests failing, or too many being slow, opens it too."""
    one = origin("one")
    served = serve(
        clusters(
            a=f'endpoints = ["{one.address}"]\nnext_upstream = "off"\n'
            "breaker = { requests_min = 6, error_percent = 50 }"
        )
    )
    with served.wire() as wire:
        failed = 0
        while breaker(served) == "closed":
            assert wire.get(answers("503 Not Now")).status == 503
            failed += 1
        assert 3 <= failed < 30
    served = serve(
        clusters(
            a=f'endpoints = ["{one.address}"]\n'
            'breaker = { requests_min = 4, latency = "40ms", latency_quantile = 50 }'
        )
    )
    with served.wire() as wire:
        slow = 0
        while breaker(served) == "closed":
            assert wire.get("/slow?0.06").status == 200
            slow += 1
        assert 3 <= slow < 30


def test_fallbacks(serve: Serve, origin: Origins) -> None:
    """Another cluster or a fixed answer, when the breaker is open or nobody is alive."""
    one, spare = origin("one"), origin("spare")
    served = serve(
        clusters(
            route='response_fields = { set = { X-Route = "yes" } }',
            a=f'endpoints = ["{one.address}"]\nnext_upstream = "off"\n'
            'breaker = { consecutive_failures = 1 }\nfallback = { cluster = "b" }',
            b=f'endpoints = ["{spare.address}"]',
        )
    )
    with served.wire() as wire:
        assert wire.get("/who").json()["name"] == "one"
        assert wire.get(answers("502 Bad")).status == 502
        assert [wire.get("/who").json()["name"] for _ in range(3)] == ["spare"] * 3
        assert wire.post("/head", b"a body").body.endswith(b"a body")
    served = serve(
        clusters(
            route='response_fields = { set = { X-Route = "yes" } }',
            a=f'endpoints = ["127.0.0.1:{free_port()}"]\n'
            'fallback = { status = 200, body = "{}", type = "application/json" }',
        )
    )
    with served.wire() as wire:
        for _ in range(2):
            answer = wire.get("/who")
            assert (answer.status, answer.body) == (200, b"{}")
            assert answer.one("content-type") == "application/json"
            assert answer.one("x-route") == "yes"


def many(served: Served, path: str, count: int) -> Counter[int]:
    """The statuses of so many requests at once."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(served.get, path) for _ in range(count)]
        return Counter(future.result().status for future in futures)


def test_no_more_requests_than_a_cluster_may_have(serve: Serve, origin: Origins) -> None:
    """Further ones wait; those that find the queue full are refused."""
    one, two = origin("one"), origin("two")
    served = serve(
        clusters(a=f'endpoints = ["{one.address}", "{two.address}"]\nmax_requests = 2\nqueue = 4')
    )
    assert many(served, "/slow?0.4", 9) == {200: 6, 503: 3}
    assert served.get("/who").status == 200


def test_concurrency_adapts(serve: Serve, origin: Origins) -> None:
    """The limit is found out by the latency, shown, and nothing is lost meanwhile."""
    one = origin("one")
    served = serve(
        clusters(
            a=f'endpoints = ["{one.address}"]\n'
            'concurrency = { first = 4, calibrate_requests = 10, update = "50ms" }'
        )
    )

    def limit() -> int:
        found: int = served.ask_api("/api/v1/clusters")[0]["concurrency_limit"]
        return found

    assert limit() == 3, "the limit while the least latency is measured"
    assert many(served, "/slow?0.02", 12) == {200: 12}
    # Nothing gets slower with more at once: it grows.
    deadline = time.monotonic() + 10
    while limit() <= 6:
        assert time.monotonic() < deadline
        assert many(served, "/slow?0.02", 12) == {200: 12}


def test_the_least_important_are_shed_first(serve: Serve, origin: Origins) -> None:
    """With a full queue, low goes before normal, and health checks pass beyond the cap."""
    one = origin("one")
    routes = "".join(
        f'[[route]]\npath = "/{name}"\nstrip_prefix = "/{name}"\ncluster = "a"\n'
        f'importance = "{name}"\n'
        for name in ("low", "high", "critical")
    )
    served = serve(
        routes
        + clusters(
            a=f'endpoints = ["{one.address}"]\nmax_requests = 1\nqueue = 10\n'
            "shed = { low = [30, 30], normal = [60, 60], high = [90, 90], critical_slots = 2 }"
        )
    )

    def queued() -> int:
        found: int = served.ask_api("/api/v1/clusters")[0]["queued"]
        return found

    with concurrent.futures.ThreadPoolExecutor(8) as pool, served.wire() as busy:
        busy.request("GET", "/sse")
        assert busy.until(b"\r\n\r\n")
        waiting = [pool.submit(served.get, "/who") for _ in range(4)]
        eventually(lambda: queued() == 4, "four requests wait")
        shed = served.get("/low/who", "Accept: application/json")
        assert (shed.status, shed.json()["detail"].split(";")[0]) == (
            503,
            "more important requests are served first",
        )
        assert served.get("/critical/who").status == 200
        waiting += [pool.submit(served.get, "/high/who") for _ in range(3)]
        eventually(lambda: queued() == 7, "seven requests wait")
        assert served.get("/who").status == 503
        for _ in range(2):
            assert served.get("/critical/sse-go").status == 200
        assert [request.result().status for request in waiting] == [200] * 7


def test_a_try_that_takes_too_long_goes_elsewhere(serve: Serve, origin: Origins) -> None:
    """By the deadline of a try; a request that may not run twice gets 504."""
    one, two = origin("one"), origin("two")
    served = serve(
        clusters(
            a="endpoints = ["
            f'{{ address = "{one.address}", max_fails = 0 }},'
            f'{{ address = "{two.address}", max_fails = 0 }}]\n'
            'timeouts = { per_try = "250ms" }'
        )
    )
    with served.wire() as wire:
        started = time.monotonic()
        assert wire.get("/never").status == 504
        assert 0.5 <= time.monotonic() - started < 2.0
        started = time.monotonic()
        assert wire.post("/never", b"x").status == 504
        assert 0.25 <= time.monotonic() - started < 1.5
    asked = [
        endpoint["requests"] for endpoint in served.ask_api("/api/v1/clusters")[0]["endpoints"]
    ]
    assert sum(asked) >= 4, "both for the first, one for the second, and who it was ready for"


def test_tries_wait_for_each_other(serve: Serve, origin: Origins) -> None:
    """Before the next try there is a pause, in which the client may leave."""
    dead = [free_port(), free_port()]
    one = origin("one")
    served = serve(
        clusters(
            a=f'endpoints = ["127.0.0.1:{dead[0]}", "127.0.0.1:{dead[1]}", "{one.address}"]\n'
            'retry_backoff = { base = "300ms", max = "300ms" }\nnext_upstream = "error"'
        ),
        wait=False,
    )
    eventually(lambda: "serves" in served.words(), "it serves")
    took = []
    for _ in range(3):
        started = time.monotonic()
        assert served.get("/who").status == 200
        took.append(time.monotonic() - started)
    assert max(took) < 2.0
    with served.wire() as wire:
        wire.request("GET", "/who")
    assert served.get("/who").status == 200
