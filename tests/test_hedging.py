"""Hedging: a request that has no answer after a while goes to another endpoint as well."""

import threading
import time
from typing import Any

import pytest
from running import Origin, Origins, Serve, Served, eventually


def cluster(origins: list[Origin], hedge: str, *keys: str) -> str:
    """A file with one cluster of these endpoints, which are asked in turn, and its hedges."""
    endpoints = ", ".join(f'"{origin.address}"' for origin in origins)
    lines = "\n".join(keys)
    line = f"hedge = {{ {hedge} }}" if hedge else ""
    head = '[[route]]\ncluster = "c"\n[[route]]\npath = "/ready"\nrespond = 200\n'
    return f"{head}[cluster.c]\nendpoints = [{endpoints}]\n{line}\n{lines}\n"


def first_then(origins: list[Origin], hedge: str, *keys: str) -> str:
    """As [`cluster`], but the first is preferred: the others are asked when it cannot be."""
    text = cluster(origins, hedge, *keys)
    for origin in origins[1:]:
        backup = f'{{ address = "{origin.address}", backup = true }}'
        text = text.replace(f'"{origin.address}"', backup)
    return text


def begin(serve: Serve, text: str) -> Served:
    """Serves a file; its endpoints are not asked whether it is ready, so that nothing counts."""
    served: Served = serve(text, ready_path="/ready")
    return served


def hedges(served: Served) -> tuple[int, int, int]:
    """Hedges sent, won, and attempts cut off."""
    names = ["hedges", "hedges_won", "hedges_cancelled"]
    sent, won, cancelled = (int(served.metric(f"evener_{name}_total")) for name in names)
    return sent, won, cancelled


def timed(served: Served, path: str, *fields: str) -> tuple[Any, float]:
    """An answer, and how many seconds it took."""
    began = time.monotonic()
    answer = served.get(path, *fields)
    assert answer.status == 200, answer
    return answer.json(), time.monotonic() - began


def test_a_slow_endpoint_is_outrun(serve: Serve, origin: Origins) -> None:
    """The other one answers, the slow one is cut off, and the connection goes on."""
    slow, quick = origin("a"), origin("b")
    served = begin(serve, first_then([slow, quick], 'after = "50ms"'))
    with served.wire() as wire:
        for number in range(1, 4):
            began = time.monotonic()
            answer = wire.get("/slow-at?a=8")
            assert answer.json()["name"] == "b"
            assert 0.05 <= time.monotonic() - began < 4
            assert hedges(served) == (number, number, number)
    eventually(lambda: slow.events().count("closed /slow-at") == 3, "the slow one is cut off")
    assert quick.events().count("asked GET") == 3
    # What was given back is free: nobody's slot is lost.
    endpoints = served.ask_api("/api/v1/clusters")[0]["endpoints"]
    assert [one["in_flight"] for one in endpoints] == [0, 0]


def test_an_answer_in_time_is_not_hedged(serve: Serve, origin: Origins) -> None:
    """Nothing is sent twice that is answered before the delay; off by default."""
    one, other = origin("a"), origin("b")
    served = begin(serve, first_then([one, other], 'after = "2s"'))
    assert timed(served, "/slow-at?a=0.1")[0]["name"] == "a"
    assert hedges(served) == (0, 0, 0)
    served = begin(serve, first_then([one, other], ""))
    assert timed(served, "/slow-at?a=0.4")[0]["name"] == "a"
    assert other.events().count("asked GET") == 0


def test_the_first_attempt_may_still_win(serve: Serve, origin: Origins) -> None:
    """Then the hedge is cut off."""
    one, other = origin("a"), origin("b")
    served = begin(serve, first_then([one, other], 'after = "50ms"'))
    assert timed(served, "/slow-at?a=1&b=8")[0]["name"] == "a"
    assert hedges(served) == (1, 0, 1)
    eventually(lambda: "closed /slow-at" in other.events(), "the hedge is cut off")


