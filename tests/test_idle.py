"""Thousands of idle connections cost next to nothing and are in nobody's way."""

import resource
from pathlib import Path

import pytest
from running import Evener, Start, eventually
from wire import Wire

CONNECTIONS = 5000
BYTES_EACH_MAX = 3 * 1024


def memory_bytes(evener: Evener) -> int:
    """The memory of the program's own process that is backed by nothing but memory."""
    for line in Path(f"/proc/{evener.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no RssAnon")


def open_and_ask(port: int) -> Wire:
    """A connection that has had one answer and stays."""
    wire = Wire(port)
    assert wire.get("/lab/text/100").status == 200
    return wire


def test_five_thousand_idle_connections(start: Start) -> None:
    needed = CONNECTIONS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the limit on open files is {hard}, {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    evener = start("--workers", "2", "--timeout-keep-alive", "100", workers=2)
    open_wires = [open_and_ask(evener.port) for _ in range(200)]
    try:
        before = memory_bytes(evener)
        open_wires += [open_and_ask(evener.port) for _ in range(CONNECTIONS)]
        each = (memory_bytes(evener) - before) / CONNECTIONS
        print(f"{each:.0f} bytes for each idle connection")
        assert each <= BYTES_EACH_MAX
        assert evener.get("/lab/worker").status == 200, "others are served meanwhile"
        for wire in open_wires[:: CONNECTIONS // 20]:
            assert wire.get("/lab/worker").status == 200, "and so are they"
    finally:
        for wire in open_wires:
            wire.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_idle_connection_is_closed_in_the_end(start: Start) -> None:
    evener = start("--workers", "1", "--timeout-keep-alive", "1")
    with evener.wire() as wire:
        assert wire.get("/lab/worker").status == 200
        wire.socket.settimeout(5)
        assert wire.is_closed()
    eventually(lambda: evener.get("/lab/worker").status == 200, "new ones are served")
