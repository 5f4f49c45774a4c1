"""FastAPI and Starlette applications, and what is usually put around them, run unchanged."""

import asyncio
import contextlib
import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import eventually
from websockets.asyncio.client import unix_connect

from worker.serving import Worker


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def fastapi(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(f"fastapi-{request.param}")
    with Worker(folder, "frameworks:app", "--loop", request.param) as worker:
        yield worker
        worker.terminate()
        assert worker.status() == 0
        assert "fastapi shutdown" in worker.words()


@pytest.fixture
def client(fastapi: Worker) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(fastapi.path))
    with httpx.Client(transport=transport, base_url=fastapi.url, timeout=20) as client:
        client.get("/log")
        yield client


def logged(client: httpx.Client, entry: str) -> None:
    found: list[str] = []

    def there() -> bool:
        found.extend(client.get("/log").json())
        return entry in found

    eventually(there, f"{entry!r} is in the log: {found}")


def test_state_path_and_middleware(client: httpx.Client) -> None:
    response = client.get("/items/7")
    assert response.json() == {"number": 7, "greeting": "from lifespan", "through": "middleware"}
    assert response.headers["x-timing"] == "measured"


def test_validated_json(client: httpx.Client) -> None:
    body = {"name": "thing", "price": 2.5}
    assert client.post("/items", json=body).json() == body
    assert client.post("/items", json={"name": 1}).status_code == 422
    assert client.get("/sync").json() == {"from": "thread"}


def test_gzip(client: httpx.Client) -> None:
    response = client.get("/long", headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["text"].startswith("compress me")
    with client.stream("GET", "/stream", headers={"Accept-Encoding": "gzip"}) as stream:
        raw = b"".join(stream.iter_raw())
    assert gzip.decompress(raw).endswith(b"line 9\n")


def test_cors(client: httpx.Client) -> None:
    origin = {"Origin": "https://example.org"}
    allowed = client.get("/items/1", headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    asked = client.options("/items/1", headers=origin | {"Access-Control-Request-Method": "GET"})
    assert asked.status_code == 200


def test_sessions(client: httpx.Client) -> None:
    assert [client.get("/session").json()["visits"] for _ in range(3)] == [1, 2, 3]


def test_streams_and_files(client: httpx.Client) -> None:
    lines = client.get("/stream").text.splitlines()
    assert lines == [f"line {number}" for number in range(10)]
    whole = client.get("/file", headers={"Accept-Encoding": "identity"})
    assert whole.content == bytes(range(256)) * 40_000
    part = client.get("/file", headers={"Range": "bytes=256-511", "Accept-Encoding": "identity"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))


def test_a_stream_is_closed_when_its_client_goes(client: httpx.Client, fastapi: Worker) -> None:
    for path, entry in [("/endless", "endless closed"), ("/events/endless", "events closed")]:
        with client.stream("GET", path, headers={"Accept-Encoding": "identity"}) as stream:
            next(stream.iter_raw(64))
        logged(client, entry)
    assert "exception in the application" not in fastapi.words().replace("GET /boom: exception", "")


def test_background_tasks_and_dependencies(client: httpx.Client) -> None:
    assert client.get("/background").json() == {"started": True}
    logged(client, "background")
    assert client.get("/depends").json() == {"got": "resource"}
    logged(client, "closed")


def test_anyio_task_groups(client: httpx.Client) -> None:
    assert client.get("/group").json() == [2, 1, 0]


def test_large_multipart_upload(client: httpx.Client) -> None:
    small, large = b"small", bytes(range(256)) * 100_000
    files = [("files", ("a.txt", small)), ("files", ("b.bin", large))]
    found = client.post("/upload", files=files).json()
    sums = [hashlib.sha256(data).hexdigest() for data in (small, large)]
    assert [entry["sum"] for entry in found] == sums
    assert found[1]["size"] == len(large)


def test_server_sent_events(client: httpx.Client) -> None:
    text = client.get("/events").text
    for number in range(3):
        assert f"id: {number}\r\ndata: event {number}\r\n\r\n" in text


def test_an_exception_through_the_middlewares(client: httpx.Client, fastapi: Worker) -> None:
    assert client.get("/boom").status_code == 500
    fastapi.await_words("RuntimeError: boom in FastAPI")
    assert client.get("/items/1").status_code == 200


def test_websockets(client: httpx.Client, fastapi: Worker) -> None:
    async def talk() -> str:
        async with unix_connect(str(fastapi.path), "ws://worker/ws") as socket:
            await socket.send("hello")
            return str(await socket.recv())

    assert asyncio.run(talk()) == '{"you said":"hello"}'
    logged(client, "socket closed")


def test_socket_io(tmp_path: Path) -> None:
    import aiohttp
    import socketio  # type: ignore[import-untyped]

    async def talk(path: str, transports: list[str]) -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            client = socketio.AsyncClient(http_session=session)
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            client.on("answer", answer.set_result)
            await client.connect("http://worker", transports=transports)
            await client.send("hello")
            try:
                return await asyncio.wait_for(answer, 10)
            finally:
                # With polling alone the client waits for a long poll to end before it leaves.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.disconnect(), 1)

    with Worker(tmp_path, "frameworks:events_app") as worker:
        for transports in (["websocket"], ["polling"], ["polling", "websocket"]):
            found = asyncio.run(talk(str(worker.path), transports))
            assert found == {"you said": "hello"}