@pytest.mark.parametrize(
    ("method", "body", "hedged"),
    [("GET", b"", True), ("OPTIONS", b"", True), ("GET", b"x", False), ("POST", b"", False)],
)
def test_only_what_reads_and_has_no_body_is_hedged(
    serve: Serve, origin: Origins, method: str, body: bytes, hedged: bool
) -> None:
    """A request that may change something is in one place only."""
    one, other = origin("a"), origin("b")
    served = begin(serve, first_then([one, other], 'after = "30ms"'))
    with served.wire() as wire:
        wire.request(method, f"/slow-at?a={8 if hedged else 0.4}", body=body)
        assert wire.response().json()["name"] == ("b" if hedged else "a")
    assert hedges(served)[0] == int(hedged)


def test_head_is_hedged_and_has_no_body(serve: Serve, origin: Origins) -> None:
    """The answer to HEAD has no body at either endpoint, and the connection goes on."""
    served = begin(serve, first_then([origin("a"), origin("b")], 'after = "30ms"'))
    with served.wire() as wire:
        wire.request("HEAD", "/slow-at?a=8")
        assert wire.response(to="HEAD").one("content-length") == "160"
        assert wire.get("/ready").status == 200
    assert hedges(served) == (1, 1, 1)


def test_at_most_so_many_hedges(serve: Serve, origin: Origins) -> None:
    """One after the other, each to another endpoint."""
    three = [origin(name) for name in "abc"]
    served = begin(serve, first_then(three, 'after = "50ms", max = 2'))
    answer, took = timed(served, "/slow-at?a=8&b=8&c=0.1")
    assert answer["name"] == "c"
    assert 0.2 <= took < 4
    assert hedges(served) == (2, 1, 2)
    served = begin(serve, first_then(three, 'after = "50ms"'))
    assert timed(served, "/slow-at?a=8&b=0.7&c=0")[0]["name"] == "b"
    assert hedges(served) == (1, 1, 1)


def test_hedges_are_within_the_retry_budget(serve: Serve, origin: Origins) -> None:
    """With a budget of one in each second, thirty slow requests are hedged a few times."""
    budget = "retry_budget = { percent = 0, least_per_second = 1 }"
    served = begin(serve, first_then([origin("a"), origin("b")], 'after = "30ms"', budget))
    began = time.monotonic()
    names: list[str] = []

    def ask() -> None:
        names.append(timed(served, "/slow-at?a=0.6")[0]["name"])

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = int(time.monotonic() - began) + 2
    sent, won, _ = hedges(served)
    assert 1 <= sent <= seconds
    assert names.count("b") == won
    assert len(names) == 30


def test_a_hedge_goes_on_when_the_first_attempt_fails(serve: Serve, origin: Origins) -> None:
    """The endpoint dies with the request: its hedge is not sent once more, but waited for."""
    one, other = origin("a"), origin("b")
    served = begin(serve, first_then([one, other], 'after = "30ms"'))
    with served.wire() as wire:
        wire.request("GET", "/die-at?a")
        eventually(lambda: "asked /die-at" in other.events(), "the hedge is there")
        one.stop()
        other.go()
        assert wire.response().json()["name"] == "b"
    assert other.events().count("asked /die-at") == 1
    assert served.metric("evener_retries_total") == 0


def test_a_hedge_that_fails_changes_nothing(serve: Serve, origin: Origins) -> None:
    """Its endpoint is gone, or answers what is declined: the first answer is waited for."""
    one, other = origin("a"), origin("b")
    keys = 'next_upstream = ["error", "timeout", "http_503"]'
    served = begin(serve, first_then([one, other], 'after = "30ms"', keys))
    assert timed(served, "/busy-at?b")[0]["name"] == "a"
    assert hedges(served) == (1, 0, 0)
    other.stop()
    assert timed(served, "/slow-at?a=0.4")[0]["name"] == "a"
    assert served.who() == "a"


def test_the_delay_is_learnt(serve: Serve, origin: Origins) -> None:
    """With a quantile nothing is hedged before enough is known; then what is slow is."""
    one, other = origin("a"), origin("b")
    served = begin(serve, first_then([one, other], 'quantile = 95, least = "20ms"'))
    assert timed(served, "/slow-at?a=0.4")[0]["name"] == "a"
    with served.wire() as wire:
        for _ in range(110):
            assert wire.get("/who").status == 200
    eventually(
        lambda: timed(served, "/slow-at?a=0.7")[0]["name"] == "b", "it is hedged", every=0.01
    )


