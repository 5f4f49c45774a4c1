"""Endpoints that come and go without a reload: by name and by the admin API."""

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from load import Ask, Load, Outcome
from running import Origin, Origins, Serve, Served, eventually
from sidebyside.faults.nameserver import NameServer, address, service


@pytest.fixture
def names() -> Iterator[NameServer]:
    """A name server of the test's own."""
    with NameServer() as server:
        yield server


def file(names: NameServer | None, *endpoints: str, more: str = "") -> str:
    """One cluster with these endpoints."""
    dns = f'[dns]\nservers = "{names.address}"\ntimeout = "500ms"\n' if names else ""
    listed = ", ".join(f'"{one}"' for one in endpoints)
    return f'{dns}[[route]]\ncluster = "api"\n[cluster.api]\nendpoints = [{listed}]\n{more}\n'


def requests() -> Iterator[Ask]:
    """The same request again and again."""
    return itertools.repeat(Ask("/who"))


def under_load(served: Served, trouble: Callable[[], None]) -> Outcome:
    """Makes trouble while requests are under way."""

    async def run() -> Outcome:
        load = Load(served.port, requests, 16)
        loading = asyncio.create_task(load.run(3.0))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(trouble)
        return await loading

    return asyncio.run(run())


def pair(origin: Origins) -> tuple[Origin, Origin]:
    """Two origins on the same port of two loopback addresses."""
    one = origin("one")
    return one, origin("two", host="127.0.0.2", port=one.port)


def test_a_name_is_looked_up_again(serve: Serve, origin: Origins, names: NameServer) -> None:
    """Addresses that are new join and those that are gone leave; no request fails."""
    one, _two = pair(origin)
    names.records["api.test"] = [address("127.0.0.1")]
    served = serve(file(names, f"api.test:{one.port}"))
    assert served.who() == "one"

    def change() -> None:
        names.records["api.test"] = [address("127.0.0.1"), address("127.0.0.2")]
        eventually(lambda: served.who() == "two", "the new address serves")
        names.records["api.test"] = [address("127.0.0.2")]
        started = time.monotonic()
        eventually(lambda: [served.who() for _ in range(6)] == ["two"] * 6, "the old is out")
        assert time.monotonic() - started < 2.5, "the time to live is 1 s"
        one.stop()

    outcome = under_load(served, change)
    assert outcome.answered > 300, outcome
    assert not outcome.failures, outcome
    # Without answers, and with empty ones, what is known goes on.
    asked = names.asked
    names.silent = True
    eventually(lambda: names.asked > asked + 1, "it is asked again")
    assert served.who() == "two"
    names.silent = False
    names.records["api.test"] = []
    eventually(lambda: "cannot be looked up: " in served.words(), "it is said")
    assert served.who() == "two"


def test_a_name_that_is_not_known_yet(serve: Serve, origin: Origins, names: NameServer) -> None:
    """Requests wait for it as for any endpoint; it serves as soon as it is known."""
    one = origin("one")
    served = serve(file(names, f"later.test:{one.port}"), wait=False)
    eventually(lambda: "later.test" in served.words(), "it is said that it is unknown")
    with served.wire() as wire:
        wire.request("GET", "/who")
        names.records["later.test"] = [address("127.0.0.1")]
        assert wire.response().json()["name"] == "one"


def test_services(serve: Serve, origin: Origins, names: NameServer) -> None:
    """SRV records bring ports, weights, and priorities that are used in turn."""
    one, two, spare = origin("one"), origin("two"), origin("spare")
    names.records |= {
        "_http._tcp.api.test": [
            service(10, 3, one.port, "a.test"),
            service(10, 1, two.port, "a.test"),
            service(20, 1, spare.port, "b.test"),
        ],
        "a.test": [address("127.0.0.1")],
        "b.test": [address("127.0.0.1")],
    }
    served = serve(file(names, "srv:_http._tcp.api.test"))
    assert Counter(served.who() for _ in range(20)) == {"one": 15, "two": 5}
    names.records["_http._tcp.api.test"] = [service(20, 1, spare.port, "b.test")]
    eventually(lambda: served.who() == "spare", "the other target")


def test_names_of_the_system(serve: Serve, origin: Origins) -> None:
    """`localhost` needs no name server."""
    one = origin("one")
    served = serve(file(None, f"localhost:{one.port}"))
    assert served.who() == "one"


