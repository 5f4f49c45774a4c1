"""The files of `examples/edge` beside an nginx that is told the same: who answers, what it sees.

Each file is run as it stands, only its ports are put elsewhere. nginx gets a configuration with the
directives that the file stands for. Both get the same requests, failures and recoveries.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from balancing import FIRST_PORT, Case, Origins, Seen, Server, accepts, drive
from running import PROGRAM, ROOT, Origin, Served, eventually, free_port
from running import Origins as Begin

EXAMPLES = ROOT / "examples" / "edge"
needs_nginx = pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")

NGINX = """
worker_processes 1;
daemon off;
error_log stderr error;
pid FOLDER/nginx.pid;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  upstream copies {
    METHOD
    SERVERS
  }
  server {
    listen 127.0.0.1:PORT;
    server_name api.example.com;
    location / {
      proxy_pass http://copies;
      LOCATION
    }
  }
}
"""
PASSING = """
      proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_connect_timeout 60s;
      proxy_send_timeout 60s;
      proxy_read_timeout 60s;
      proxy_buffering on;
      proxy_buffer_size 4k;
      proxy_buffers 8 4k;
"""


@dataclass
class Example:
    """A file of `examples/edge`, what nginx calls the same, and what is done to both."""

    name: str
    servers: list[str]
    steps: list[str] = field(default_factory=list)
    method: str = ""
    location: str = ""
    fail_timeout: str = ""
    """Instead of the file's half a minute, for tests of what comes after it."""

    def evener(self, ports: dict[int, int], port: int) -> str:
        """The file, with these ports for its own."""
        text = (EXAMPLES / f"{self.name}.toml").read_text()
        for own, other in {**ports, 8080: port}.items():
            assert f":{own}" in text, f"{self.name}.toml names no port {own}"
            text = text.replace(f":{own}", f":{other}")
        return self.shortened(text)

    def nginx(self, ports: dict[int, int], port: int, folder: str) -> str:
        """What nginx is told."""
        servers = [f"server 127.0.0.1:{server};" for server in self.servers]
        text = "\n    ".join(servers)
        for own, other in ports.items():
            text = text.replace(f":{own}", f":{other}")
        words = {"METHOD": self.method, "SERVERS": self.shortened(text)}
        words |= {"LOCATION": self.location, "PORT": str(port), "FOLDER": folder}
        made = NGINX
        for word, value in words.items():
            made = made.replace(word, value)
        return made

    def shortened(self, text: str) -> str:
        """With the shorter time, if there is one."""
        if not self.fail_timeout:
            return text
        return re.sub(r'(fail_timeout ?= ?"?)30s', rf"\g<1>{self.fail_timeout}", text)


PLAIN = ["8001", "8002", "8003", "8004"]
WEIGHTED = ["8001 weight=3", "8002 weight=2", "8003 weight=1", "8004 weight=1"]
FAILING = [f"{server} max_fails=3 fail_timeout=30s" for server in PLAIN] + ["8005 backup"]

GETS = ["get"] * 9
# One that stops is noticed by the request that meets it; then it is left alone for ten seconds.
TROUBLE = [*GETS, "stop 2", *GETS, "stop 4", *GETS, "start 2", "start 4", *GETS]
RECOVERY = [*GETS, "stop 3", *GETS, "start 3", *GETS, "wait 11", *GETS, *GETS]
HELD = ["hold a", "hold b", "hold c", "hold d", "hold e", "get", "get", "get", "end b"]
BUSY = [*HELD, *GETS[:4], "end d", "hold f", *GETS[:5], "end a", "end c", *GETS, "end e", "end f"]
# Three failures, not one, and none of them close together; the backup only when nobody is left.
THIRD = ["stop 1", *GETS, *GETS, "stop 2", "stop 3", *GETS, *GETS, "stop 4", *GETS, *GETS]
BACK = [*THIRD, "start 1", "start 4", *GETS, "wait 4", *GETS, *GETS, "wait 4", *GETS]

