"""Every endpoint of the example, as its users reach it: httpx, a WebSocket client, a browser."""

import asyncio
import hashlib
import io
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import Browser
from running import Evener, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


@pytest.fixture
def client(shop: Evener) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shop.url(), timeout=20) as client:
        yield client


def test_products(client: httpx.Client) -> None:
    listed = client.get("/products", params={"search": "tree"}).raise_for_status().json()
    assert {"Singletree", "Doubletree, steel"} <= {product["name"] for product in listed}
    new = {"name": "Whiffletree", "price_cents": 4900, "description": "Ash."}
    made = client.post("/products", json=new)
    assert made.status_code == 201
    place = f"/products/{made.json()['id']}"
    assert client.get(place).json() == {**new, "id": made.json()["id"]}
    assert client.put(place, json={**new, "price_cents": 5100}).json()["price_cents"] == 5100
    deleted = client.delete(place)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(place).status_code == 404
    assert client.post("/products", json={"name": ""}).status_code == 422


def test_orders_are_counted(client: httpx.Client) -> None:
    prefix = uuid.uuid4().hex
    for number in range(5):
        taken = client.post("/orders", json={"key": f"{prefix}-{number}", "quantity": 2})
        assert taken.status_code == 201
    count = client.get("/orders/count", params={"prefix": prefix}).json()
    assert count == {"rows": 5, "keys": 5, "twice": []}
    assert len(client.get("/orders", params={"key": f"{prefix}-0"}).json()) == 1
    assert client.post("/orders", json={"key": "x", "product_id": 10**6}).status_code == 409


def test_a_background_task_runs_after_the_answer(client: httpx.Client) -> None:
    noted = client.post("/newsletter", json={"email": "ann@example.org"})
    assert (noted.status_code, noted.json()["confirmed"]) == (202, False)
    place = f"/newsletter/{noted.json()['id']}"
    eventually(lambda: client.get(place).json()["confirmed"], "the task has run")


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_upload_and_download(client: httpx.Client, size: int) -> None:
    content = (b"\x00\xff evener" * (size // 9 + 1))[:size]
    sent = client.post("/files", files={"file": ("a b.bin", io.BytesIO(content), "image/png")})
    assert sent.status_code == 201
    kept = sent.json()
    assert (kept["size"], kept["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    got = client.get(f"/files/{kept['id']}")
    assert got.content == content
    assert got.headers["content-type"] == "image/png"
    assert "filename" in got.headers["content-disposition"]
    if size > 100:
        part = client.get(f"/files/{kept['id']}", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])


def test_events(client: httpx.Client) -> None:
    with client.stream("GET", "/live/events", params={"count": 3, "interval": 0.05}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert [json.loads(line[5:])["number"] for line in lines] == [1, 2, 3]


def test_the_lab(client: httpx.Client) -> None:
    worker = client.get("/lab/worker").json()
    assert worker["thread"] == "MainThread"
    assert client.get("/lab/sync").json()["thread"] != "MainThread"
    assert client.get("/lab/slow", params={"seconds": 0.05}).status_code == 200
    assert client.get("/lab/block", params={"seconds": 0.05}).status_code == 200
    assert len(client.get("/lab/cpu", params={"rounds": 10}).json()["digest"]) == 64
    assert len(client.get("/lab/text/12345").content) == 12345
    assert 800 < len(client.get("/lab/json/1024").content) < 1100
    assert client.get("/lab/stream", params={"chunks": 4, "size": 3}).content == b"012" * 4
    assert client.post("/lab/echo", content=b"hello").content == b"hello"
    assert client.post("/lab/early", content=b"x" * 1000).status_code == 409
    assert client.get("/lab/refuse").headers["x-teapot"] == "short and stout"
    for code in (200, 204, 304, 404, 418, 500, 503):
        assert client.get(f"/lab/status/{code}").status_code == code
    headers = client.get("/lab/headers").headers
    assert "x-private" not in headers
    assert headers["x-public"] == "for the client"
    assert len(headers.get_list("set-cookie")) == 2


def test_an_exception_in_the_application_is_a_500_and_in_the_log(
    client: httpx.Client, shop: Evener
) -> None:
    assert client.get("/lab/error").status_code == 500
    eventually(lambda: "the lab exploded, as asked" in shop.words(), "the traceback is logged")
    assert client.get("/lab/worker").status_code == 200


def test_the_documentation(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json()["info"]["title"] == "The Evener Shop"
    assert "swagger" in client.get("/docs").text.lower()


async def _chat(shop: Evener, room: str) -> None:
    seats = [await connect(shop.url(f"/live/chat/{room}?author=guest{n}", "ws")) for n in range(6)]
    try:
        welcomes = [json.loads(await seat.recv()) for seat in seats]
        assert len({welcome["worker"] for welcome in welcomes}) == 2, "both workers hold seats"
        for number, seat in enumerate(seats):
            await seat.send(f"line {number}")
            for other in seats:
                line = json.loads(await asyncio.wait_for(other.recv(), 10))
                assert line == {"author": f"guest{number}", "text": f"line {number}"}
    finally:
        for seat in seats:
            await seat.close()


def test_the_chat_spans_all_workers(shop: Evener) -> None:
    asyncio.run(_chat(shop, uuid.uuid4().hex))


async def _echo(shop: Evener) -> None:
    messages: list[str | bytes] = [
        "",
        "hello",
        "\u00fc\U0001f40e",
        b"",
        b"\x00\xff",
        "x" * 200_000,
        b"y" * 900_000,
    ]
    async with connect(shop.url("/live/echo", "ws"), subprotocols=["a", "b"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "a"
        for message in messages:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "three ", "pieces"])
        assert await socket.recv() == "in three pieces"
        pong = await socket.ping(b"there?")
        await asyncio.wait_for(pong, 10)
        await socket.close(4001, "enough")
    assert socket.close_code == 4001


def test_websocket_messages(shop: Evener) -> None:
    asyncio.run(_echo(shop))


async def _refused(shop: Evener) -> None:
    try:
        async with connect(shop.url("/live/nowhere", "ws")):
            raise AssertionError("there is nothing at this path")
    except ConnectionClosed as closed:
        raise AssertionError(f"accepted, then closed: {closed}") from None
    except Exception as error:
        assert "403" in str(error) or "404" in str(error), error  # noqa: PT017


def test_a_websocket_where_none_is(shop: Evener) -> None:
    asyncio.run(_refused(shop))


def test_curl_sees_the_page(shop: Evener) -> None:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", shop.url("/")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "<title>The Evener Shop</title>" in done.stdout


def test_a_browser_uses_the_page(shop: Evener, chromium: str, tmp_path: Path) -> None:
    """Products by fetch, ticks by EventSource, an order by POST, a chat by WebSocket."""
    with Browser(chromium, tmp_path / "profile") as browser:
        browser.open(shop.url("/"))
        browser.wait_for("Ash evener")
        browser.wait_for("tick 2 from worker")
        browser.wait_for("in lobby, held by worker")
        line = f"hello {uuid.uuid4().hex}"
        browser.run(f"say.text.value = {line!r}; say.requestSubmit(); 1")
        browser.wait_for(line)
        browser.run("document.getElementById('order').requestSubmit(); 1")
        browser.wait_for("taken by worker")
