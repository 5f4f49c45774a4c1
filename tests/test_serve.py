"""`evener serve`: several clusters, routes, and files that change while requests are under way."""

import asyncio
import itertools
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hanging import thread
from load import Ask, Load
from running import SHOP, Origins, Serve, Served, eventually
from websockets.sync.client import connect


def cluster(name: str, *endpoints: str, more: str = "") -> str:
    """A cluster of the file, its endpoints as TOML."""
    return f"[cluster.{name}]\nendpoints = [{', '.join(endpoints)}]\n{more}\n"


def route(cluster: str, conditions: str = "") -> str:
    """A route of the file."""
    return f'[[route]]\ncluster = "{cluster}"\n{conditions}\n'


def endpoint(address: str, more: str = "") -> str:
    """An endpoint as an inline table."""
    return f'{{ address = "{address}"{", " + more if more else ""} }}'


def test_the_smallest_file(serve: Serve, origin: Origins) -> None:
    """Weights hold, over TCP and unix sockets, and a backup waits until it is needed."""
    one, two, spare = origin("one"), origin("two", unix=True), origin("spare")
    served = serve(
        route("api", 'path = "/"')
        + cluster(
            "api",
            endpoint(one.address, "weight = 3"),
            endpoint(two.address),
            endpoint(spare.address, "backup = true"),
            more='policy = "round_robin"',
        )
    )
    names = [served.who() for _ in range(40)]
    assert Counter(names) == {"one": 30, "two": 10}
    one.stop()
    two.stop()
    assert {served.who() for _ in range(5)} == {"spare"}