def command(served: Served, path: str, **body: object) -> tuple[int, Any]:
    """Posts to the admin API."""
    text = json.dumps(body)
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(served.admin))
        head = f"POST {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
        stream.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    head, _, rest = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)


def test_changes_by_the_admin_api(serve: Serve, origin: Origins) -> None:
    """An endpoint joins, drains, comes back and leaves under load; no request fails."""
    one, two = origin("one"), origin("two")
    served = serve(file(None, one.address))

    def change() -> None:
        status, answer = command(
            served, "/api/v1/endpoints/add", cluster="api", endpoint=two.address, weight=3, name="b"
        )
        assert status == 202, answer
        assert Counter(served.who() for _ in range(40))["two"] > 15
        served.tell("drain", "api/b")
        eventually(lambda: {served.who() for _ in range(6)} == {"one"}, "it is drained")
        shown = served.ask_api("/api/v1/clusters")[0]["endpoints"]
        assert [(e["name"], e["draining"]) for e in shown][1:] == [("b", True)]
        served.tell("drain", "--undo", "api/b")
        eventually(lambda: served.who() == "two", "it is back")
        status, answer = command(
            served, "/api/v1/endpoints/remove", cluster="api", endpoint=one.address
        )
        assert status == 202, answer
        eventually(lambda: len(served.ask_api("/api/v1/clusters")[0]["endpoints"]) == 1, "it left")
        one.stop()

    outcome = under_load(served, change)
    assert outcome.answered > 300, outcome
    assert not outcome.failures, outcome
    assert served.who() == "two"
    one.start()
    served.tell("reload")
    eventually(lambda: served.who() == "one", "the file counts again")


def test_changes_that_cannot_be(serve: Serve, origin: Origins) -> None:
    """Each is refused with what to do about it."""
    one = origin("one")
    served = serve(file(None, one.address))
    for path, cluster, endpoint, words in [
        ("drain", "ap", one.address, "there is no cluster `ap`; did you mean `api`?"),
        ("drain", "api", "127.0.0.1:1", "there is no endpoint `127.0.0.1:1` in `api`; there is"),
        ("add", "api", one.address, "is in this cluster already"),
        ("add", "api", "nonsense", "is not an address"),
        ("remove", "api", one.address, "is the last endpoint"),
    ]:
        status, answer = command(
            served, f"/api/v1/endpoints/{path}", cluster=cluster, endpoint=endpoint
        )
        assert status == 409
        assert words in answer["error"]
    told = served.tell("drain", "api", check=False)
    assert told.returncode == 1
    assert "write CLUSTER/ENDPOINT" in told.stderr


CHECK = 'interval = "100ms", timeout = "500ms", fall = 2, rise = 2'


def says(served: Served, words: str) -> None:
    """Waits until the program has said so."""
    eventually(lambda: words in served.words(), words)


def states(served: Served) -> list[bool]:
    """Which endpoints are unhealthy, in their order."""
    return [one["unhealthy"] for one in served.ask_api("/api/v1/clusters")[0]["endpoints"]]


def in_flight(served: Served) -> list[int]:
    """How many requests each endpoint has."""
    return [one["in_flight"] for one in served.ask_api("/api/v1/clusters")[0]["endpoints"]]


def test_an_endpoint_that_fails_its_checks(serve: Serve, origin: Origins) -> None:
    """It gets no requests until it passes again; those under way elsewhere notice nothing."""
    one, two = origin("one"), origin("two")
    check = f'health_check = {{ path = "/who", body = "name", {CHECK} }}'
    served = serve(file(None, one.address, two.address, more=check))
    eventually(lambda: states(served) == [False, False], "both are healthy")

    def change() -> None:
        two.stop()
        eventually(lambda: states(served) == [False, True], "one is unhealthy")
        assert {served.who() for _ in range(6)} == {"one"}
        two.start()
        eventually(lambda: states(served) == [False, False], "it is back")
        eventually(lambda: served.who() == "two", "it serves again")

    outcome = under_load(served, change)
    assert not outcome.failures, outcome
    assert "is unhealthy: no connection: " in served.words()
    assert "is healthy" in served.words()
    # Without checks in the file, nobody is unhealthy any more.
    two.stop()
    eventually(lambda: states(served) == [False, True], "unhealthy again")
    served.write(file(None, one.address, two.address))
    served.tell("reload")
    eventually(lambda: states(served) == [False, False], "no checks")


