"""What goes wrong in the application: what the client gets, and what the log says."""

import pytest

from worker.serving import Worker

REQUEST_ID = "X-Request-ID: 01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_an_exception_gives_500_and_its_traceback(worker: Worker) -> None:
    before = worker.words().count("raised before the response")
    with worker.wire() as wire:
        response = wire.get("/raises", REQUEST_ID)
    assert (response.status, response.body) == (500, b"Internal Server Error")
    words = worker.await_words("raised before the response")
    assert "ERROR: request 01ARZ3NDEKTSV4RRFFQ69G5FAV, GET /raises: exception" in words
    assert "applications.py" in words
    assert words.count("ValueError: raised before the response") == before // 2 + 1
    assert "evener/worker.py" not in words, "our own frames are of no interest"


def test_an_exception_after_the_start_still_gives_500(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.get("/raises-after-start").status == 500


def test_an_exception_in_the_body_cuts_the_response(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.request("GET", "/raises-in-body")
        assert wire.head().status == 200
        assert wire.chunk() == b"some"
        with pytest.raises(EOFError):
            wire.chunk()
    worker.await_words("raised in the body")


@pytest.mark.parametrize("path", ["/returns-early", "/returns-nothing"])
def test_an_application_that_does_not_answer(worker: Worker, path: str) -> None:
    with worker.wire() as wire:
        assert wire.get(path).status == 500
    worker.await_words(f"GET {path}: exception")
    worker.await_words("the application ended without completing the response")


def test_an_application_that_is_cancelled(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.get("/cancels-itself").status == 500
        other = worker.wire()
        assert other.get("/hello").status == 200
        other.close()


def test_lengths_that_do_not_match(worker: Worker) -> None:
    with worker.wire() as wire:
        wire.request("GET", "/lengths?5,9")
        with pytest.raises(EOFError):
            wire.response()
    worker.await_words("the body is longer than 'content-length' says")
    with worker.wire() as wire:
        wire.request("GET", "/lengths?9,5")
        with pytest.raises(EOFError):
            wire.response()
    worker.await_words("the body is shorter than 'content-length' says")


START = "{'type': 'http.response.start', 'status': 200, 'headers': []}"
BODY = "{'type': 'http.response.body'}"
TRAILERS = "{'type': 'http.response.trailers'}"


@pytest.mark.parametrize(
    ("messages", "message", "rule"),
    [
        ("['text']", "an ASGI message", "must be a dict, not str"),
        ("[{}]", "an ASGI message", "must have a 'type'"),
        ("[{'type': 'http.response.stop'}]", "http.response.stop", "no such message"),
        ("[{'type': 'websocket.send'}]", "websocket.send", "no such message"),
        (f"[{BODY}]", "http.response.body", "must come after 'http.response.start'"),
        (f"[{START}, {START}]", "http.response.start", "already started"),
        ("[{'type': 'http.response.start'}]", "http.response.start", "'status' is missing"),
        (START.replace("200", "'200'"), "http.response.start", "'status' must be an int"),
        (START.replace("200", "1000"), "http.response.start", "'status' must be an int"),
        (START.replace("200", "100"), "http.response.start", "informational"),
        (START.replace("[]", "5"), "http.response.start", "'headers' must be an iterable"),
        (START.replace("[]", "[('a', 'b')]"), "http.response.start", "pair of bytes"),
        (START.replace("[]", "[(b'a', b'b', b'c')]"), "http.response.start", "pair of bytes"),
        (START.replace("[]", "[(b'a b', b'c')]"), "http.response.start", "not a token"),
        (START.replace("[]", "[(b'', b'c')]"), "http.response.start", "not a token"),
        (START.replace("[]", "[(b'a', b'b\\r\\nc: d')]"), "http.response.start", "control byte"),
        (START.replace("[]", "[(b'content-length', b'x')]"), "http.response.start", "decimal"),
        (f"[{START}, {BODY[:-1]}, 'body': 'text'}}]", "http.response.body", "not str"),
        ("[{'type': 'http.response.early_hint'}]", "http.response.early_hint", "'links'"),
        (
            f"[{START}, {{'type': 'http.response.trailers'}}]",
            "http.response.trailers",
            "it must come after the last",
        ),
    ],
)
def test_a_malformed_message_is_named(
    worker: Worker, messages: str, message: str, rule: str
) -> None:
    if not messages.startswith("["):
        messages = f"[{messages}]"
    with worker.wire() as wire:
        response = wire.post("/message", messages.encode())
    text = response.body.decode()
    if response.status == 418:
        assert text.startswith("evener.MessageError: ")
    else:
        # The response had begun, so the error is in the log.
        text = worker.await_words(rule)
    assert message in text
    assert rule in text


def test_a_message_after_the_end(worker: Worker) -> None:
    with worker.wire() as wire:
        assert wire.post("/message", f"[{START}, {BODY}, {BODY}]".encode()).status == 200
    worker.await_words("ASGI message 'http.response.body': the response is already complete")
