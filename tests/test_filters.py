"""What routes do besides passing requests on: rewriting, redirects, fixed answers, CORS, security
headers, compression."""

import gzip
import zlib
from pathlib import Path
from urllib.parse import urlencode

import pytest
from running import Origins, Serve
from wire import Response, Wire
from wire2 import Streams

LISTENER = '[[listener]]\naddress = "127.0.0.1:PORT"\n'


def routed(address: str, more: str, others: str = "") -> str:
    """A file with a route of which this is said, and one that is for `/who`."""
    return (
        f'[[route]]\ncluster = "a"\n{more}\n'
        '[[route]]\npath = { exact = "/who" }\ncluster = "a"\n'
        f'{others}\n[cluster.a]\nendpoints = ["{address}"]\n'
    )


def head_seen(response: Response) -> list[str]:
    """The lines of the request as the origin saw them, from its `/head`."""
    return response.body.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")


def test_requests_are_rewritten(serve: Serve, origin: Origins) -> None:
    """The path loses its prefix or is made anew; fields are renamed, removed, set and added."""
    one = origin("one")
    served = serve(
        routed(
            one.address,
            """path = "/api"
            strip_prefix = "/api"
            rewrite = { regex = "^/v([0-9])/(.*)$", to = "/head?v=$1&of=$2" }
            [route.request_fields]
            rename = { X-Old = "X-New" }
            remove = ["X-Secret", "Accept"]
            set = { Host = "inner.test", X-Client = "$remote_addr", X-Path = "$uri" }
            add = { X-Seen = "edge" }""",
        )
    )
    with served.wire() as wire:
        seen = head_seen(wire.get("/api/head?a=1", "X-Old: 1", "X-Secret: 2", "X-Seen: before"))
        assert seen[0] == "GET /head?a=1 HTTP/1.1"
        assert {"X-New: 1", "Host: inner.test", "X-Client: 127.0.0.1"} <= set(seen)
        assert "X-Path: /api/head" in seen
        assert [line for line in seen if line.startswith("X-Seen")] == [
            "X-Seen: before",
            "X-Seen: edge",
        ]
        assert not [line for line in seen if line.startswith(("X-Secret", "X-Old"))]
        seen = head_seen(wire.get("/api/v2/a%20b?q=%41"))
        assert seen[0] == "GET /head?v=2&of=a%20b&q=%41 HTTP/1.1"
        # What a request says never ends a line of the head.
        seen = head_seen(wire.get("/api/head/%0d%0aX-Evil:1/../../head"))
        assert "X-Evil" not in "".join(line for line in seen if not line.startswith("GET"))
        # A body follows a head that was changed.
        seen_body = wire.post("/api/head", b"the body", "X-Secret: 1").body
        assert seen_body.endswith(b"\r\n\r\nthe body")


def test_paths_that_are_written_otherwise_do_not_get_past_a_prefix(
    serve: Serve, origin: Origins
) -> None:
    """What climbs out of the prefix goes on in its normal form."""
    one = origin("one")
    served = serve(routed(one.address, 'path = "/x"\nstrip_prefix = "/x"'))
    with served.wire() as wire:
        wire.request("GET", "/x/%2e%2e/x/head")
        assert head_seen(wire.response())[0] == "GET /head HTTP/1.1"


def test_request_ids(serve: Serve, origin: Origins) -> None:
    """Kept, made anew, or as the client is trusted; the client may be told."""
    one = origin("one")
    told = 'response_fields = { set = { X-Request-ID = "$request_id" } }'
    served = serve(
        'trusted = "192.0.2.1"\n'
        + LISTENER
        + routed(
            one.address,
            f'request_id = "keep"\n{told}',
            f'[[route]]\npath = "/headers"\ncluster = "a"\nrequest_id = "new"\n{told}',
        )
    )

    def seen(wire: Wire, *fields: str) -> tuple[str | None, str | None]:
        response = wire.get("/head", *fields)
        lines = [line for line in head_seen(response) if line.startswith("X-Request-ID: ")]
        assert len(lines) == 1
        return lines[0].partition(": ")[2], response.one("x-request-id")

    with served.wire() as wire:
        assert seen(wire, "X-Request-ID: mine-1") == ("mine-1", "mine-1")
        made, said = seen(wire)
        assert made == said
        assert made
        assert len(made) == 16
        # What cannot be an id is not taken for one.
        assert seen(wire, "X-Request-ID: " + "x" * 200)[0] != "x" * 200
        fresh = wire.get("/headers", "X-Request-ID: mine-1").one("x-request-id")
        assert fresh
        assert fresh != "mine-1"