CASES = [
    Example("round-robin", PLAIN, TROUBLE, location=PASSING),
    Example("round-robin", PLAIN, RECOVERY, location=PASSING),
    Example("round-robin", PLAIN, ["status 2 503", *GETS, "status 3 500", *GETS], location=PASSING),
    Example("least-conn", PLAIN, [*BUSY, *TROUBLE], "least_conn;"),
    Example("weighted", WEIGHTED, [*GETS, *GETS, *GETS, *TROUBLE]),
    Example("max-fails", FAILING, [*GETS, *THIRD, "start 1", *GETS]),
    Example("max-fails", FAILING, BACK, fail_timeout="2s"),
]


@contextlib.contextmanager
def nginx(example: Example, ports: dict[int, int]) -> Iterator[int]:
    """A running nginx; gives its port."""
    with tempfile.TemporaryDirectory(prefix="evener-nginx-") as folder:
        port = free_port()
        file = Path(folder) / "nginx.conf"
        file.write_text(example.nginx(ports, port, folder))
        command = ["nginx", "-c", str(file), "-p", folder, "-e", "stderr"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: accepts(port), "nginx accepts connections")
            yield port
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def evener(example: Example, ports: dict[int, int], folder: Path) -> Iterator[int]:
    """A running `evener serve`; gives its port."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    served = Served(folder, example.evener(ports, port))
    try:
        eventually(lambda: accepts(port), "Evener accepts connections", 20)
        yield port
    finally:
        served.stop()


def test_the_files_are_right() -> None:
    """`evener check` has nothing to say against any of them."""
    files = sorted(EXAMPLES.glob("*.toml"))
    assert len(files) >= 6
    for file in files:
        done = subprocess.run(
            [str(PROGRAM), "check", "-c", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{file.name}: {done.stdout}{done.stderr}"


def servers(example: Example) -> list[Server]:
    """The origins that stand for a file's copies."""
    return [Server(number + 1) for number in range(len(example.servers))]


def answered(seen: list[Seen]) -> list[tuple[str, int, int]]:
    """Step, status, and the number of who answered."""
    return [(one.step, one.status, one.answered) for one in seen]


@needs_nginx
@pytest.mark.timeout(150)
@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_the_same_copies_answer(example: Example, tmp_path: Path) -> None:
    """Request by request, through failures and recoveries."""
    ports = {8001 + number: FIRST_PORT + number for number in range(len(example.servers))}
    case = Case(example.name, "", servers(example), example.steps)
    told: list[list[tuple[str, int, int]]] = []
    for proxy in (nginx(example, ports), evener(example, ports, tmp_path / "evener")):
        origins = Origins(case.servers)
        try:
            with proxy as port:
                told.append(answered(list(drive(case, port, origins))))
        finally:
            origins.close()
    for number, (theirs, ours) in enumerate(zip(*told, strict=True)):
        assert ours == theirs, f"step {number}; nginx: {theirs}, Evener: {ours}"
    assert {status for _, status, _ in told[1]} <= {0, 200, 500, 503}


def asked_from(source: str, port: int, *lines: str) -> str:
    """What the endpoint sees of a request from this address of the loopback network."""
    with socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0)) as peer:
        fields = "".join(f"{line}\r\n" for line in lines)
        peer.sendall(f"GET /head?a=%20b HTTP/1.1\r\n{fields}Connection: close\r\n\r\n".encode())
        answer = b""
        while piece := peer.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return answer.partition(b"\r\n\r\n")[2].decode()


def fields(head: str) -> dict[str, list[str]]:
    """Names in small letters, and the values of each."""
    found: dict[str, list[str]] = {}
    for line in head.strip().split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


COMPARED = ["host", "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-own", "accept"]
CLIENTS = [
    ("127.0.0.1", ["Host: api.example.com"]),
    ("127.0.0.1", ["Host: API.Example.com:8080", "Accept: */*", "X-Own: 1", "X-Own: 2"]),
    ("127.0.0.1", ["Host: other.test", "X-Forwarded-For: 9.9.9.9"]),
    ("127.0.0.1", ["Host: a.test", "X-Forwarded-For: 9.9.9.9", "X-Real-IP: 7.7.7.7"]),
    ("127.0.0.1", ["Host: a.test", "X-Forwarded-Proto: https", "Keep-Alive: 5", "TE: trailers"]),
    ("127.1.2.3", ["Host: a.test"]),
    ("127.1.2.3", ["Host: a.test", "X-Real-IP: 7.7.7.7", "X-Forwarded-Proto: https"]),
]


