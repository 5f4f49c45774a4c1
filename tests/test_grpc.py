"""gRPC from end to end: a real client, HTTP/2 to us, HTTP/2 to a real server."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from running import ROOT, Serve, Served, eventually, free_port
from test_tls import Authority


class Shop:
    """One gRPC server."""

    def __init__(self, *tls: Path) -> None:
        self.port = free_port()
        command = [sys.executable, str(ROOT / "tests" / "grpc_shop.py"), str(self.port)]
        command += ["--tls", *map(str, tls)] if tls else []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        eventually(self.listens, "the gRPC server listens", 20)

    def listens(self) -> bool:
        """Whether somebody can connect to it."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


Shops = Callable[..., Shop]


@pytest.fixture
def shop() -> Iterator[Shops]:
    """Starts gRPC servers of a test's own."""
    running: list[Shop] = []

    def begin(*tls: Path) -> Shop:
        running.append(Shop(*tls))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def before(serve: Serve, *shops: Shop, more: str = "") -> Served:
    """A proxy before gRPC servers."""
    endpoints = ", ".join(f'"127.0.0.1:{one.port}"' for one in shops)
    served: Served = serve(
        '[[route]]\ncluster = "shop"\n[cluster.shop]\nprotocol = "h2"\n'
        f'policy = "round_robin"\nendpoints = [{endpoints}]\n{more}\n',
        wait=False,
    )
    listening(served)
    return served


def listening(served: Served) -> None:
    """Waits until clients can connect: what is no gRPC gets no answer here."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", served.port)) == 0

    eventually(answers, "it listens", 20)


def call(channel: grpc.Channel, name: str) -> Any:
    """A method of the shop, messages as bytes."""
    kinds = {
        "Many": channel.unary_stream,
        "Endless": channel.unary_stream,
        "Count": channel.stream_unary,
        "Echo": channel.stream_stream,
    }
    return kinds.get(name, channel.unary_unary)(f"/shop.Shop/{name}")


def channel(served: Served) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{served.port}")


def test_all_kinds_of_calls(serve: Serve, shop: Shops) -> None:
    with channel(before(serve, shop())) as shop_:
        answer, told = call(shop_, "One").with_call(b"hello", timeout=15)
        assert answer == b"hello"
        assert ("x-first", "1") in told.initial_metadata()
        trailing = told.trailing_metadata()
        assert ("x-last", "2") in trailing
        assert ("x-bytes-bin", b"\x00\xff") in trailing
        large = bytes(range(256)) * 8_000
        assert call(shop_, "One")(large, timeout=15) == large
        assert len(list(call(shop_, "Many")(b"5000", timeout=15))) == 5000
        assert call(shop_, "Count")((b"x" for _ in range(5000)), timeout=15) == b"5000"
        pieces = [b"%d" % number for number in range(500)]
        assert list(call(shop_, "Echo")(iter(pieces), timeout=15)) == pieces
        with pytest.raises(grpc.RpcError) as failed:
            call(shop_, "Fail")(b"not now", timeout=15)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.value.details() == "not now"


def test_a_conversation_goes_to_and_fro(serve: Serve, shop: Shops) -> None:
    """Each message gets its answer before the next is sent: nothing is held back on the way."""
    with channel(before(serve, shop())) as shop_:
        asked: list[bytes] = []
        heard = 0

        def ask() -> Iterator[bytes]:
            for number in range(20):
                eventually(lambda: heard == len(asked), "the last answer")
                asked.append(b"%d" % number)
                yield asked[-1]

        for answer in call(shop_, "Echo")(ask(), timeout=15):
            assert answer == asked[-1]
            heard += 1
        assert heard == 20


def test_a_cancelled_call_is_cancelled_at_the_server(serve: Serve, shop: Shops) -> None:
    with channel(before(serve, shop())) as shop_:
        endless = call(shop_, "Endless")(b"", timeout=15)
        assert next(endless) == b"tick"
        endless.cancel()
        assert call(shop_, "Cancelled")(b"", timeout=15) == b"yes"
        with pytest.raises(grpc.RpcError) as late:
            list(call(shop_, "Endless")(b"", timeout=0.5))
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_calls_share_connections_and_survive_a_server(serve: Serve, shop: Shops) -> None:
    one, two = shop(), shop()
    served = before(serve, one, two)

    def ask(shop_: grpc.Channel, number: int) -> bool:
        text = b"%d" % number
        return bool(call(shop_, "One")(text, timeout=15) == text)

    with channel(served) as shop_, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda number: ask(shop_, number), range(500)))
        path = Path(f"/proc/{served.pid}/fd")
        assert len(list(path.iterdir())) < 60, "calls share connections"
        two.stop()
        # One that was under way may fail: calls are POSTs, which are not sent twice.
        eventually(lambda: attempt(lambda: ask(shop_, 0)), "the other one answers")
        assert all(pool.map(lambda number: ask(shop_, number), range(100)))


def attempt(question: Callable[[], bool]) -> bool:
    """What is answered, or that nothing was."""
    try:
        return question()
    except grpc.RpcError:
        return False


def test_http1_clients_reach_servers_of_http2(serve: Serve, shop: Shops) -> None:
    """What is no gRPC is answered by the server's own HTTP/2: one protocol in, another out."""
    served = before(serve, shop())
    with served.wire() as wire:
        for _ in range(2):
            wire.request("POST", "/shop.Shop/One", "Content-Type: application/grpc", body=b"\0" * 5)
            response = wire.response()
            assert response.status == 200
            assert ("grpc-status", "0") in response.trailers
            assert response.body == b"\0" * 5