def test_redirects_and_answers_of_our_own(serve: Serve, origin: Origins) -> None:
    """They need no cluster, keep the connection, and never let a request write their head."""
    one = origin("one")
    served = serve(
        routed(
            one.address,
            'path = "/passed"',
            """
            [[route]]
            path = "/old"
            redirect = { to = "https://$host/new$uri$is_args$args", status = "301" }
            [[route]]
            path = { regex = "^/item/([0-9]+)$" }
            redirect = "/items?id=$1"
            [[route]]
            path = "/gone"
            respond = 410
            [[route]]
            path = "/hello"
            respond = { body = "{\\"method\\": \\"$request_method\\"}", type = "application/json" }
            response_fields = { set = { X-Fixed = "yes" } }
            [[route]]
            path = "/none"
            respond = 204
            """,
        )
    )
    with served.wire() as wire:
        wire.request("GET", "/old/a%0d%0ab%20c?q=1", host="A.test:8080")
        moved = wire.response()
        assert (moved.status, moved.one("location")) == (
            301,
            "https://a.test/new/old/a%0D%0Ab%20c?q=1",
        )
        item = wire.get("/item/17")
        assert (item.status, item.one("location")) == (307, "/items?id=17")
        assert wire.get("/gone").status == 410
        hello = wire.post("/hello", b"a body that nobody wants")
        assert hello.json() == {"method": "POST"}
        assert (hello.one("content-type"), hello.one("x-fixed")) == ("application/json", "yes")
        wire.request("HEAD", "/hello")
        head = wire.response("HEAD")
        assert (head.status, head.body, head.one("content-length")) == (200, b"", "18")
        none = wire.get("/none")
        assert (none.status, none.one("content-length"), none.body) == (204, None, b"")
        assert wire.get("/who").json()["name"] == "one"
        # Sent ahead, they are answered in order.
        wire.send("GET /gone HTTP/1.1\r\nHost: t\r\n\r\nGET /who HTTP/1.1\r\nHost: t\r\n\r\n")
        assert [wire.response().status, wire.response().status] == [410, 200]
    with served.wire() as wire:
        # A short body is waited for and forgotten, so that the connection goes on.
        wire.send("POST /hello HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n12345")
        wire.send("67890")
        assert wire.response().json() == {"method": "POST"}
        wire.send(
            "POST /gone HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        wire.send("0\r\n\r\n")
        assert wire.response().status == 410
        assert wire.get("/who").status == 200
    with served.wire() as wire:
        # A body that was not read is not taken for the next request.
        wire.send("POST /gone HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\nGET /who")
        refused = wire.response()
        assert refused.status == 410
        assert refused.closes


def test_a_listener_that_sends_everybody_to_https(serve: Serve, origin: Origins) -> None:
    """Whatever the routes say, but not the health paths."""
    one = origin("one")
    served = serve(
        'liveness_path = "/live"\n'
        + LISTENER
        + "https_redirect = 8443\n"
        + routed(one.address, 'path = { exact = "/head" }'),
        ready_path="/live",
    )
    with served.wire() as wire:
        for path in ("/", "/head", "/a?b=c"):
            moved = wire.get(path)
            assert (moved.status, moved.one("location")) == (308, f"https://test:8443{path}")
        assert wire.get("/live").status == 200


def test_security_headers(serve: Serve, origin: Origins) -> None:
    """Added where the application sends none; HSTS never in clear text; errors have them too."""
    one = origin("one")
    served = serve(
        routed(
            one.address,
            "security_headers = { content_security_policy = \"default-src 'self'\" }\n"
            "limits = { body = 10 }",
        )
    )
    with served.wire() as wire:
        plain = wire.get("/who?x")
        own = wire.get("/reply?" + urlencode({"f": "X-Frame-Options: DENY", "size": 16}))
        assert own.all("x-frame-options") == ["DENY"]
        large = wire.post("/reply", b"x" * 20)
        assert large.status == 413
        for response in (own, large):
            assert response.one("x-content-type-options") == "nosniff"
            assert response.one("referrer-policy") == "strict-origin-when-cross-origin"
            assert response.one("content-security-policy") == "default-src 'self'"
            assert response.one("strict-transport-security") is None
        assert plain.one("x-content-type-options") is None, "this is another route"


def test_cors(serve: Serve, origin: Origins) -> None:
    """Preflight requests are answered; other responses say who may read them."""
    one = origin("one")
    served = serve(
        routed(
            one.address,
            """[route.cors]
            origins = ["https://app.test", "https://*.app.test"]
            methods = ["GET", "PUT"]
            headers = ["X-Token", "Content-Type"]
            expose = "X-Total"
            credentials = true
            max_age = "1h" """,
        )
    )
    with served.wire() as wire:

        def preflight(source: str, method: str, headers: str = "") -> Response:
            fields = [f"Origin: {source}", f"Access-Control-Request-Method: {method}"]
            fields += [f"Access-Control-Request-Headers: {headers}"] if headers else []
            wire.request("OPTIONS", "/reply", *fields)
            return wire.response()

        granted = preflight("https://x.app.test", "PUT", "x-token, x-other")
        assert granted.status == 204
        assert granted.one("access-control-allow-origin") == "https://x.app.test"
        assert granted.one("access-control-allow-credentials") == "true"
        assert granted.one("access-control-allow-methods") == "GET, PUT"
        assert granted.one("access-control-allow-headers") == "x-token"
        assert granted.one("access-control-max-age") == "3600"
        assert "Origin" in granted.all("vary")
        for refused in (preflight("https://evil.test", "PUT"), preflight("null", "GET")):
            assert refused.status == 403
            assert refused.one("access-control-allow-origin") is None
            assert "Origin" in refused.all("vary")
        assert preflight("https://app.test", "DELETE").status == 403
        # OPTIONS that is no preflight is the application's.
        wire.request("OPTIONS", "/reply?status=418+Teapot", "Origin: https://app.test")
        assert wire.response().status == 418
        theirs = "Access-Control-Allow-Origin: *"
        read = wire.get("/reply?" + urlencode({"f": theirs}), "Origin: https://app.test")
        assert read.one("access-control-allow-origin") == "https://app.test"
        assert read.one("access-control-expose-headers") == "X-Total"
        assert read.one("vary") == "Origin"
        for fields in ([], ["Origin: https://evil.test"]):
            other = wire.get("/reply?" + urlencode({"f": theirs}), *fields)
            assert other.one("access-control-allow-origin") is None
            assert other.one("vary") == "Origin"


def reply(**asked: object) -> str:
    """A path that the origin answers so."""
    return "/reply?" + urlencode(asked, doseq=True)


def decoded(response: Response) -> bytes:
    """The body without its coding; Zstandard and Brotli are told by what the tools know."""
    coding = response.one("content-encoding")
    if coding == "gzip":
        return gzip.decompress(response.body)
    if coding == "br":
        brotli = pytest.importorskip("brotli")
        return bytes(brotli.decompress(response.body))
    if coding == "zstd":
        zstandard = pytest.importorskip("zstandard")
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(response.body))
    assert coding is None
    return response.body