@needs_nginx
def test_the_same_head_arrives(origin: Begin, tmp_path: Path) -> None:
    """`Host`, who the client is, how it came; nothing that was for one connection only."""
    example = Example("round-robin", PLAIN, location=PASSING)
    copies: list[Origin] = [origin(name) for name in "abcd"]
    ports = {8001 + number: copy.port for number, copy in enumerate(copies)}
    with nginx(example, ports) as theirs, evener(example, ports, tmp_path / "evener") as ours:
        for source, lines in CLIENTS:
            seen = asked_from(source, ours, *lines)
            model = asked_from(source, theirs, *lines)
            for name in COMPARED:
                own, other = fields(seen).get(name), fields(model).get(name)
                assert own == other, f"{name} of {lines} from {source}: {own}, nginx: {other}"
            assert seen.startswith("GET /head?a=%20b HTTP/1.1\r\n")
            # nginx without `keepalive` closes after each request, and says so; here connections
            # are kept, as by nginx since 1.29.7. What the client says of its own is not passed on.
            assert fields(seen).get("connection") is None
            assert fields(model).get("connection") in (["close"], None)
            assert fields(seen).get("te") is None


@needs_nginx
def test_what_strangers_claim_goes_no_further(origin: Begin, tmp_path: Path) -> None:
    """The one difference: nginx passes on whatever a client says it was forwarded for; Evener, what
    those whom it trusts vouch for.
    """
    example = Example("round-robin", PLAIN, location=PASSING)
    copies: list[Origin] = [origin(name) for name in "abcd"]
    ports = {8001 + number: copy.port for number, copy in enumerate(copies)}
    asked = ("Host: a.test", "X-Forwarded-For: 9.9.9.9")
    with nginx(example, ports) as theirs, evener(example, ports, tmp_path / "evener") as ours:
        theirs_seen = fields(asked_from("127.1.2.3", theirs, *asked))
        ours_seen = fields(asked_from("127.1.2.3", ours, *asked))
        chain = asked_from("127.0.0.1", ours, "Host: a.test", "X-Forwarded-For: 9.9.9.9, 8.8.8.8")
        assert fields(chain)["x-forwarded-for"] == ["8.8.8.8, 127.0.0.1"]
    assert theirs_seen["x-forwarded-for"] == ["9.9.9.9, 127.1.2.3"]
    assert ours_seen["x-forwarded-for"] == ["127.1.2.3"]
    assert theirs_seen["x-real-ip"] == ours_seen["x-real-ip"] == ["127.1.2.3"]


NETWORKS = [f"127.{second}.{third}.1" for second in (0, 1, 9, 77, 200) for third in (0, 3, 50, 254)]


@needs_nginx
def test_clients_stay_at_their_copy(tmp_path: Path) -> None:
    """By three bytes of real addresses; if a copy stops, its clients go where nginx sends them."""
    example = Example("ip-hash", PLAIN, method="ip_hash;")
    ports = {8001 + number: FIRST_PORT + number for number in range(4)}
    told: list[list[int]] = []
    for proxy in (nginx(example, ports), evener(example, ports, tmp_path / "evener")):
        origins = Origins(servers(example))
        try:
            with proxy as port:
                seen = [answerer(port, source) for source in NETWORKS]
                seen += [answerer(port, source.removesuffix("1") + "9") for source in NETWORKS]
                origins.call(origins.by_number[2].stop())
                seen += [answerer(port, source) for source in NETWORKS]
                origins.call(origins.by_number[2].start())
                seen += [answerer(port, source) for source in NETWORKS]
                told.append(seen)
        finally:
            origins.close()
    theirs, ours = told
    assert ours == theirs
    count = len(NETWORKS)
    assert set(ours[:count]) == {1, 2, 3, 4}
    assert ours[:count] == ours[count : 2 * count], "the last byte does not count"
    assert 2 not in ours[2 * count : 3 * count]


def answerer(port: int, source: str) -> int:
    """The number of the copy that answers a client of this address."""
    with socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := peer.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer
    found = re.search(rb"(?i)x-answered: (\d+)", answer)
    assert found, answer
    return int(found[1])