def test_nobody_there(serve: Serve) -> None:
    served = serve(
        '[[route]]\ncluster = "shop"\n[cluster.shop]\nprotocol = "h2"\n'
        f'endpoints = ["127.0.0.1:{free_port()}"]\n',
        wait=False,
    )
    listening(served)
    with channel(served) as shop_:
        with pytest.raises(grpc.RpcError) as failed:
            call(shop_, "One")(b"", timeout=5, wait_for_ready=True)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_health_checks(serve: Serve, shop: Shops) -> None:
    """A server that says NOT_SERVING gets no calls, though it would answer them."""
    well, sick = shop(), shop()
    served = before(
        serve,
        well,
        sick,
        more='[cluster.shop.health_check]\ntype = "grpc"\nservice = "shop.Shop"\n'
        'interval = "100ms"\nrise = 1\nfall = 1\n',
    )

    def healthy() -> int:
        endpoints = served.ask_api("/api/v1/clusters")[0]["endpoints"]
        return sum(not one["unhealthy"] for one in endpoints)

    eventually(lambda: healthy() == 2, "both serve")
    sick.process.send_signal(signal.SIGUSR1)
    eventually(lambda: healthy() == 1, "one is unhealthy")
    assert "NOT_SERVING" in served.words()
    well.stop()
    eventually(lambda: healthy() == 0, "none is left")


def test_a_server_that_hung_is_called_again(serve: Serve, shop: Shops) -> None:
    """Over a new connection: nobody knows what became of the old one."""
    one, two = shop(), shop()
    check = '[cluster.shop.health_check]\ntype = "grpc"\ninterval = "100ms"\ntimeout = "500ms"\n'
    served = before(serve, one, two, more=check)

    def healthy() -> list[bool]:
        shown = served.ask_api("/api/v1/clusters")[0]["endpoints"]
        return [not endpoint["unhealthy"] for endpoint in shown]

    def connections() -> set[str]:
        """Those to the first server, by their near ends."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        port = f":{one.port:04X}"
        return {own for _, own, peer, state, *_ in fields if peer.endswith(port) and state == "01"}

    eventually(lambda: healthy() == [True, True], "both serve")
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        for _ in range(4):
            assert call(channel, "One")(b"a", timeout=15, wait_for_ready=True) == b"a"
        kept = eventually(connections, "it has one")
        one.process.send_signal(signal.SIGSTOP)
        eventually(lambda: healthy() == [False, True], "it hangs")
        for _ in range(4):
            assert call(channel, "One")(b"b", timeout=15) == b"b"
        one.process.send_signal(signal.SIGCONT)
        eventually(lambda: healthy() == [True, True], "it is back")
        for _ in range(4):
            assert call(channel, "One")(b"c", timeout=15) == b"c"
        eventually(lambda: not kept & connections(), "the old one is gone")


@pytest.mark.parametrize(("name", "believed"), [("localhost", True), ("other.test", False)])
def test_health_checks_over_tls(
    serve: Serve, shop: Shops, tmp_path: Path, name: str, believed: bool
) -> None:
    """The server's certificate must be good for checks as well."""
    authority = Authority(tmp_path)
    server = shop(authority.certificate, authority.key)
    served = before(
        serve,
        server,
        more=f'tls = {{ ca = "{authority.pem}", server_name = "{name}" }}\n'
        '[cluster.shop.health_check]\ntype = "grpc"\nservice = "shop.Shop"\n'
        'interval = "100ms"\nhold = true\n',
    )

    def healthy() -> bool:
        shown = served.ask_api("/api/v1/clusters")[0]["endpoints"]
        return not shown[0]["unhealthy"]

    if not believed:
        eventually(lambda: "TLS failed: " in served.words(), "it is said")
        assert not healthy()
        return
    eventually(healthy, "it passes")
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "NOT_SERVING" in served.words(), "it is heard")
    eventually(lambda: not healthy(), "it gets nothing")


def test_over_tls_on_both_sides(serve: Serve, shop: Shops, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = shop(authority.certificate, authority.key)
    served = serve(
        f'[[listener]]\naddress = "127.0.0.1:PORT"\n'
        f'tls = {{ cert = "{authority.certificate}", key = "{authority.key}" }}\n'
        '[[route]]\ncluster = "shop"\n[cluster.shop]\nprotocol = "h2"\n'
        f'endpoints = ["127.0.0.1:{server.port}"]\n'
        f'tls = {{ ca = "{authority.pem}", server_name = "localhost" }}\n',
        wait=False,
    )
    listening(served)
    trusted = grpc.ssl_channel_credentials(authority.pem.read_bytes())
    with grpc.secure_channel(f"localhost:{served.port}", trusted) as shop_:
        assert call(shop_, "One")(b"secret", timeout=15, wait_for_ready=True) == b"secret"
        assert len(list(call(shop_, "Many")(b"100", timeout=15))) == 100