PLAIN = b"0123456789abcdef" * 1024


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_compression(serve: Serve, origin: Origins, coding: str) -> None:
    """What is worth it is compressed as the client asks, whole or in chunks."""
    one = origin("one")
    served = serve(routed(one.address, "compress = true"))
    accept = f"Accept-Encoding: {coding}"
    fields = ["Content-Type: text/html", 'ETag: "v1"', "Accept-Ranges: bytes"]
    with served.wire() as wire:
        for more in ({}, {"chunked": 1}):
            path = reply(size=len(PLAIN), f=fields, **more)
            response = wire.get(path, accept)
            assert response.one("content-encoding") == coding
            assert len(response.body) < 1000
            assert decoded(response) == PLAIN
            assert response.one("etag") == 'W/"v1"'
            assert response.one("vary") == "Accept-Encoding"
            assert response.one("content-length") is None
            assert response.one("accept-ranges") is None
            plain = wire.get(path)
            assert plain.body == PLAIN
            assert plain.one("etag") == '"v1"'
            assert plain.one("vary") == "Accept-Encoding"


def test_what_is_not_compressed(serve: Serve, origin: Origins) -> None:
    """Encoded already, a part, of another type, short, not to be changed; HEAD and 304."""
    one = origin("one")
    served = serve(routed(one.address, "compress = true"))
    html, tag = "Content-Type: text/html", 'ETag: "v1"'
    with served.wire() as wire:
        for asked in (
            {"f": [html, "Content-Encoding: br"], "size": 8192},
            {"f": [html, "Content-Range: bytes 0-8191/9000"], "size": 8192, "status": "206 P"},
            {"f": ["Content-Type: image/png"], "size": 8192},
            {"f": [html], "size": 512},
            {"f": [html, "Cache-Control: public, no-transform"], "size": 8192},
            {"f": [], "size": 8192},
        ):
            response = wire.get(reply(**asked), "Accept-Encoding: gzip")
            size = asked["size"]
            assert response.one("content-length") == str(size), asked
            assert response.body == PLAIN[: int(str(size))]
        wire.request("HEAD", reply(f=[html, tag], size=8192), "Accept-Encoding: gzip")
        head = wire.response("HEAD")
        assert head.one("content-encoding") == "gzip"
        assert head.one("content-length") is None
        assert (head.one("etag"), head.one("vary")) == ('W/"v1"', "Accept-Encoding")
        fresh = reply(f=[tag], status="304 Not Modified")
        weak = wire.get(fresh, "Accept-Encoding: gzip", 'If-None-Match: W/"v1"')
        assert (weak.status, weak.one("etag"), weak.body) == (304, 'W/"v1"', b"")
        assert weak.one("vary") == "Accept-Encoding"
        strong = wire.get(fresh, "Accept-Encoding: gzip", 'If-None-Match: "v1"')
        assert strong.one("etag") == '"v1"'
        assert wire.get("/who").status == 200
    with served.wire() as wire:
        path = reply(f=[html], size=8192)
        wire.send(f"GET {path} HTTP/1.0\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n")
        old = wire.response()
        assert old.one("content-encoding") is None
        assert old.body == PLAIN[:8192]