def test_routes(serve: Serve, origin: Origins) -> None:
    """Host, path, method, header field and argument decide; nothing for it is 404."""
    names = ["a", "b", "c", "d"]
    origins = {name: origin(name) for name in names}
    served = serve(
        route("a", 'host = "a.test"')
        + route("b", 'host = "*.b.test"\npath = "/who"')
        + route("c", 'path = { exact = "/who" }\nheader = { X-Version = "2" }')
        + route("d", 'path = "/who"\nquery = { to = "d" }')
        + "".join(cluster(name, f'"{origins[name].address}"') for name in names)
    )
    assert served.who(host="A.test:80") == "a"
    assert served.who(host="x.b.test") == "b"
    assert served.who("/who", "X-Version: 2") == "c"
    assert served.who("/who?to=d") == "d"
    with served.wire() as wire:
        # Another way to write a path does not lead past its route.
        wire.request("GET", "/x/../%77ho", host="x.b.test")
        assert wire.response().body == b"no such behaviour"
        plain = wire.get("/who")
        assert plain.status == 404
        assert plain.body == b"404 Not Found: nothing is served here under this host and path\n"
        json = wire.get("/nothing", "Accept: application/json")
        assert json.json() == {
            "status": 404,
            "detail": "nothing is served here under this host and path",
        }
        # The connection goes on, and so does what was sent ahead.
        wire.send("GET /x HTTP/1.1\r\nHost: t\r\n\r\nGET /who HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert [wire.response().status, wire.response().status] == [404, 200]


def test_hash_keeps_to_one_endpoint(serve: Serve, origin: Origins) -> None:
    """Requests with the same cookie go to the same endpoint, others are spread."""
    origins = [origin(str(number)) for number in range(3)]
    served = serve(
        route("api")
        + cluster(
            "api",
            *[f'"{one.address}"' for one in origins],
            more='policy = { hash = "$cookie_user", consistent = true }',
        )
    )
    seen = set()
    for user in range(24):
        answers = {served.who("/who", f"Cookie: a=b; user={user}") for _ in range(3)}
        assert len(answers) == 1
        seen |= answers
    assert seen == {"0", "1", "2"}


def test_cookies_keep_clients_at_their_endpoint(serve: Serve, origin: Origins) -> None:
    """Evener's own cookie is set once, obeyed, and set anew when its endpoint is gone."""
    origins = {name: origin(name) for name in ("one", "two", "three")}
    served = serve(
        route("api")
        + cluster(
            "api",
            *[f'"{one.address}"' for one in origins.values()],
            more='sticky = { cookie = "at", domain = "a.test", same_site = "none", secure = true }',
        )
    )
    with served.wire() as wire:
        first = wire.get("/who")
        name, cookie = first.json()["name"], first.one("set-cookie") or ""
        pair, _, attributes = cookie.partition("; ")
        assert attributes == "Path=/; Domain=a.test; Secure; HttpOnly; SameSite=None"
        assert pair.startswith("at=")
        assert origins[name].address not in pair
        for _ in range(6):
            again = wire.get("/who", f"Cookie: x=y; {pair}")
            assert again.json()["name"] == name
            assert again.one("set-cookie") is None
        assert len({wire.get("/who").json()["name"] for _ in range(6)}) == 3
        assert wire.get("/who", "Cookie: at=nonsense").one("set-cookie")
        origins[name].stop()
        moved = wire.get("/who", f"Cookie: {pair}")
        other = (moved.one("set-cookie") or "").partition(";")[0]
        assert moved.json()["name"] != name
        assert other != pair
        assert wire.get("/who", f"Cookie: {other}").json()["name"] == moved.json()["name"]


def test_cookies_of_the_application_are_learned(serve: Serve, origin: Origins) -> None:
    """Whoever set it gets it back, by any shard."""
    origins = [origin(name) for name in ("one", "two", "three")]
    served = serve(
        "shards = 2\n"
        + '[[listener]]\naddress = "127.0.0.1:PORT"\n'
        + route("api")
        + cluster(
            "api",
            *[f'"{one.address}"' for one in origins],
            more='sticky = { learn = "sid" }',
        )
    )
    homes = {}
    for number in range(9):
        answer = served.get(f"/reply?f=Set-Cookie:+sid%3Ds{number};+Path%3D/")
        assert answer.one("set-cookie") == f"sid=s{number}; Path=/"
        homes[number] = answer.one("x-origin") or ""
    assert set(homes.values()) == {"one", "two", "three"}
    for number, name in homes.items():
        assert [served.who("/who", f"Cookie: sid=s{number}") for _ in range(3)] == [name] * 3


def test_listeners_have_routes_of_their_own(serve: Serve, origin: Origins, tmp_path: Path) -> None:
    """Two listeners, two clusters; a unix socket listens too."""
    front, back = origin("front"), origin("back")
    path = tmp_path / "in.sock"
    served = serve(
        '[[listener]]\naddress = "127.0.0.1:PORT"\n'
        + f'[[listener]]\naddress = "unix:{path}"\nname = "in"\n'
        + route("front")
        + route("back", 'listener = "in"')
        + cluster("front", f'"{front.address}"')
        + cluster("back", f'"{back.address}"')
    )
    assert served.who() == "front"
    answer = eventually(lambda: unix_get(path, "/who"), "an answer over the unix socket")
    assert b'"name": "back"' in answer
    served.stop()
    assert not path.exists()


def unix_get(path: Path, target: str) -> bytes:
    """One GET over a unix socket, the answer as it came."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(path))
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    return answer


def test_the_application_beside_a_cluster(serve: Serve, origin: Origins) -> None:
    """`[app]` is a cluster like others, with workers that `evener workers` shows."""
    other = origin("other")
    served = serve(
        f'[app]\ntarget = "app.main:app"\napp_dir = "{SHOP}"\nworkers = 2\n'
        + route("other", 'path = "/who"')
        + cluster("other", f'"{other.address}"'),
        ready_path="/lab/worker",
        workers=2,
    )
    assert served.who() == "other"
    assert served.get("/lab/text/100").body == served.get("/lab/text/100").body != b""
    assert len(served.ready()) == 2
    before = served.ready()
    assert "read again" in served.tell("reload", "--no-wait").stdout
    eventually(lambda: len(served.ready()) == 2 and not served.ready() & before, "new workers", 30)


def app_with(more: str, workers: int = 2) -> str:
    """The shop, whose workers share requests by these settings."""
    app = f'[app]\ntarget = "app.main:app"\napp_dir = "{SHOP}"\nworkers = {workers}\n'
    return app + (f"[cluster.app]\n{more}\n" if more else "")


def worker(served: Served, query: str = "", *fields: str) -> int:
    """The process id of the worker that answers."""
    answer = served.get(f"/lab/worker{query}", *fields)
    assert answer.status == 200, answer
    pid: int = answer.json()["worker"]
    return pid


def test_workers_are_chosen_as_the_file_says(serve: Serve) -> None:
    """By a text, by a cookie that they set, and again as usual: each by one reload."""
    served = serve(app_with('policy = { hash = "$arg_key" }'), ready_path="/lab/worker", workers=2)
    chosen = {key: {worker(served, f"?key={key}") for _ in range(4)} for key in range(16)}
    assert all(len(pids) == 1 for pids in chosen.values()), chosen
    assert len(set.union(*chosen.values())) == 2, chosen

    reload(served, app_with('sticky = { cookie = "at" }'))
    eventually(lambda: len(served.ready()) == 2, "both workers", 30)
    answer = served.get("/lab/worker")
    cookie = (answer.one("set-cookie") or "").partition(";")[0]
    assert cookie.startswith("at=")
    bound = {worker(served, "", f"Cookie: {cookie}") for _ in range(8)}
    assert bound == {answer.json()["worker"]}

    reload(served, app_with(""))
    eventually(lambda: len(served.ready()) == 2, "both workers", 30)
    assert not served.get("/lab/worker").all("set-cookie")
    assert len({worker(served, "", f"Cookie: {cookie}") for _ in range(8)}) == 2


def test_workers_have_a_breaker_and_hedges(serve: Serve) -> None:
    """A slow worker is asked beside another one; too many errors, and a text stands in."""
    text = app_with(
        'hedge = { after = "50ms" }\nfallback = { status = 503, body = "later" }\n'
        'breaker = { consecutive_failures = 3, open = "1h", open_max = "1h" }'
    )
    served = serve(text, ready_path="/lab/worker", workers=2)
    answer = served.get("/lab/slow?seconds=0.3")
    assert answer.status == 200
    assert served.metric("evener_hedges_total") == 1
    [app] = served.ask_api("/api/v1/clusters")
    assert [one["in_flight"] for one in app["endpoints"]] == [0, 0]
    assert app["breaker"] == "closed"
    for _ in range(3):
        assert served.get("/lab/status/500").status == 500
    answer = served.get("/lab/worker")
    assert (answer.status, answer.body) == (503, b"later")


def requests(path: str = "/who") -> Iterator[Ask]:
    """The same request again and again."""
    return itertools.repeat(Ask(path))


def reload(served: Served, text: str) -> None:
    """Gives a program another file and waits until it works by it."""
    served.write(text)
    served.tell("reload")


def test_a_busy_shard_lets_others_finish(serve: Serve, origin: Origins) -> None:
    """Its scheduling policy is SCHED_BATCH while it has much to do, and else the usual one."""
    head = 'shards = 1\n[[listener]]\naddress = "127.0.0.1:PORT"\n'
    served = serve(head + route("a") + cluster("a", f'"{origin("one").address}"'))
    shard = thread(served.process.pid, "shard-0")
    assert os.sched_getscheduler(shard) == os.SCHED_OTHER

    def trickle() -> bool:
        """A head that comes byte by byte: nothing makes more events with less work."""
        with served.wire() as wire:
            wire.send(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(20_000):
                wire.send(b"a")
                if os.sched_getscheduler(shard) == os.SCHED_BATCH:
                    return True
        return False

    eventually(trickle, "it is busy")

    def quiet() -> bool:
        assert served.who() == "one"
        return os.sched_getscheduler(shard) == os.SCHED_OTHER

    eventually(quiet, "it is quiet", every=0.1)


def test_reload_under_load(serve: Serve, origin: Origins) -> None:
    """Endpoints, clusters, routes and listeners come and go; no request fails."""
    one, two, three = origin("one"), origin("two"), origin("three")
    text = route("a") + cluster("a", f'"{one.address}"')
    other = route("b") + cluster("b", f'"{two.address}"', f'"{three.address}"')
    both = route("a") + cluster("a", f'"{one.address}"', f'"{two.address}"')
    served = serve(text)

    async def trouble(load: Load) -> None:
        loading = asyncio.create_task(load.run(4.0))
        for file in itertools.islice(itertools.cycle([other, both, text]), 12):
            await asyncio.to_thread(reload, served, file)
            await asyncio.sleep(0.1)
        outcome = await loading
        assert outcome.answered > 500, outcome
        assert not outcome.failures, outcome

    asyncio.run(trouble(Load(served.port, requests, 16)))
    assert served.who() == "one"
    # What left the configuration is forgotten once it is idle.
    eventually(
        lambda: [len(c["endpoints"]) for c in served.ask_api("/api/v1/clusters")] == [1],
        "endpoints that left are gone",
    )


def test_long_lived_connections_survive_a_reload(serve: Serve, origin: Origins) -> None:
    """A request, an idle connection and a tunnel outlive the cluster that they began with."""
    one, two = origin("one"), origin("two")
    served = serve(route("a") + cluster("a", f'"{one.address}"'))
    with served.wire() as slow, served.wire() as idle, served.wire() as tunnel:
        assert idle.get("/who").json()["name"] == "one"
        slow.request("GET", "/slow?1.5")
        tunnel.request("GET", "/upgrade", "Connection: upgrade", "Upgrade: echo")
        assert tunnel.response().status == 101
        reload(served, route("b") + cluster("b", f'"{two.address}"'))
        assert idle.get("/who").json()["name"] == "two"
        tunnel.send("still here")
        assert tunnel.exactly(10) == b"still here"
        assert slow.response().status == 200


def test_listeners_that_stay_keep_their_socket(serve: Serve, origin: Origins) -> None:
    """A new listener is opened, one that is gone is closed, one that stays loses nobody."""
    one = origin("one")
    rest = route("a") + cluster("a", f'"{one.address}"')
    served = serve(rest)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        second = probe.getsockname()[1]
    more = f'[[listener]]\naddress = "127.0.0.1:{second}"\n'
    with served.wire() as early:
        reload(served, '[[listener]]\naddress = "127.0.0.1:PORT"\n' + more + rest)
        assert f"127.0.0.1:{second}" in served.tell("status").stdout
        port, served.port = served.port, second
        assert served.who() == "one"
        reload(served, more + rest)
        served.port = port
        # A connection that was accepted before goes on; new ones are refused.
        assert early.get("/who").status == 200
        with socket.socket() as probe:
            eventually(lambda: probe.connect_ex(("127.0.0.1", port)) != 0, "the port is closed")


def test_a_bad_file_changes_nothing(serve: Serve, origin: Origins) -> None:
    """Its errors are logged and told to the one who asked; the old configuration goes on."""
    one = origin("one")
    text = route("a") + cluster("a", f'"{one.address}"')
    served = serve(text)
    served.write(text.replace("cluster", "clutser", 1))
    told = served.tell("reload", check=False)
    assert told.returncode == 1
    assert "unknown key `clutser` in [[route]]; did you mean `cluster`?" in told.stderr
    assert "nothing was changed" in told.stderr
    assert served.who() == "one"
    served.write(
        text + '[[listener]]\naddress = "192.0.2.1:80"\n[[listener]]\naddress = "127.0.0.1:PORT"\n'
    )
    assert "cannot listen on 192.0.2.1:80" in served.tell("reload", check=False).stderr
    assert served.who() == "one"
    served.signal(signal.SIGHUP)
    eventually(lambda: "SIGHUP: cannot listen on" in served.words(), "the error is logged")
    served.write(text)
    served.signal(signal.SIGHUP)
    eventually(lambda: "SIGHUP: the configuration was read again" in served.words(), "a reload")


def test_websockets_of_the_application(serve: Serve) -> None:
    """A WebSocket through a route of the file."""
    served = serve(
        f'[app]\ntarget = "app.main:app"\napp_dir = "{SHOP}"\n', ready_path="/lab/worker", workers=1
    )
    with connect(served.url("/live/echo", "ws")) as stream:
        stream.send("hello")
        assert stream.recv(10) == "hello"
