"""Raw ASGI applications, one for each path: what the tests of the worker ask for."""

import asyncio
import contextvars
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

seen: dict[str, Any] = {}
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="untouched")
gate = asyncio.Event()


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Hands over to the application of the path."""
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    name = scope["path"].strip("/").partition("/")[0].replace("-", "_") or "hello"
    prefix = "socket_" if scope["type"] == "websocket" else ""
    found: Application = globals().get(prefix + name, missing)
    return await found(scope, receive, send)


async def lifespan(scope: Message, receive: Receive, send: Send) -> None:
    """Leaves something in the state, and says when it ends."""
    await receive()
    scope["state"]["from_lifespan"] = "here"
    scope["state"]["shared"] = []
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("lifespan shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Send, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    """A complete response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def as_json(send: Send, value: Any) -> None:
    await answer(send, json.dumps(value).encode(), 200, (b"content-type", b"application/json"))


async def body_of(receive: Receive) -> tuple[bytes, list[int]]:
    """The whole body, and the sizes of the pieces it came in."""
    body, sizes = b"", []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        sizes.append(len(message["body"]))
        if not message["more_body"]:
            return body, sizes


def plain(value: Any) -> Any:
    """A scope as JSON can hold it."""
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


async def missing(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    await answer(send, b"no such application", 404)


async def hello(scope: Message, receive: Receive, send: Send) -> None:
    await answer(send, b"hello", 200, (b"content-type", b"text/plain"))


async def scope(scope: Message, receive: Receive, send: Send) -> None:
    await as_json(send, plain(scope))


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    body, sizes = await body_of(receive)
    await answer(send, body, 200, (b"x-sizes", json.dumps(sizes).encode()))


async def length(scope: Message, receive: Receive, send: Send) -> None:
    """Reads a body of any size without keeping it."""
    total, pieces, largest = 0, 0, 0
    while True:
        message = await receive()
        total += len(message["body"])
        largest = max(largest, len(message["body"]))
        pieces += 1
        if not message["more_body"]:
            break
    await as_json(send, {"total": total, "pieces": pieces, "largest": largest})


async def unread(scope: Message, receive: Receive, send: Send) -> None:
    """Answers without reading the body."""
    await answer(send, b"did not read it")


async def after_end(scope: Message, receive: Receive, send: Send) -> None:
    """What is received once the body and the response have ended."""
    await body_of(receive)
    await answer(send, b"")
    seen["after_end"] = (await receive())["type"]


async def stream(scope: Message, receive: Receive, send: Send) -> None:
    """Chunks with a pause between them."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(5):
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream_short(scope: Message, receive: Receive, send: Send) -> None:
    """Chunks without a pause."""
    await body_of(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(5):
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def gated(scope: Message, receive: Receive, send: Send) -> None:
    """A first chunk now, the second when /open-gate is asked for."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await gate.wait()
    await send({"type": "http.response.body", "body": b"second"})


async def open_gate(scope: Message, receive: Receive, send: Send) -> None:
    gate.set()
    await answer(send, b"")
    gate.clear()


async def flood(scope: Message, receive: Receive, send: Send) -> None:
    """Streams 64 MB, and notes how much the server has taken so far."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(1024):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        seen["flooded"] = number + 1
    await send({"type": "http.response.body", "body": b""})


async def flooded(scope: Message, receive: Receive, send: Send) -> None:
    await as_json(send, seen.get("flooded", 0))


async def large(scope: Message, receive: Receive, send: Send) -> None:
    """One body of 8 MB."""
    body = bytes(range(256)) * 32768
    await answer(send, body, 200, (b"content-length", b"%d" % len(body)))


async def views(scope: Message, receive: Receive, send: Send) -> None:
    """Bodies that are not `bytes`, headers that are not a list of tuples."""
    headers = iter([[b"X-One", b"1"], (b"x-two", b"2")])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = bytearray(b"bytearray ")
    await send({"type": "http.response.body", "body": body, "more_body": True})
    body[:] = b"changed!!!"
    await send({"type": "http.response.body", "body": memoryview(b"memoryview")})


async def trailers(scope: Message, receive: Receive, send: Send) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
    await send(start)
    await send({"type": "http.response.body", "body": b"data"})
    more = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True}
    await send(more)
    await send({"type": "http.response.trailers", "headers": [(b"x-last", b"2")]})


async def hints(scope: Message, receive: Receive, send: Send) -> None:
    links = [b"</style.css>; rel=preload; as=style", b"</app.js>; rel=preload"]
    await send({"type": "http.response.early_hint", "links": links})
    await answer(send, b"hinted")


async def status(scope: Message, receive: Receive, send: Send) -> None:
    await answer(send, b"body that must not be sent", int(scope["query_string"]))


async def lengths(scope: Message, receive: Receive, send: Send) -> None:
    """Says one content length and sends another."""
    said, sent = map(int, scope["query_string"].split(b","))
    headers = [(b"content-length", b"%d" % said)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * sent})


async def hop(scope: Message, receive: Receive, send: Send) -> None:
    """Fields about the connection, which are not the application's to set."""
    fields = [(b"transfer-encoding", b"gzip"), (b"connection", b"keep-alive, x-foo")]
    await answer(send, b"hop", 200, *fields, (b"x-foo", b"1"))


async def close(scope: Message, receive: Receive, send: Send) -> None:
    await answer(send, b"bye", 200, (b"connection", b"close"))


async def dated(scope: Message, receive: Receive, send: Send) -> None:
    await answer(send, b"", 200, (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"))


async def raises(scope: Message, receive: Receive, send: Send) -> None:
    raise ValueError("raised before the response")


async def raises_after_start(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("raised after the start")


async def raises_in_body(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    await asyncio.sleep(0)
    raise ValueError("raised in the body")


async def returns_early(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def returns_nothing(scope: Message, receive: Receive, send: Send) -> None:
    pass


async def cancels_itself(scope: Message, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


async def message(scope: Message, receive: Receive, send: Send) -> None:
    """Sends what the body says (Python literals), and answers with the error it gets."""
    import ast

    body, _ = await body_of(receive)
    try:
        for sent in ast.literal_eval(body.decode()):
            await send(sent)
    except Exception as error:
        said = f"{type(error).__module__}.{type(error).__name__}: {error}"
        await answer(send, said.encode(), 418)


async def watch(scope: Message, receive: Receive, send: Send) -> None:
    """Waits for the client to go, then tries to send; what came of it is in /watched."""
    await body_of(receive)
    seen["watched"] = None
    if scope["query_string"] == b"streaming":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"chunk", "more_body": True})
    noted = [(await receive())["type"], (await receive())["type"]]
    try:
        await send({"type": "http.response.body", "body": b"more", "more_body": True})
        noted.append("sent")
    except OSError as error:
        noted.append(f"OSError {type(error).__name__}")
    seen["watched"] = noted


async def watched(scope: Message, receive: Receive, send: Send) -> None:
    await as_json(send, seen.get("watched"))


async def stream_until_gone(scope: Message, receive: Receive, send: Send) -> None:
    """Streams without ever receiving; the error of the send ends it."""
    seen["watched"] = None
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await asyncio.sleep(0.01)
    except OSError as error:
        seen["watched"] = ["OSError", type(error).__name__]
        raise


async def slow(scope: Message, receive: Receive, send: Send) -> None:
    await asyncio.sleep(float(scope["query_string"] or b"0.3"))
    await answer(send, b"slow")


async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
    """Takes no notice of anything but being cancelled."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("stubborn was cancelled", flush=True)
        raise


async def until_disconnect(scope: Message, receive: Receive, send: Send) -> None:
    """Streams until it is told that the client has gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await body_of(receive)
    message = await receive()
    print("told:", message["type"], flush=True)


async def background(scope: Message, receive: Receive, send: Send) -> None:
    """Goes on after its response."""
    await answer(send, b"answered")
    await asyncio.sleep(0.3)
    print("background done", flush=True)


async def block(scope: Message, receive: Receive, send: Send) -> None:
    """Holds the loop."""
    time.sleep(float(scope["query_string"]))  # noqa: ASYNC251
    await answer(send, b"blocked")


async def append(scope: Message, receive: Receive, send: Send) -> None:
    """Leaves a mark in a file each time that it runs."""
    with open(os.environ["MARKS"], "a") as marks:  # noqa: ASYNC230, PTH123
        marks.write(scope["query_string"].decode() + "\n")
    await answer(send, b"marked")


async def context(scope: Message, receive: Receive, send: Send) -> None:
    """What the context variable was, and what it is set to for whoever comes next."""
    before = variable.get()
    variable.set("touched")
    await asyncio.sleep(0.01)
    await answer(send, before.encode())


async def state(scope: Message, receive: Receive, send: Send) -> None:
    """The state is the request's own, what it holds is shared."""
    found = plain(scope["state"])
    scope["state"]["mine"] = True
    scope["state"]["shared"].append(1)
    await as_json(send, found)


async def as_task(scope: Message, receive: Receive, send: Send) -> None:
    """Awaitables in places where people put coroutines."""
    first: Message = await asyncio.create_task(receive())  # type: ignore[arg-type]
    waiting = asyncio.ensure_future(receive())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    waiting.cancel()
    try:
        await asyncio.wait_for(receive(), 0.05)
    except TimeoutError:
        timed_out = True
    await asyncio.gather(send({"type": "http.response.start", "status": 200, "headers": []}))
    body = json.dumps([first["type"], len(done), timed_out]).encode()
    await asyncio.create_task(send({"type": "http.response.body", "body": body}))  # type: ignore[arg-type]


async def who(scope: Message, receive: Receive, send: Send) -> None:
    """The task as others see it."""
    task = asyncio.current_task()
    assert task is not None
    stack = [frame.f_code.co_name for frame in task.get_stack()]
    await as_json(send, {"all": task in asyncio.all_tasks(), "stack": stack, "repr": repr(task)})


async def measure(scope: Message, receive: Receive, send: Send) -> None:
    """Objects and memory, for those who look for leaks."""
    import gc

    gc.collect()
    gc.collect()
    with open("/proc/self/statm") as statm:  # noqa: ASYNC230, PTH123
        pages = int(statm.read().split()[1])
    await as_json(
        send,
        {
            "objects": len(gc.get_objects()),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            "rss": pages * os.sysconf("SC_PAGESIZE"),
        },
    )


async def socket_echo(scope: Message, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            seen["disconnect"] = [message["code"], message["reason"]]
            return
        kept = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **kept})


async def disconnect(scope: Message, receive: Receive, send: Send) -> None:
    await as_json(send, seen.pop("disconnect", None))


async def socket_scope(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(plain(scope))})
    await send({"type": "websocket.close"})


async def socket_subprotocol(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    headers = [(b"x-extra", b"yes")]
    chosen = scope["subprotocols"][-1]
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
    await send({"type": "websocket.close", "code": 3001, "reason": "enough"})


async def socket_refuse(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def socket_deny(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    headers = [(b"x-why", b"no room")]
    start = {"type": "websocket.http.response.start", "status": 429, "headers": headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b"come ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"back"})
    seen["denied"] = (await receive())["type"]


async def denied(scope: Message, receive: Receive, send: Send) -> None:
    await as_json(send, seen.pop("denied", None))


async def socket_raises(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    raise ValueError("raised in the socket")


async def socket_raises_first(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("raised before the accept")


async def socket_returns(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})


async def socket_returns_first(scope: Message, receive: Receive, send: Send) -> None:
    await receive()


async def socket_hold(scope: Message, receive: Receive, send: Send) -> None:
    """Accepts and does not read until it is told to by /open-gate; then counts."""
    await receive()
    await send({"type": "websocket.accept"})
    await gate.wait()
    count = 0
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect" or message.get("text") == "end":
            break
        count += 1
    await send({"type": "websocket.send", "text": str(count)})


async def socket_after_disconnect(scope: Message, receive: Receive, send: Send) -> None:
    """Sends when the other side has gone."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    try:
        await send({"type": "websocket.send", "text": "too late"})
        seen["disconnect"] = "sent"
    except OSError as error:
        seen["disconnect"] = f"OSError {type(error).__name__}"


async def socket_message(scope: Message, receive: Receive, send: Send) -> None:
    """Sends the messages that the first text says, and then the error as text."""
    import ast

    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    try:
        for sent in ast.literal_eval(message["text"]):
            await send(sent)
    except Exception as error:
        await send({"type": "websocket.send", "text": f"{type(error).__name__}: {error}"})


async def socket_blast(scope: Message, receive: Receive, send: Send) -> None:
    """Sends 64 MB, and notes how much the server has taken so far."""
    await receive()
    await send({"type": "websocket.accept"})
    for number in range(1024):
        await send({"type": "websocket.send", "bytes": bytes(65536)})
        seen["flooded"] = number + 1
