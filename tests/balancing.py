"""Scripts of requests, failures and recoveries, and what a proxy makes of them.

A case names the endpoints and the balancing method; its steps are carried out one after the other
against origins in this process, which refuse, answer a status, or keep a request, as the script
says. The same case runs against nginx and against Evener, and, as a transcript of what nginx did,
against the pure policy (`crates/policy/tests/nginx.rs`).
"""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
FIRST_PORT = 18101


@dataclass
class Server:
    """One endpoint, on its own address of the loopback network."""

    number: int
    weight: int = 1
    max_fails: int = 1
    fail_timeout: int = 10
    max_conns: int = 0
    backup: bool = False
    down: bool = False

    @property
    def port(self) -> int:
        """Where it listens."""
        return FIRST_PORT + self.number - 1

    @property
    def address(self) -> str:
        """As nginx's `server` has it."""
        return f"127.0.0.1:{self.port}"

    def __str__(self) -> str:
        text = f"{self.address} weight={self.weight} max_fails={self.max_fails}"
        text += f" fail_timeout={self.fail_timeout}"
        if self.max_conns:
            text += f" max_conns={self.max_conns}"
        return text + " backup" * self.backup + " down" * self.down


@dataclass
class Case:
    """Endpoints, how requests are shared among them, and the steps to take."""

    name: str
    method: str
    servers: list[Server]
    steps: list[str]
    next_upstream: str = "error timeout"
    tries: int = 0
    timeout_ms: int = 0


@dataclass
class Seen:
    """What became of one request: the endpoints that were tried, if known, and the answer."""

    step: str
    second: int
    status: int
    answered: int
    tried: list[int] = field(default_factory=list)


