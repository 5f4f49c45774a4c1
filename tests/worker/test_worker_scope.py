"""The scope of a request: every key of the specification, and where its value comes from."""

from typing import Any

from worker.conftest import Serve
from worker.serving import Worker


def scope(worker: Worker, target: str = "/scope", *fields: str) -> dict[str, Any]:
    with worker.wire() as wire:
        found: dict[str, Any] = wire.get(target, *fields).json()
    return found


def test_every_key_of_the_specification(worker: Worker) -> None:
    found = scope(worker, "/scope?a=1&b=%20")
    assert found == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope",
        "raw_path": {"bytes": "/scope"},
        "query_string": {"bytes": "a=1&b=%20"},
        "root_path": "",
        "headers": [[{"bytes": "host"}, {"bytes": "test"}]],
        "client": None,
        "server": [str(worker.path), None],
        "state": {"from_lifespan": "here", "shared": found["state"]["shared"]},
        "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
    }


def test_headers_keep_order_case_of_values_and_repetition(worker: Worker) -> None:
    found = scope(worker, "/scope", "X-Thing: One", "Cookie: a", "x-thing:  Two  ", "Cookie: b")
    assert [(name["bytes"], value["bytes"]) for name, value in found["headers"]] == [
        ("host", "test"),
        ("x-thing", "One"),
        ("cookie", "a"),
        ("x-thing", "Two"),
        ("cookie", "b"),
    ]


def test_the_path_is_decoded_and_the_raw_path_is_not(worker: Worker) -> None:
    found = scope(worker, "/scope%2F%C3%A9%20%ff%zz?q=%C3")
    assert found["path"] == "/scope/\u00e9 \ufffd%zz"
    assert found["raw_path"] == {"bytes": "/scope%2F%C3%A9%20%ff%zz"}
    assert found["query_string"] == {"bytes": "q=%C3"}


def test_the_edge_tells_client_and_scheme(worker: Worker) -> None:
    fields = ["X-Real-IP: 203.0.113.9", "X-Evener-Client-Port: 4711", "X-Forwarded-Proto: https"]
    found = scope(worker, "/scope", *fields)
    assert found["client"] == ["203.0.113.9", 4711]
    assert found["scheme"] == "https"
    names = [name["bytes"] for name, _ in found["headers"]]
    assert names == ["host", "x-real-ip", "x-evener-client-port", "x-forwarded-proto"]
    assert scope(worker, "/scope", "X-Real-IP: 2001:db8::1")["client"] == ["2001:db8::1", 0]


def test_who_is_not_the_edge_is_not_believed(serve: Serve) -> None:
    worker = serve("applications:app", "--no-proxy-headers")
    found = scope(worker, "/scope", "X-Real-IP: 203.0.113.9", "X-Forwarded-Proto: https")
    assert (found["client"], found["scheme"]) == (None, "http")


def test_the_root_path_goes_before_the_path(serve: Serve) -> None:
    worker = serve("frameworks:mounted", "--root-path", "/api/v1")
    with worker.wire() as wire:
        found = wire.get("/where").json()
    assert found == {
        "root_path": "/api/v1",
        "path": "/api/v1/where",
        "url": "http://test/api/v1/where",
    }


def test_the_server_can_be_told(serve: Serve) -> None:
    worker = serve("applications:app", "--server", "192.0.2.1:8000")
    assert scope(worker)["server"] == ["192.0.2.1", 8000]


def test_methods_and_versions(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.request("PROPFIND", "/scope")
        assert wire.response().json()["method"] == "PROPFIND"
        wire.send("GET /scope HTTP/1.0\r\nHost: a\r\n\r\n")
        assert wire.response().json()["http_version"] == "1.0"


def test_an_absolute_target_and_an_asterisk(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.request("GET", "http://test/scope?x")
        found = wire.response().json()
        assert (found["path"], found["raw_path"]["bytes"]) == ("/scope", "/scope")
        wire.request("OPTIONS", "*")
        assert wire.response().status == 404


def test_the_state_is_copied_for_each_request(worker: Worker) -> None:
    with worker.wire() as wire:
        first, second = wire.get("/state").json(), wire.get("/state").json()
    assert "mine" not in first
    assert "mine" not in second
    assert len(second["shared"]) == len(first["shared"]) + 1
