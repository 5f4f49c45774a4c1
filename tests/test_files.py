"""Folders that routes serve: ranges, conditions, what lies ready compressed, and no way out."""

import email.utils
import getpass
import gzip
import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from running import Origins, Serve, Served, eventually, free_port
from wire import Response, Wire

PAGE = b"<h1>page</h1>\n"
LARGE_BYTES = 8 * 1024 * 1024


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with some files, and a secret beside it."""
    root = tmp_path / "site"
    (root / "docs").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "index.html").write_bytes(PAGE)
    (root / "docs" / "index.html").write_bytes(b"docs\n")
    (root / "digits.txt").write_bytes(b"0123456789" * 10)
    (root / "app.js").write_bytes(b"let a = 1;\n" * 500)
    (root / "app.js.gz").write_bytes(gzip.compress(b"let a = 1;\n" * 500))
    (root / ".env").write_bytes(b"SECRET=1")
    (root / "a b%.txt").write_bytes(b"odd name")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out").symlink_to("../secret")
    (root / "in").symlink_to("digits.txt")
    return root


def files(root: Path, more: str = "", route: str = "") -> str:
    """A file with a route that serves a folder below `/static`, and `/who` for readiness."""
    return (
        f'[[route]]\npath = "/static"\nstrip_prefix = "/static"\n{route}\n'
        f'files = {{ root = "{root}"{more} }}\n'
        '[[route]]\npath = "/who"\nrespond = 200\n'
    )


def test_files_and_folders(serve: Serve, site: Path) -> None:
    """Types, tags, HEAD, index files; a folder without its slash; methods that cannot be."""
    served = serve(files(site, ', cache_control = "max-age=60"'))
    with served.wire() as wire:
        page = wire.get("/static/")
        assert (page.status, page.body) == (200, PAGE)
        assert page.one("content-type") == "text/html; charset=utf-8"
        assert page.one("content-length") == str(len(PAGE))
        assert page.one("accept-ranges") == "bytes"
        assert page.one("cache-control") == "max-age=60"
        modified = email.utils.parsedate_to_datetime(page.one("last-modified") or "")
        assert modified.timestamp() == int((site / "index.html").stat().st_mtime)
        wire.request("HEAD", "/static/index.html")
        head = wire.response("HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.one("content-length") == str(len(PAGE))
        assert head.one("etag") == page.one("etag")
        assert wire.get("/static/docs/").body == b"docs\n"
        moved = wire.get("/static/docs?q=1")
        assert (moved.status, moved.one("location")) == (308, "/static/docs/?q=1")
        moved = wire.get("//static/./docs")
        assert (moved.status, moved.one("location")) == (308, "/static/docs/")
        assert wire.get("/static/a%20b%25.txt").body == b"odd name"
        missing = wire.get("/static/none", "Accept: application/json")
        assert (missing.status, missing.json()["detail"]) == (404, "there is no such file")
        refused = wire.post("/static/index.html", b"x")
        assert (refused.status, refused.one("allow")) == (405, "GET, HEAD")


def test_no_way_out_of_the_folder(serve: Serve, site: Path) -> None:
    """However the path is written, and whatever links there are."""
    served = serve(files(site))
    with served.wire() as wire:
        assert wire.get("/static/in").body == b"0123456789" * 10
        for path in (
            "/static/out",
            "/static/../secret",
            "/static/%2e%2e/secret",
            "/static/..%2fsecret",
            "/static/docs/..%2f..%2f..%2fsecret",
            "/static/%2e%2e%2f%2e%2e/etc/passwd",
            "/static//etc/passwd",
            "/static/digits.txt%00.html",
            "/static/.env",
            "/static/%2eenv",
            "/static/empty/",
            "/static/empty",
            "/static/digits.txt/",
            "/static/%ff%fe",
        ):
            response = wire.get(path)
            assert response.status == 404, path
            assert b"secret" not in response.body.lower()


def test_conditional_requests(serve: Serve, site: Path) -> None:
    """Tags before dates; a file that changes has another tag."""
    served = serve(files(site))
    with served.wire() as wire:
        first = wire.get("/static/digits.txt")
        tag, date = first.one("etag"), first.one("last-modified")
        assert tag
        for field, status in (
            (f"If-None-Match: {tag}", 304),
            (f'If-None-Match: "x", W/{tag}', 304),
            ('If-None-Match: "x"', 200),
            (f"If-Modified-Since: {date}", 304),
            ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", 200),
            (f"If-Match: {tag}", 200),
            ('If-Match: "x"', 412),
            ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", 412),
        ):
            response = wire.get("/static/digits.txt", field)
            assert response.status == status, field
            assert response.one("etag") == tag
            assert bool(response.body) == (status == 200)
        (site / "digits.txt").write_bytes(b"9876543210" * 10)
        second = wire.get("/static/digits.txt", f"If-None-Match: {tag}")
        assert second.status == 200
        assert second.one("etag") != tag


def test_ranges(serve: Serve, site: Path) -> None:
    """One part, several parts, none that can be had, and a part of what has changed."""
    served = serve(files(site))
    whole = (site / "digits.txt").read_bytes()
    with served.wire() as wire:
        tag = wire.get("/static/digits.txt").one("etag")

        def ask(ranges: str, *fields: str) -> Response:
            return wire.get("/static/digits.txt", f"Range: bytes={ranges}", *fields)

        for ranges, start, end in (("0-9", 0, 10), ("95-", 95, 100), ("-3", 97, 100)):
            part = ask(ranges)
            assert (part.status, part.body) == (206, whole[start:end])
            assert part.one("content-range") == f"bytes {start}-{end - 1}/100"
            assert part.one("content-type") == "text/plain; charset=utf-8"
        several = ask("0-1,10-12")
        assert several.status == 206
        kind = several.one("content-type") or ""
        assert kind.startswith("multipart/byteranges; boundary=")
        parts = several.body.split(b"--" + kind.partition("boundary=")[2].encode())
        assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [b"01\r\n", b"012\r\n"]
        assert b"Content-Range: bytes 10-12/100\r\n" in parts[2]
        assert parts[-1] == b"--\r\n"
        beyond = ask("100-")
        assert (beyond.status, beyond.one("content-range")) == (416, "bytes */100")
        assert ask("0-0", f"If-Range: {tag}").status == 206
        assert ask("0-0", 'If-Range: "old"').body == whole
        wire.request("HEAD", "/static/digits.txt", "Range: bytes=0-0")
        assert wire.response("HEAD").status == 200


def test_what_lies_ready_compressed(serve: Serve, site: Path) -> None:
    """It goes to those who take it, with a tag of its own; else it is compressed on the way."""
    served = serve(files(site, route="compress = true"))
    plain = (site / "app.js").read_bytes()
    with served.wire() as wire:
        ready = wire.get("/static/app.js", "Accept-Encoding: gzip, br;q=0.1")
        assert ready.one("content-encoding") == "gzip"
        assert ready.body == (site / "app.js.gz").read_bytes()
        assert ready.one("content-type") == "text/javascript; charset=utf-8"
        assert ready.one("vary") == "Accept-Encoding"
        identity = wire.get("/static/app.js")
        assert (identity.one("vary"), identity.body) == ("Accept-Encoding", plain)
        assert identity.one("etag") != ready.one("etag")
        part = wire.get("/static/app.js", "Accept-Encoding: gzip", "Range: bytes=0-3")
        assert (part.one("content-encoding"), part.body) == ("gzip", ready.body[:4])
        (site / "app.js.gz").unlink()
        made = wire.get("/static/app.js", "Accept-Encoding: gzip")
        assert gzip.decompress(made.body) == plain
        tag = made.one("etag") or ""
        assert tag.startswith('W/"')
        fresh = wire.get("/static/app.js", "Accept-Encoding: gzip", f"If-None-Match: {tag}")
        assert (fresh.status, fresh.one("etag"), fresh.one("vary")) == (304, tag, "Accept-Encoding")
        # A part is one of the file as it is.
        part = wire.get("/static/app.js", "Accept-Encoding: gzip", "Range: bytes=0-3")
        assert (part.status, part.one("content-encoding"), part.body) == (206, None, plain[:4])
        wire.request("HEAD", "/static/app.js", "Accept-Encoding: gzip")
        head = wire.response("HEAD")
        assert (head.one("content-encoding"), head.one("content-length")) == ("gzip", None)


def test_the_application_gets_what_is_no_file(serve: Serve, origin: Origins, site: Path) -> None:
    """Files first, then the cluster, with the path as it was rewritten; or one page for all."""
    one = origin("one")
    served = serve(
        f'[[route]]\ncluster = "a"\nfiles = "{site}"\n'
        f'[[route]]\npath = "/spa"\nstrip_prefix = "/spa"\n'
        f'files = {{ root = "{site}", fallback = "/index.html" }}\n'
        f'[cluster.a]\nendpoints = ["{one.address}"]\n'
    )
    with served.wire() as wire:
        assert wire.get("/digits.txt").status == 200
        assert wire.get("/").body == PAGE
        assert wire.get("/who").json()["name"] == "one"
        assert wire.post("/digits.txt", b"x").body == b"no such behaviour"
        assert wire.get("/empty").body == b"no such behaviour", "no slash is asked for"
        assert wire.get("/spa/some/where").body == PAGE
        assert wire.get("/spa/digits.txt").body != PAGE


def memory(served: Served) -> int:
    """The program's resident memory in bytes."""
    fields = Path(f"/proc/{served.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def test_large_files_and_slow_clients(serve: Serve, site: Path) -> None:
    """A client that does not read costs no memory and holds up nobody; one that does gets all."""
    content = random.Random(1).randbytes(LARGE_BYTES)
    (site / "large").write_bytes(content)
    served = serve(files(site))
    with served.wire() as wire:
        assert wire.get("/static/large").body == content
        before = memory(served)
        lazy = [Wire(served.port) for _ in range(30)]
        for one in lazy:
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.request("GET", "/static/large")
        started = time.monotonic()
        assert wire.get("/static/digits.txt").status == 200
        assert time.monotonic() - started < 1.0
        assert wire.get("/static/large").body == content
        assert memory(served) - before < len(lazy) * 512 * 1024
        for one in lazy:
            one.close()


def test_a_file_that_shrinks_while_it_is_sent(serve: Serve, site: Path) -> None:
    """The client cannot take what it got for the whole."""
    (site / "large").write_bytes(bytes(64 * 1024 * 1024))
    served = serve(files(site))
    with served.wire() as wire:
        wire.request("GET", "/static/large")
        wire.until(b"\r\n\r\n")
        os.truncate(site / "large", 1024)
        with pytest.raises((EOFError, ConnectionError, AssertionError)):
            wire.exactly(64 * 1024 * 1024)
    assert eventually(lambda: served.get("/who").status == 200, "it serves on")


def test_a_folder_that_is_not_there(serve: Serve, tmp_path: Path) -> None:
    """Said before anything is served, with its place."""
    served = serve(files(tmp_path / "none"), wait=False)
    eventually(lambda: served.process.poll() is not None, "it ends")
    assert "evener.toml:7:18: `files`: there is no folder" in served.words()


NGINX = """
user {user};
worker_processes 1;
daemon off;
error_log {folder}/error.log warn;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  types {{ text/html html; text/plain txt; text/javascript js; }}
  charset utf-8;
  charset_types text/plain text/javascript;
  server {{
    listen 127.0.0.1:{port};
    root {site};
    gzip_static on;
    gzip_vary on;
  }}
}}
"""

LONG_AGO = "Sun, 06 Nov 1994 08:49:37 GMT"
ASKED: list[tuple[str, str, list[str]]] = [
    ("GET", "/", []),
    ("HEAD", "/index.html", []),
    ("GET", "/digits.txt", []),
    ("GET", "/./docs/../digits.txt", []),
    ("GET", "/di%67its.txt", []),
    ("GET", "/a%20b%25.txt", []),
    ("GET", "/none", []),
    ("GET", "/docs/", []),
    ("POST", "/digits.txt", []),
    ("GET", "/app.js", ["Accept-Encoding: gzip"]),
    ("GET", "/app.js", ["Accept-Encoding: gzip;q=0"]),
    ("GET", "/app.js", []),
    ("HEAD", "/app.js", ["Accept-Encoding: gzip"]),
    *[
        ("GET", "/digits.txt", [f"Range: bytes={ranges}"])
        for ranges in ("0-9", "95-", "-3", "-300", "99-200", "100-", "200-300", "-0", "0-")
    ],
    ("GET", "/digits.txt", ["Range: bytes=0-0", "If-Range: TAG"]),
    ("GET", "/digits.txt", ["Range: bytes=0-0", 'If-Range: "x"']),
    ("GET", "/digits.txt", ["Range: bytes=0-0", "If-Range: DATE"]),
    ("GET", "/digits.txt", ["Range: bytes=0-0", f"If-Range: {LONG_AGO}"]),
    ("GET", "/digits.txt", ["If-None-Match: TAG"]),
    ("GET", "/digits.txt", ["If-None-Match: W/TAG"]),
    ("GET", "/digits.txt", ['If-None-Match: "x", TAG']),
    ("GET", "/digits.txt", ['If-None-Match: "x"', "If-Modified-Since: DATE"]),
    ("GET", "/digits.txt", ["If-Match: TAG"]),
    ("GET", "/digits.txt", ['If-Match: "x"']),
    ("GET", "/digits.txt", ["If-Match: *"]),
    ("GET", "/digits.txt", ["If-Modified-Since: DATE"]),
    ("GET", "/digits.txt", [f"If-Modified-Since: {LONG_AGO}"]),
    ("GET", "/digits.txt", [f"If-Unmodified-Since: {LONG_AGO}"]),
    ("GET", "/digits.txt", ["If-Unmodified-Since: DATE"]),
]
COMPARED = ("content-type", "content-length", "content-range", "content-encoding", "last-modified")


def answers_of(port: int) -> list[tuple[object, ...]]:
    """What a server says to each of those requests, as far as it can be compared."""
    with Wire(port) as wire:
        first = wire.get("/digits.txt")
        tag, date = first.one("etag") or "", first.one("last-modified") or ""
    told: list[tuple[object, ...]] = []
    for method, path, fields in ASKED:
        filled = [field.replace("TAG", tag).replace("DATE", date) for field in fields]
        with Wire(port) as wire:
            wire.request(method, path, *filled)
            answer = wire.response(method)
        seen: tuple[object, ...] = (method, path, *fields, answer.status)
        if answer.status < 400:
            # Errors have bodies of their own, and nginx types a 304.
            names = COMPARED if answer.status < 300 else ()
            seen += (answer.body, *[answer.one(name) for name in names])
        elif answer.status == 416:
            seen += (answer.one("content-range"),)
        told.append(seen)
    return told


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_files_as_nginx_serves_them(serve: Serve, site: Path, tmp_path: Path) -> None:
    """Status, body, length, type, coding and range of each answer agree."""
    port = free_port()
    (tmp_path / "nginx.conf").write_text(
        NGINX.format(user=getpass.getuser(), folder=tmp_path, port=port, site=site)
    )
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"]
    nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, "nginx listens")
        served = serve(
            f'[[route]]\nfiles = {{ root = "{site}", precompressed = "gzip" }}\n',
            ready_path="/digits.txt",
        )
        ours, theirs = answers_of(served.port), answers_of(port)
    finally:
        nginx.terminate()
        nginx.wait(10)
    assert ours == theirs
    assert {answer[-1] for answer in theirs if 416 in answer} == {"bytes */100"}