def test_an_endpoint_is_held_until_its_first_check(serve: Serve, origin: Origins) -> None:
    """What answers with another status, field or body than is expected gets nothing."""
    one = origin("one")
    checks = [
        ('path = "/no-such-path"', "it answered 404"),
        ('path = "/who", header = { X-Ready = "yes" }', "lacks the expected `x-ready`"),
        ('path = "/who", body = "all is well"', "does not contain `all is well`"),
        ('path = "/never"', "no answer within 0.5 s"),
        ('path = "/garbage"', "not valid HTTP"),
    ]
    for check, words in checks:
        more = f"health_check = {{ {check}, hold = true, {CHECK} }}\n"
        served = serve(file(None, one.address, more=more), wait=False)
        says(served, words)
        assert states(served) == [True]
        served.stop()
    check = f'health_check = {{ path = "/who", hold = true, {CHECK} }}'
    assert serve(file(None, one.address, more=check)).who() == "one"


def test_a_connection_is_enough(serve: Serve, origin: Origins) -> None:
    """`tcp` asks nothing more, over unix sockets too, and on a port of its own."""
    one, two = origin("one", unix=True), origin("two")
    check = f'health_check = {{ type = "tcp", port = {two.port}, {CHECK} }}'
    served = serve(file(None, one.address, "127.0.0.1:1", more=check), wait=False)
    says(served, "admin at")
    eventually(lambda: states(served) == [False, False], "the other port answers")
    two.stop()
    eventually(lambda: states(served) == [False, True], "the other port is closed")


def passes(served: Served) -> bool:
    """Whether the only endpoint is healthy."""
    return states(served) == [False]


def before_http2(serve: Serve, *behind: Served, check: str) -> Served:
    """A proxy whose endpoints are these, by HTTP/2 in clear text."""
    check = f'protocol = "h2"\nhealth_check = {{ {check}, {CHECK} }}'
    served: Served = serve(
        file(None, *(f"127.0.0.1:{one.port}" for one in behind), more=check), wait=False
    )
    says(served, "admin at")
    return served


def test_endpoints_that_speak_http2_are_asked_by_it(serve: Serve, origin: Origins) -> None:
    """Status, fields and body are judged; another port may speak something else."""
    one = origin("one")
    front = serve(file(None, one.address))
    for check, words in [
        ('path = "/no-such-path", hold = true', "it answered 404"),
        ('path = "/who", header = { X-Ready = "yes" }, hold = true', "lacks the expected"),
        ('path = "/who", body = "all is well", hold = true', "does not contain `all is well`"),
        ('path = "/never", hold = true', "no answer within 0.5 s"),
        # The origin itself knows only HTTP/1.1.
        (f'path = "/who", port = {one.port}, hold = true', "HTTP/2 failed"),
    ]:
        served = before_http2(serve, front, check=check)
        says(served, words)
        assert states(served) == [True]
        served.stop()
    for check in [
        'path = "/who?a=b", body = "one", header = { Date = "GMT" }, hold = true',
        f'path = "/who", protocol = "http1", port = {one.port}, hold = true',
    ]:
        served = before_http2(serve, front, check=check)
        eventually(partial(passes, served), "it passes")
        assert served.who() == "one"
        served.stop()


def test_requests_leave_an_endpoint_of_http2_that_hangs(serve: Serve, origin: Origins) -> None:
    """Streams that wait there are answered by the other one when a check has failed."""
    fronts = [serve(file(None, origin(name).address)) for name in ("one", "two")]
    served = before_http2(serve, *fronts, check='path = "/who"')
    eventually(lambda: states(served) == [False, False], "both are healthy")
    eventually(lambda: served.who() == "two", "it is the first one's turn")

    def hang() -> None:
        fronts[0].signal(signal.SIGSTOP)
        eventually(lambda: states(served) == [True, False], "it hangs")
        fronts[0].signal(signal.SIGCONT)
        eventually(lambda: states(served) == [False, False], "it is back")

    outcome = under_load(served, hang)
    assert not outcome.failures, outcome
    eventually(lambda: {served.who(), served.who()} == {"one", "two"}, "both serve")


