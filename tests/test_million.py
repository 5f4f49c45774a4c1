"""A million requests through every way to choose an endpoint: all answered right, nothing leaks.

The load is the bench's generator, which checks every answer; with it come 64 connections before
four endpoints that may have 12 requests in flight each, so that requests also wait in the queue,
and a fifth endpoint that nobody listens at. `-s` shows the figures.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import install
import pytest
from running import Serve, Served, eventually, free_port
from sidebyside import load as generator
from sidebyside import running
from sidebyside.load import Load, Request
from sidebyside.places import program
from sidebyside.running import Command, Deployment

REQUESTS = int(os.environ.get("MILLION", "1000000"))
WARM_REQUESTS = REQUESTS // 5
CONNECTIONS = 64
IN_FLIGHT_MAX = 12
WINDOW_SECONDS = 5.0
SHARDS = 2
OWN_DESCRIPTORS = 40
KEYS = 40
BYTES = 300
# What the allocator may keep for itself.
GROWTH_BYTES_MAX = 3_000_000

KEY = '"$http_x_key"'
WAYS = {
    **{
        name: f'policy = "{name}"'
        for name in (
            *("round_robin", "least_conn", "ip_hash", "random", "random_two", "least_time"),
            *("least_in_flight", "power_of_two", "peak_ewma", "first_fit"),
        )
    },
    "least_time of the last byte": 'policy = { least_time = "last_byte", in_flight = true }',
    "hash": f"policy = {{ hash = {KEY} }}",
    "hash consistent": f"policy = {{ hash = {KEY}, consistent = true }}",
    "maglev": f"policy = {{ maglev = {KEY} }}",
    "bounded_load": f"policy = {{ bounded_load = {KEY} }}",
    "sticky route": f"sticky = {KEY}",
    "sticky cookie": 'sticky = { cookie = "copy" }',
    "all checks": (
        'policy = "least_conn"\noutlier = {}\nbreaker = {}\nretry_budget = {}\nslow_start = "5s"\n'
        'health_check = { path = "/bytes/1", interval = "200ms" }\nconcurrency = { first = 40 }'
    ),
}


def request(number: int) -> Request:
    """One of many kinds that are alike but for their keys."""
    fields = (("X-Key", f"user-{number}"), ("X-Forwarded-For", f"10.{number}.7.1"))
    return Request(
        f"/bytes/{BYTES}", f"key {number}", 1.0, headers=fields, expect={"filled": BYTES}
    )


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The origin's four addresses."""
    origin = program("origin")
    if origin is None or program("load") is None:
        install.build(install.PROGRAMS[0])
        origin = program("origin")
    assert origin, "the bench's load generator cannot be built: python bench/install.py"
    found = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    deployment = Deployment(found[0], [Command("origin", [str(origin), *found], found[-1], cpu=1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "RUN", tmp_path_factory.mktemp("origin"))
        deployment.start()
        yield found
        deployment.stop()


def rss(pid: int) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Open ones."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def clients(served: Served) -> int:
    """Connections of clients that are open."""
    found: int = served.ask("status")["traffic"]["connections"]
    return found


def cluster(served: Served) -> Any:
    """The cluster as the admin API shows it."""
    return served.ask_api("/api/v1/clusters")[0]


def send(served: Served, load: Load, count: int) -> int:
    """Sends at least so many, every answer of which must be right; gives their number."""
    done = 0
    while done < count:
        result = generator.run(load, f"127.0.0.1:{served.port}", WINDOW_SECONDS)
        assert not generator.failures(result), generator.failures(result)
        assert result["done_in_window"], "nothing is answered"
        done += result["done_in_window"]
    return done


def at_rest(served: Served) -> bool:
    """Whether nobody has anything in flight, and nobody waits."""
    shown = cluster(served)
    return shown["queued"] == 0 and not any(one["in_flight"] for one in shown["endpoints"])


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_a_million_requests(serve: Serve, addresses: list[str], way: str) -> None:
    """In-flight counts come back to nothing; memory and descriptors stay as they were."""
    endpoints = [
        f'{{ address = "{address}", weight = {4 - index}, max_conns = {IN_FLIGHT_MAX} }}'
        for index, address in enumerate(addresses)
    ]
    endpoints.append(f'{{ address = "127.0.0.1:{free_port()}", max_conns = {IN_FLIGHT_MAX} }}')
    served = serve(
        f'shards = {SHARDS}\n[[listener]]\naddress = "127.0.0.1:PORT"\n[log]\naccess = false\n'
        f'[[route]]\ncluster = "copies"\n[cluster.copies]\n{WAYS[way]}\n'
        f"endpoints = [{', '.join(endpoints)}]\n",
        ready_path="/bytes/1",
    )
    load = Load(tuple(request(number) for number in range(KEYS)), CONNECTIONS)
    warm = send(served, load, WARM_REQUESTS)
    eventually(lambda: at_rest(served), "nothing is in flight")
    before = rss(served.pid), descriptors(served.pid)
    done = warm + send(served, load, REQUESTS - warm)
    eventually(lambda: at_rest(served), "nothing is in flight")
    eventually(lambda: clients(served) == 0, "the load's connections are closed")
    after = rss(served.pid), descriptors(served.pid)
    shown = cluster(served)["endpoints"]
    counts = [one["requests"] for one in shown]
    print(
        f"\n{way}: {done:,} requests; RSS {before[0] / 1e6:.1f} → {after[0] / 1e6:.1f} MB, "
        f"descriptors {before[1]} → {after[1]}; by endpoint {counts}, "
        f"{shown[-1]['failures']} failed attempts, all at the last"
    )
    assert after[0] - before[0] < GROWTH_BYTES_MAX
    # Connections to endpoints are kept for the next request: in each shard, as many as it ever
    # needed at once. The rest is what the program needs for itself.
    kept = SHARDS * len(addresses) * IN_FLIGHT_MAX
    assert after[1] <= kept + OWN_DESCRIPTORS, "descriptors leak"
    assert sum(counts) >= done
    assert all(counts[:4]) or way == "first_fit"
    assert [one["failures"] for one in shown[:4]] == [0] * 4
