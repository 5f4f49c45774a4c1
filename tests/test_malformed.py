"""Requests that break the rules are refused and cut off; odd ones that keep them are served."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from running import Evener

CORPUS = Path(__file__).with_name("corpus")


def cases(file: str, bytes_max: int = 10**9) -> list[Any]:
    requests = tomllib.loads((CORPUS / file).read_text())["request"]
    requests = [case for case in requests if len(raw(case)) <= bytes_max]
    return [pytest.param(case, id=case["name"].replace(" ", "-")) for case in requests]


def raw(case: dict[str, Any]) -> bytes:
    def repeated(match: re.Match[bytes]) -> bytes:
        return match[1] * int(match[2])

    return re.sub(rb"<<(.+?)\*(\d+)>>", repeated, case["send"].encode("latin-1"), flags=re.DOTALL)


@pytest.mark.parametrize("case", cases("malformed.toml"))
def test_refused(edge: Evener, case: dict[str, Any]) -> None:
    expected = case["status"] if isinstance(case["status"], list) else [case["status"]]
    with edge.wire() as wire:
        wire.send(raw(case))
        response = wire.response()
        assert response.status in expected, response
        assert response.closes, response
        # What follows a broken request is never read as another one.
        assert wire.is_closed()


@pytest.mark.parametrize("case", cases("malformed.toml", bytes_max=400))
def test_refused_byte_by_byte_alike(edge: Evener, case: dict[str, Any]) -> None:
    expected = case["status"] if isinstance(case["status"], list) else [case["status"]]
    with edge.wire() as wire:
        try:
            for byte in raw(case):
                wire.send(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the end
        assert wire.response().status in expected


@pytest.mark.parametrize("case", cases("unusual.toml"))
def test_served(shop: Evener, case: dict[str, Any]) -> None:
    with shop.wire() as wire:
        wire.send(raw(case))
        response = wire.response()
        assert response.status == case["status"], response
        if b"HTTP/1.1" in raw(case):
            assert wire.get("/lab/worker").status == 200, "the connection stays usable"


def test_what_follows_a_refused_request_never_reaches_a_worker(edge: Evener) -> None:
    smuggled = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n"
    with edge.wire() as wire:
        wire.send(f"{smuggled}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n")
        assert wire.response().status == 400
        assert wire.is_closed()
    assert "smuggled" not in edge.words()


def test_the_refusal_says_what_was_wrong(edge: Evener) -> None:
    with edge.wire() as wire:
        wire.send("GET / HTTP/1.1\r\nHost: t\r\nX-A : b\r\nAccept: text/plain\r\n\r\n")
        response = wire.response()
        assert "text/plain" in (response.one("content-type") or "")
        assert b"field name" in response.body