class Origin:
    """One endpoint's server: it refuses, answers a status, or keeps requests, as it is told."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.status = 200
        self.listening: asyncio.Server | None = None
        self.held: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Accepts connections."""
        if self.listening is None:
            self.listening = await asyncio.start_server(
                self.serve, "127.0.0.1", self.server.port, reuse_address=True
            )

    async def stop(self) -> None:
        """Refuses connections; those it has go on."""
        if self.listening is not None:
            self.listening.close()
            self.listening = None

    async def release(self, name: str) -> None:
        """Answers a request that was kept."""
        self.held[name].set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers requests on one connection; each says by whom it was answered."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(content_length(head))
                path = head.split(b" ")[1].decode()
                if path.startswith("/hold/"):
                    name = path.removeprefix("/hold/")
                    self.held[name] = asyncio.Event()
                    await self.held[name].wait()
                if path.startswith("/reset"):
                    writer.transport.abort()
                    return
                answer = f"HTTP/1.1 {self.status} Told\r\nContent-Length: 0\r\n"
                answer += f"X-Answered: {self.server.number}\r\nConnection: close\r\n\r\n"
                writer.write(answer.encode())
                await writer.drain()
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class Origins:
    """The servers of a case, on an event loop of their own."""

    def __init__(self, servers: list[Server]) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.by_number = {server.number: Origin(server) for server in servers}
        for origin in self.by_number.values():
            self.call(origin.start())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs something on the origins' loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def holder(self, name: str) -> Origin | None:
        """Who keeps the request of this name."""
        return next((o for o in self.by_number.values() if name in o.held), None)

    def close(self) -> None:
        """Ends all of them."""
        for origin in self.by_number.values():
            for event in origin.held.values():
                self.loop.call_soon_threadsafe(event.set)
            self.call(origin.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


def ask(port: int, path: str, words: dict[str, str]) -> socket.socket:
    """Sends one request; the answer is left to be read."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=20)
    lines = [f"{words.get('method', 'GET')} {path} HTTP/1.1", "Host: a", "Connection: close"]
    if words.get("method") == "POST":
        lines.append("Content-Length: 0")
    for name in ("key", "client"):
        if name in words:
            lines.append(f"X-{name.title()}: {words[name]}")
    if "client" in words:
        lines.append(f"X-Forwarded-For: {words['client']}")
    peer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return peer


def read(peer: socket.socket) -> tuple[int, int, list[int]]:
    """Status, who answered (0: the proxy itself), and who was tried, where the proxy says so."""
    data = b""
    with peer:
        while part := peer.recv(65536):
            data += part
    head = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:])
    tried = [
        int(address.rpartition(":")[2]) - FIRST_PORT + 1
        for address in fields.get("x-tried", "").split(", ")
        if address.startswith("127.0.0.1:")
    ]
    return int(head[0].split(" ")[1]), int(fields.get("x-answered", "0")), tried


def accepts(port: int) -> bool:
    """Whether something listens at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def steady() -> int:
    """The present second, well away from its ends: windows are counted in whole seconds."""
    while not 0.15 < time.time() % 1 < 0.75:
        time.sleep(0.01)
    return int(time.time())


def drive(case: Case, port: int, origins: Origins) -> Iterator[Seen]:
    """Carries out a case's steps against the proxy at `port`, one after the other."""
    kept: dict[str, tuple[socket.socket, str]] = {}
    start = steady()
    for step in case.steps:
        second = steady() - start
        verb, *rest = step.split(" ")
        words = dict(word.split("=", 1) for word in rest if "=" in word)
        if verb in ("get", "reset"):
            yield Seen(step, second, *read(ask(port, f"/{verb}", words)))
        elif verb == "hold":
            kept[rest[0]] = (ask(port, f"/hold/{rest[0]}", words), step)
            deadline = time.monotonic() + 10
            while (holder := origins.holder(rest[0])) is None:
                assert time.monotonic() < deadline, f"{case.name}: nobody got {step!r}"
                time.sleep(0.002)
            yield Seen(step, second, 0, holder.server.number)
        elif verb == "end":
            peer, _ = kept.pop(rest[0])
            holder = origins.holder(rest[0])
            assert holder is not None
            origins.call(holder.release(rest[0]))
            yield Seen(step, second, *read(peer))
        elif verb == "wait":
            time.sleep(float(rest[0]))
        else:
            origin = origins.by_number[int(rest[0])]
            if verb == "stop":
                origins.call(origin.stop())
            elif verb == "start":
                origins.call(origin.start())
            else:
                assert verb == "status", step
                origin.status = int(rest[1])
            yield Seen(step, second, 0, 0)
    for peer, _ in kept.values():
        peer.close()


def nginx_configuration(case: Case, port: int, folder: str) -> str:
    """What makes nginx do a case."""
    servers = "\n".join(f"    server {server};" for server in case.servers)
    method = "" if case.method == "round_robin" else f"    {case.method};\n"
    return f"""
worker_processes 1;
daemon off;
error_log {folder}/error.log warn;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  set_real_ip_from 127.0.0.1;
  real_ip_header X-Client;
  upstream endpoints {{
    zone endpoints 256k;
{method}{servers}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://endpoints;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream {case.next_upstream};
      proxy_next_upstream_tries {case.tries};
      proxy_next_upstream_timeout {case.timeout_ms}ms;
      proxy_connect_timeout 2s;
      add_header X-Tried $upstream_addr always;
    }}
  }}
}}
"""


def cases() -> list[Case]:
    """Every case; the ones with chance in them are drawn from a fixed seed."""
    chance = random.Random(20261125)
    return [
        *plain_cases(),
        *hashing_cases(chance),
        *failing_cases(),
        *next_upstream_cases(),
        *(wandering_case(chance, number) for number in range(12)),
    ]


def plain_cases() -> list[Case]:
    gets = ["get"] * 21
    return [
        Case("weights 5,1,1", "round_robin", [Server(1, 5), Server(2), Server(3)], gets),
        Case("weights 3,2,1", "round_robin", [Server(1, 3), Server(2, 2), Server(3)], gets),
        Case("down", "round_robin", [Server(1, 2), Server(2, down=True), Server(3)], gets[:9]),
        Case("backup alone is idle", "round_robin", [Server(1), Server(2, backup=True)], gets[:4]),
        Case("one", "round_robin", [Server(1)], ["get", "stop 1", "get", "start 1", "get"]),
        Case(
            "least_conn, busy members",
            "least_conn",
            [Server(1, 2), Server(2), Server(3)],
            [
                "hold a",
                "hold b",
                "hold c",
                "hold d",
                "hold e",
                *gets[:5],
                "end b",
                "end a",
                *gets[:6],
                "hold f",
                "hold g",
                "end c",
                *gets[:4],
            ],
        ),
        Case(
            "max_conns",
            "round_robin",
            [Server(1, max_conns=1), Server(2, max_conns=2), Server(3, max_conns=1, backup=True)],
            [
                "hold a",
                "hold b",
                "hold c",
                "get",
                "hold d",
                "get",
                "end a",
                "get",
                "get",
                "end d",
                "get",
                "end b",
                "get",
                "get",
            ],
        ),
    ]


def address(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return ".".join(str(chance.randrange(1, 255)) for _ in range(4))
    return ":".join(f"{chance.randrange(1, 65536):x}" for _ in range(8))


def hashing_cases(chance: random.Random) -> list[Case]:
    clients = [f"get client={address(chance)}" for _ in range(60)]
    keys = [f"get key=user{chance.randrange(10_000)}" for _ in range(80)]
    three = [Server(1), Server(2), Server(3)]
    weighted = [Server(1, 2), Server(2), Server(3, 3)]
    one_down = [Server(1, 2), Server(2, down=True), Server(3)]
    made = [Case("ip_hash of nobody", "ip_hash", three, ["get"] * 3)]
    for method, steps in (
        ("ip_hash", clients),
        ("hash $http_x_key", keys),
        ("hash $http_x_key consistent", keys),
    ):
        made += [
            Case(f"{method}, equal", method, three, steps),
            Case(f"{method}, weights", method, weighted, steps),
            Case(f"{method}, down", method, one_down, steps),
            Case(f"{method}, two stopped", method, weighted, ["stop 2", "stop 3", *steps[:30]]),
            Case(
                f"{method}, stopped, never disabled",
                method,
                [Server(n, n, max_fails=0) for n in (1, 2, 3)],
                ["stop 2", *steps[:30]],
            ),
        ]
    mostly_down = [Server(n, 20, down=True) for n in (1, 2)] + [Server(3), Server(4), Server(5)]
    many = [f"get key=v{number} client=10.{number}.0.1" for number in range(160)]
    for method in ("ip_hash", "hash $http_x_key"):
        made.append(Case(f"{method}, misses", method, mostly_down, many))
    made.append(Case("hash without a key", "hash $http_x_key", weighted, ["get"] * 6))
    made.append(
        Case("hash consistent without a key", "hash $http_x_key consistent", weighted, ["get"] * 6)
    )
    return made


def failing_cases() -> list[Case]:
    two_seconds = [Server(n, n, max_fails=2, fail_timeout=2) for n in (1, 2, 3)]
    quick = [Server(n, fail_timeout=1) for n in (1, 2)]
    gets = ["get"] * 6
    return [
        Case(
            "out after two, probed after its window, back",
            "round_robin",
            two_seconds,
            [
                *gets,
                "stop 3",
                *gets,
                "wait 3",
                *gets,
                "start 3",
                *gets,
                "wait 3",
                *gets,
                *gets,
                "wait 1",
                *gets,
                *gets,
            ],
        ),
        Case(
            "all out: nobody is left, and each is asked again after its window",
            "round_robin",
            quick,
            [
                "get",
                "stop 1",
                "stop 2",
                "get",
                "get",
                "wait 2",
                "get",
                "get",
                "start 1",
                "get",
                "wait 2",
                "get",
                "get",
                "get",
                "start 2",
                "wait 2",
                "get",
                "get",
                "get",
                "get",
            ],
        ),
        Case(
            "backups serve while the others are out",
            "round_robin",
            [*quick, Server(3, backup=True), Server(4, 2, backup=True)],
            [
                "get",
                "stop 1",
                "get",
                "stop 2",
                "get",
                "get",
                "get",
                "get",
                "start 1",
                "wait 2",
                "get",
                "get",
                "get",
                "stop 3",
                "wait 2",
                "stop 1",
                "get",
                "get",
                "get",
                "get",
            ],
        ),
        Case(
            "one request probes, the others keep away",
            "least_conn",
            [Server(1, fail_timeout=1), Server(2)],
            [
                "stop 1",
                "get",
                "get",
                "start 1",
                "wait 2",
                "hold a",
                "get",
                "get",
                "end a",
                "get",
                "get",
                "wait 1",
                "get",
                "get",
                "get",
            ],
        ),
        Case(
            "a broken connection counts",
            "round_robin",
            [Server(1, 3, max_fails=3), Server(2)],
            ["get", "reset", "get", "get", "get", "reset", "get", "get", "get"],
        ),
    ]


def next_upstream_cases() -> list[Case]:
    four = [Server(n) for n in (1, 2, 3, 4)]
    lasting = [Server(n, max_fails=0) for n in (1, 2, 3)]
    gets = ["get"] * 4
    ill = ["status 1 503", "status 2 503"]
    posts = ["get method=POST"] * 4
    made = [
        Case("503 is passed on", "round_robin", four, [*ill, *gets, *gets]),
        Case("503 moves on and counts", "round_robin", four, [*ill, *gets, *gets], "http_503"),
        Case(
            "tries end with the last answer",
            "round_robin",
            lasting,
            [*ill, "status 3 500", *gets, *gets],
            "error http_503 http_500",
            2,
        ),
        Case(
            "the last answer is not counted",
            "round_robin",
            [Server(1), Server(2)],
            [*ill, "get", "status 1 200", "status 2 200", *gets],
            "error http_503",
        ),
        Case("refused, POST moves on", "round_robin", lasting, ["stop 1", *posts, *posts]),
        Case(
            "503 to POST is passed on", "round_robin", lasting, [*ill, *posts, *posts], "http_503"
        ),
        Case(
            "503 to POST moves on if told so",
            "round_robin",
            lasting,
            [*ill, *posts, *posts],
            "http_503 non_idempotent",
        ),
        Case("off", "round_robin", lasting, ["stop 1", *gets, *gets, "reset"], "off"),
        Case("a reset POST", "round_robin", lasting, ["reset method=POST", *gets]),
        Case("tries without a limit", "round_robin", lasting, ["stop 1", "stop 2", *gets, *gets]),
        Case("one try", "round_robin", lasting, ["stop 1", *gets, *gets], tries=1),
    ]
    for status in (403, 404, 429, 500, 502, 504):
        steps = [f"status 1 {status}", *gets, f"status 2 {status}", *gets, *gets]
        word = f"error http_{status}"
        made.append(Case(f"{status} moves on", "round_robin", four[:2], steps, word))
    return made


def wandering_case(chance: random.Random, number: int) -> Case:
    """Members of all kinds that come and go, and requests that stay, as chance has it."""
    methods = ["round_robin", "least_conn", "ip_hash"]
    methods += ["hash $http_x_key", "hash $http_x_key consistent"]
    method = methods[number % len(methods)]
    servers = [
        Server(n, chance.randrange(1, 6), chance.randrange(0, 3), chance.randrange(1, 4))
        for n in range(1, chance.randrange(4, 7))
    ]
    for server in servers[1:]:
        server.max_conns = chance.choice([0, 0, 2, 3])
        if method in methods[:2]:
            server.backup = chance.random() < 0.2
    up = {server.number for server in servers}
    kept: list[str] = []
    steps = []
    for index in range(60):
        word = chance.choice([f"key=k{chance.randrange(50)}", f"client={address(chance)}"])
        drawn = chance.random()
        if drawn < 0.5:
            steps.append(f"get {word}")
        elif drawn < 0.65 and len(kept) < 3 and 1 in up:
            kept.append(f"h{index}")
            steps.append(f"hold h{index} {word}")
        elif drawn < 0.75 and kept:
            steps.append(f"end {kept.pop(chance.randrange(len(kept)))}")
        elif drawn < 0.82 and len(up) > 1:
            gone = chance.choice(sorted(up - {1}))
            up.discard(gone)
            steps.append(f"stop {gone}")
        elif drawn < 0.92 and len(up) < len(servers):
            back = chance.choice(sorted({server.number for server in servers} - up))
            up.add(back)
            steps.append(f"start {back}")
        elif drawn < 0.95:
            steps.append("wait 1")
        else:
            steps.append(f"get {word}")
    return Case(f"wandering {number}", method, servers, steps)