def test_a_client_that_leaves_ends_all_attempts(serve: Serve, origin: Origins) -> None:
    """Both endpoints see it, and no socket is left."""
    both = [origin("a"), origin("b")]
    served = begin(serve, first_then(both, 'after = "30ms"'))
    usual = served.sockets()
    with served.wire() as wire:
        wire.request("GET", "/slow-at?a=15&b=15")
        eventually(lambda: hedges(served)[0] == 1, "it is hedged")
    eventually(lambda: all("closed /slow-at" in one.events() for one in both), "both are cut off")
    eventually(lambda: served.sockets() <= usual, "the sockets are closed")


def test_no_hedge_while_an_endpoint_is_full(serve: Serve, origin: Origins) -> None:
    """A hedge never takes the last place of an endpoint from a request that waits."""
    one, other = origin("a"), origin("b")
    text = cluster([one, other], 'after = "30ms"')
    for endpoint in (one, other):
        full = f'{{ address = "{endpoint.address}", max_conns = 1 }}'
        text = text.replace(f'"{endpoint.address}"', full)
    served = begin(serve, text)
    with served.wire() as first, served.wire() as second, served.wire() as third:
        first.request("GET", "/slow-at?a=1&b=1")
        second.request("GET", "/slow-at?a=1&b=1")
        third.request("GET", "/who")
        assert third.response().status == 200
        assert {first.response().json()["name"], second.response().json()["name"]} == {"a", "b"}
    assert hedges(served) == (0, 0, 0)


def test_endpoints_that_speak_http2_are_hedged(serve: Serve, origin: Origins) -> None:
    """Streams are attempts as connections are; the one that is outrun is reset."""
    behind = [origin("a"), origin("b")]
    fronts = [begin(serve, cluster([one], "")) for one in behind]
    first, second = (f"127.0.0.1:{front.port}" for front in fronts)
    served = begin(
        serve,
        '[[route]]\ncluster = "c"\n[[route]]\npath = "/ready"\nrespond = 200\n'
        '[cluster.c]\nprotocol = "h2"\nhedge = { after = "50ms" }\n'
        f'endpoints = ["{first}", {{ address = "{second}", backup = true }}]\n',
    )
    answer, took = timed(served, "/slow-at?a=8")
    assert answer["name"] == "b"
    assert took < 4
    eventually(lambda: "closed /slow-at" in behind[0].events(), "the slow one is cut off")
    again, _ = timed(served, "/slow-at?b=8")
    assert again["name"] == "a", "its connection goes on"
    assert hedges(served)[1] == 1


def test_under_load_every_request_has_one_answer(serve: Serve, origin: Origins) -> None:
    """Some are slow at one of the endpoints, all are hedged: each client gets what it asked for."""
    three = [origin(name) for name in "abc"]
    budget = "retry_budget = { percent = 100, least_per_second = 1000 }"
    served = begin(serve, cluster(three, 'after = "5ms", max = 2', budget))
    wrong: list[object] = []

    def ask(client: int) -> None:
        with served.wire() as wire:
            for number in range(60):
                mark = f"{client}-{number}"
                wire.request("GET", f"/slow-at?{'abc'[number % 3]}=0.03&{mark}", f"X-Mark: {mark}")
                answer = wire.response()
                if answer.status != 200 or "name" not in answer.json():
                    wrong.append(answer)
                wire.request("GET", f"/head?{mark}")
                if f"/head?{mark} ".encode() not in wire.response().body:
                    wrong.append(mark)

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    sent, won, cancelled = hedges(served)
    assert sent > 100
    assert 0 < won <= sent
    assert cancelled <= sent
    endpoints = served.ask_api("/api/v1/clusters")[0]["endpoints"]
    assert [one["in_flight"] for one in endpoints] == [0, 0, 0]