def test_events_arrive_when_they_were_sent(serve: Serve, origin: Origins) -> None:
    """A compressed stream is flushed whenever the application pauses."""
    one = origin("one")
    served = serve(routed(one.address, "compress = true"))
    with served.wire() as wire, served.wire() as other:
        wire.request("GET", "/sse", "Accept-Encoding: gzip")
        head = wire.until(b"\r\n\r\n")
        assert b"Content-Encoding: gzip" in head
        inflate = zlib.decompressobj(31)
        text = b""
        for number in range(3):
            while f"data: {number}\n\n".encode() not in text:
                text += inflate.decompress(wire.chunk())
            assert text.count(b"data:") == number + 1
            if number < 2:
                assert other.get("/sse-go").status == 200
        while piece := wire.chunk():
            text += inflate.decompress(piece)
        assert inflate.eof


def test_a_close_delimited_body_is_compressed_to_its_end(serve: Serve, origin: Origins) -> None:
    """The end of the endpoint's connection ends the coding, then the chunks."""
    one = origin("one")
    served = serve(routed(one.address, 'compress = { types = "text/*", codings = "gzip" }'))
    with served.wire() as wire:
        path = "/echo-as-it-comes?text/plain"
        response = wire.post(path, PLAIN * 20, "Accept-Encoding: gzip")
        assert response.one("content-encoding") == "gzip"
        assert decoded(response) == PLAIN * 20
        assert wire.get("/who").status == 200


def test_all_of_it_over_http2(serve: Serve, origin: Origins, tmp_path: Path) -> None:
    """Streams go the same way: compressed, redirected, from a file, with a body nobody wants."""
    one = origin("one")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "large.txt").write_bytes(PLAIN * 64)
    served = serve(
        routed(
            one.address,
            'path = "/reply"\ncompress = true\nsecurity_headers = true',
            f"""
            [[route]]
            path = "/moved"
            redirect = "/elsewhere"
            [[route]]
            path = "/files"
            strip_prefix = "/files"
            files = "{tmp_path}/site"
            """,
        )
    )
    with Streams(served.port) as client:
        path = reply(size=len(PLAIN), f="Content-Type: text/html")
        answer = client.get(path, ("accept-encoding", "gzip"))
        assert answer.one("content-encoding") == "gzip"
        assert gzip.decompress(answer.body) == PLAIN
        assert answer.one("x-content-type-options") == "nosniff"
        stream = client.ask("POST", "/moved", ends=False)
        client.send(stream, b"unwanted", ends=True)
        moved = client.answer(stream)
        assert (moved.status, moved.one("location"), moved.reset) == (307, "/elsewhere", None)
        assert client.get("/files/large.txt").body == PLAIN * 64
        part = client.get("/files/large.txt", ("range", "bytes=1-3"))
        assert (part.status, part.body) == (206, b"123")