def two_of_which_one_hangs(
    serve: Serve, origin: Origins, more: str = ""
) -> tuple[Served, Origin, Origin]:
    """A proxy that checks two endpoints, of which the first is to have the next request."""
    one, two = origin("one"), origin("two")
    check = f'health_check = {{ path = "/who", {CHECK}{more} }}'
    served = serve(file(None, one.address, two.address, more=check))
    eventually(lambda: states(served) == [False, False], "both are healthy")
    eventually(lambda: served.who() == "two", "it is the first one's turn")
    return served, one, two


def stopped(origin: Origin, number: signal.Signals = signal.SIGSTOP) -> None:
    assert origin.process is not None
    origin.process.send_signal(number)


def test_requests_leave_an_endpoint_that_becomes_unhealthy(serve: Serve, origin: Origins) -> None:
    """Those that wait for its answer and may run twice; the others wait on."""
    served, one, _ = two_of_which_one_hangs(serve, origin)
    stopped(one)
    with served.wire() as first, served.wire() as second, served.wire() as third:
        first.request("GET", "/who")
        eventually(lambda: in_flight(served) == [1, 0], "the first one has it")
        second.request("GET", "/who")
        assert second.response().json()["name"] == "two"
        third.send(b"POST /reply HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        # By nothing but the checks: deadlines are a minute.
        assert first.response().json()["name"] == "two"
        assert states(served) == [True, False]
        stopped(one, signal.SIGCONT)
        answer = third.response()
        assert (answer.status, answer.one("x-origin")) == (200, "one")
    eventually(lambda: served.who() == "one", "it is back")


@pytest.mark.parametrize("resend", [True, False])
def test_requests_stay_where_nobody_is_better(serve: Serve, origin: Origins, resend: bool) -> None:
    """If all are unhealthy at once, what is under way is left alone; or if that is asked for."""
    more = "" if resend else ", resend = false"
    served, one, two = two_of_which_one_hangs(serve, origin, more)
    stopped(one)
    if resend:
        stopped(two)
    with served.wire() as wire:
        wire.request("GET", "/who")
        eventually(lambda: states(served) == [True, resend], "it is noticed")
        wire.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            wire.response()
        wire.socket.settimeout(10)
        stopped(one, signal.SIGCONT)
        stopped(two, signal.SIGCONT)
        # Of two that hang, one is found out first; the other seems to be all right until then.
        assert wire.response().json()["name"] in (["one", "two"] if resend else ["one"])


class Counting:
    """An endpoint that counts the connections that it has at a time; its answers take a while."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Serves each connection in a thread of its own."""
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.open += 1
                self.most = max(self.most, self.open)
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        """Answers requests until the other side closes."""
        with peer, contextlib.suppress(OSError):
            while request := peer.recv(65536):
                time.sleep(0.01)
                closes = b"/close" in request
                more = b"Connection: close\r\n" if closes else b""
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + more + b"\r\nok")
        with self.lock:
            self.open -= 1


def test_connections_to_an_endpoint_are_bounded(serve: Serve) -> None:
    """Idle ones count, whichever thread has them; requests beyond the bound wait their turn."""
    one = Counting()
    served = serve(
        'shards = 3\n[[listener]]\naddress = "127.0.0.1:PORT"\n[[route]]\ncluster = "api"\n'
        "[cluster.api]\n"
        f'endpoints = [{{ address = "127.0.0.1:{one.port}", max_connections = 4 }}]\n'
    )
    asked = itertools.cycle([Ask("/who", size=2)] * 7 + [Ask("/close", size=2)])

    async def run() -> Outcome:
        return await Load(served.port, lambda: asked, 24).run(3.0)

    outcome = asyncio.run(run())
    eventually(lambda: 0 < one.open <= 4, "what is idle is within the bound")
    one.listener.close()
    assert not outcome.failures, outcome
    # A quarter of what four connections can do in that time, at the least.
    assert outcome.answered > 300, outcome
    # The other side notices a moment later that one was closed for the sake of another.
    assert 4 <= one.most <= 8
    assert outcome.slowest < 2, outcome
    shown = served.ask_api("/api/v1/clusters")[0]["endpoints"][0]
    assert (shown["in_flight"], shown["in_flight_max"]) == (0, 4)
