"""Case (b): application servers with one worker, over TCP, at saturation."""

from __future__ import annotations

from dataclasses import dataclass

from sidebyside.load import Load, Request
from sidebyside.measure import under
from sidebyside.serving import SERVERS, server
from sidebyside.session import Session

ITEM = (
    '{"name":"a thing","price":12.5,"tags":["one","two","three","four"],"description":"'
    + "words and more words " * 45
    + '"}'
)
GET = Request("/items/7?q=some", expect={"text": '{"item_id":7,"q":"some"}'})
POST = Request(
    "/items",
    method="POST",
    body=ITEM,
    headers=(("Content-Type", "application/json"),),
    expect={"text": '{"name":"a thing","tags":4,"description":945}'},
)


@dataclass(frozen=True)
class Variant:
    """One application under one load."""

    app: str
    load: Load
    quick: bool = False


def _http(request: Request) -> Load:
    return Load((request,), 64, warm_seconds=0.5)


VARIANTS = {
    "raw ASGI": Variant(
        "served:raw", _http(Request("/", expect={"text": "Hello, world!"})), quick=True
    ),
    "Starlette": Variant("served:starlette", _http(Request("/", expect={"text": "Hello, world!"}))),
    "FastAPI GET": Variant("served:app", _http(GET), quick=True),
    "FastAPI POST 1 kB": Variant("served:app", _http(POST)),
    "FastAPI sync": Variant(
        "served:app", _http(Request("/sync", expect={"text": '{"hello":"world"}'}))
    ),
    "stream of 20 chunks": Variant(
        "served:app", _http(Request("/stream", expect={"filled": 2000}))
    ),
    "64 kB": Variant("served:app", _http(Request("/large", expect={"filled": 65536}))),
    "WebSocket echo 100 B": Variant(
        "served:app", Load((Request("/echo", body="x" * 100),), 64, protocol="websocket")
    ),
}


def measure(session: Session) -> None:
    """All variants over all servers, in interleaved rounds, one application after the other."""
    names = session.wanted(SERVERS)
    for app in ("served:raw", "served:starlette", "served:app"):
        chosen = {
            name: variant
            for name, variant in VARIANTS.items()
            if variant.app == app and session.wants(name, variant.quick)
        }
        if not chosen:
            continue
        path = "/fast" if app == "served:app" else "/"
        makers = {name: server(name, app, path) for name in names}
        with session.deployed("b", makers) as up:
            for name, variant in chosen.items():
                seconds = session.seconds(2.0, quick=1.0)
                for turn in range(session.rounds()):
                    calls = turn == 0 and not session.quick
                    for peer, deployment in up.items():
                        measured = under(variant.load, deployment, seconds, calls)
                        session.note("b", name, peer, turn, measured)
