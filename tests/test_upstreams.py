"""What connections to endpoints are wrapped in, and what those from relays begin with: TLS, and the
PROXY protocol in both directions and both versions."""

import contextlib
import datetime
import hashlib
import socket
import ssl
import struct
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from running import Origins, Serve, Served, eventually, free_port
from test_tls import Authority
from wire2 import Streams

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Endpoint:
    """An endpoint that answers each request with what the connection began with, and its name."""

    def __init__(self, context: ssl.SSLContext | None = None, proxied: bool = False) -> None:
        self.context = context
        self.proxied = proxied
        self.connections = 0
        self.failures: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Serves each connection in a thread of its own."""
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        """Answers requests until the other side closes."""
        said = self.header(peer) if self.proxied else b""
        subject = b""
        try:
            if self.context:
                secured = self.context.wrap_socket(peer, server_side=True)
                subject = repr(secured.getpeercert()).encode()
                peer = secured
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    data = peer.recv(65536)
                    if not data:
                        return
                    request += data
                body = said + b"|" + subject + b"|" + request
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except OSError as error:
            self.failures.append(str(error))

    def header(self, peer: socket.socket) -> bytes:
        """Reads a header of either version, byte by byte so that nothing more is taken."""
        said = peer.recv(1)
        while not said.endswith(b"\r\n") or SIGNATURE.startswith(said):
            data = peer.recv(1)
            if not data:
                return said
            said += data
            binary = said.startswith(SIGNATURE) and len(said) >= 16
            if binary and len(said) == 16 + struct.unpack(">H", said[14:16])[0]:
                return said
        return said

    def stop(self) -> None:
        """Takes no further connections."""
        self.listener.close()


Endpoints = Callable[..., Endpoint]


@pytest.fixture
def endpoint() -> Iterator[Endpoints]:
    """Starts endpoints of a test's own."""
    running: list[Endpoint] = []

    def begin(context: ssl.SSLContext | None = None, *, proxied: bool = False) -> Endpoint:
        running.append(Endpoint(context, proxied))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def before(serve: Serve, address: object, more: str, listener: str = "") -> Served:
    """A proxy before one endpoint."""
    head = f'[[listener]]\naddress = "127.0.0.1:PORT"\n{listener}\n' if listener else ""
    served: Served = serve(
        f'{head}[[route]]\ncluster = "a"\n[cluster.a]\npolicy = "round_robin"\n'
        f'endpoints = ["{address}"]\n{more}\n',
        wait=False,
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", served.port)) == 0

    eventually(answers, "it listens", 20)
    return served


def server_context(authority: Authority, *, asks: bool = False) -> ssl.SSLContext:
    """What an endpoint that speaks TLS shows and asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    if asks:
        context.load_verify_locations(authority.pem)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_tls_to_endpoints(serve: Serve, endpoint: Endpoints, authority: Authority) -> None:
    """The certificate must be signed by `ca` and be for the name; connections are used again."""
    one = endpoint(server_context(authority))
    tls = f'tls = {{ ca = "{authority.pem}", server_name = "localhost" }}'
    served = before(serve, f"127.0.0.1:{one.port}", tls)
    for _ in range(20):
        assert served.get("/x").status == 200
    assert one.connections < 20, "one for each shard"
    named = before(serve, f"localhost:{one.port}", f'tls = {{ ca = "{authority.pem}" }}')
    eventually(lambda: named.get("/x").status == 200, "the name of the address counts")


@pytest.mark.parametrize(
    "case",
    [
        ('{ ca = "PEM", server_name = "other.test" }', 502),
        ('{ ca = "PEM" }', 502),
        ('{ ca = "STRANGER", server_name = "localhost" }', 502),
        ('{ server_name = "localhost" }', 502),
        ("{ verify = false }", 200),
    ],
)
def test_what_is_not_believed(
    serve: Serve,
    endpoint: Endpoints,
    authority: Authority,
    case: tuple[str, int],
) -> None:
    tls, status = case
    folder = authority.folder / "stranger"
    folder.mkdir()
    tls = tls.replace("PEM", str(authority.pem)).replace("STRANGER", str(Authority(folder).pem))
    one = endpoint(server_context(authority))
    served = before(serve, f"127.0.0.1:{one.port}", f"tls = {tls}")
    assert served.get("/x").status == status
    assert ("certificates are not checked" in served.words()) == (status == 200)


def test_a_certificate_is_shown_to_endpoints(
    serve: Serve, endpoint: Endpoints, authority: Authority
) -> None:
    one = endpoint(server_context(authority, asks=True))
    ours = authority.ca.issue_cert("us.test")
    cert = authority.folder / "us.pem"
    ours.private_key_and_cert_chain_pem.write_to_path(str(cert))
    base = f'ca = "{authority.pem}", server_name = "localhost"'
    served = before(serve, f"127.0.0.1:{one.port}", f'tls = {{ {base}, cert = "{cert}" }}')
    assert b"us.test" in served.get("/x").body
    without = before(serve, f"127.0.0.1:{one.port}", f"tls = {{ {base} }}")
    assert without.get("/x").status == 502


def test_files_that_cannot_be_read_are_said(serve: Serve, tmp_path: Path) -> None:
    served = serve(
        f'[[route]]\ncluster = "a"\n[cluster.a]\nendpoints = ["127.0.0.1:{free_port()}"]\n'
        f'tls = {{ ca = "{tmp_path}/none.pem" }}\n',
        wait=False,
    )
    assert served.process.wait(20) != 0
    assert "none.pem" in served.words()
    assert "`cluster.a.tls`" in served.words()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_endpoints_are_told_whose_connection_it_is(
    serve: Serve, endpoint: Endpoints, authority: Authority, version: str, secure: bool
) -> None:
    one = endpoint(server_context(authority) if secure else None, proxied=True)
    more = f'proxy_protocol = "{version}"\n'
    more += f'tls = {{ ca = "{authority.pem}", server_name = "localhost" }}' if secure else ""
    served = before(serve, f"127.0.0.1:{one.port}", more)
    opened = one.connections
    for number in range(3):
        with served.wire() as wire:
            source = wire.socket.getsockname()
            said = wire.get("/x").body.partition(b"|")[0]
        if version == "v1":
            expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {source[1]} {one.port}\r\n".encode()
        else:
            ip = socket.inet_aton("127.0.0.1")
            expected = SIGNATURE + b"\x21\x11\x00\x0c" + ip + ip
            expected += struct.pack(">HH", source[1], one.port)
        assert said == expected
        assert one.connections == opened + number + 1, "each is one client's"


def is_healthy(served: Served) -> bool:
    """What checks of the one endpoint have found."""
    return not served.ask_api("/api/v1/clusters")[0]["endpoints"][0]["unhealthy"]


CHECK = 'path = "/x", interval = "100ms", timeout = "2s", hold = true'


def test_checks_speak_tls(serve: Serve, endpoint: Endpoints, authority: Authority) -> None:
    """By the same rules as requests: whose certificate is not believed is not healthy."""
    one = endpoint(server_context(authority, asks=True))
    ours = authority.folder / "us.pem"
    issued = authority.ca.issue_cert("us.test")
    issued.private_key_and_cert_chain_pem.write_to_path(str(ours))
    tls = f'ca = "{authority.pem}", cert = "{ours}"'
    more = f'tls = {{ {tls}, server_name = "localhost" }}\n'
    check = f'health_check = {{ {CHECK}, body = "us.test", header = {{ Content-Length = "" }} }}'
    served = before(serve, f"127.0.0.1:{one.port}", more + check)
    eventually(lambda: is_healthy(served), "it passes, and has seen our certificate")
    assert served.get("/x").status == 200
    more = f'tls = {{ {tls}, server_name = "other.test" }}\n'
    other = before(serve, f"127.0.0.1:{one.port}", f"{more}health_check = {{ {CHECK} }}")
    eventually(lambda: "is unhealthy: TLS failed: " in other.words(), "it is said")
    assert not is_healthy(other)
    # An authority that is changed counts from the next check on, without a reload of anything else.
    stranger = authority.folder / "stranger"
    stranger.mkdir()
    good = authority.pem.read_bytes()
    authority.pem.write_bytes(Authority(stranger).pem.read_bytes())
    served.tell("reload")
    eventually(lambda: not is_healthy(served), "nobody believes it any more")
    authority.pem.write_bytes(good)
    served.tell("reload")
    eventually(lambda: is_healthy(served), "it is back")


def test_checks_in_clear_text_beside_tls(
    serve: Serve, endpoint: Endpoints, authority: Authority
) -> None:
    """Where another port is asked that does not speak it."""
    one, plain = endpoint(server_context(authority)), endpoint()
    more = f'tls = {{ ca = "{authority.pem}", server_name = "localhost" }}\n'
    ports = f"port = {plain.port}, tls = false"
    served = before(serve, f"127.0.0.1:{one.port}", f"{more}health_check = {{ {CHECK}, {ports} }}")
    eventually(lambda: is_healthy(served), "the other port answers")
    ports = f"port = {plain.port}"
    served = before(serve, f"127.0.0.1:{one.port}", f"{more}health_check = {{ {CHECK}, {ports} }}")
    eventually(lambda: "is unhealthy: " in served.words(), "it does not speak TLS")
    assert not is_healthy(served)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_checks_begin_as_connections_do(serve: Serve, endpoint: Endpoints, version: str) -> None:
    """With a header of the PROXY protocol, which speaks for nobody."""
    one = endpoint(proxied=True)
    said = "PROXY UNKNOWN" if version == "v1" else "QUIT"
    more = f'proxy_protocol = "{version}"\nhealth_check = {{ {CHECK}, body = "{said}" }}'
    served = before(serve, f"127.0.0.1:{one.port}", more)
    eventually(lambda: is_healthy(served), "it passes")
    assert served.get("/x").status == 200


V1 = b"PROXY TCP4 9.8.7.6 1.2.3.4 4321 80\r\n"
V2 = SIGNATURE + b"\x21\x11\x00\x0f" + bytes([9, 8, 7, 6, 1, 2, 3, 4]) + b"\x10\xe1\x00\x50\x04\0\0"
REQUEST = b"GET /head HTTP/1.1\r\nHost: a\r\n\r\n"


def relayed(serve: Serve, origin: Origins, relays: str = '"127.0.0.1"', more: str = "") -> Served:
    """A proxy whose clients come by way of a relay."""
    address = origin("one").address
    return before(serve, address, "", f"proxy_protocol = [{relays}]\n{more}")


@pytest.mark.parametrize("header", [V1, V2])
def test_relays_say_whose_connection_it_is(
    serve: Serve, origin: Origins, authority: Authority, header: bytes
) -> None:
    served = relayed(serve, origin)
    with served.wire() as wire:
        wire.send(header + REQUEST)
        assert b"X-Forwarded-For: 9.8.7.6\r\n" in wire.response().body
        wire.send(REQUEST)
        assert b"X-Forwarded-For: 9.8.7.6\r\n" in wire.response().body, "for all of it"
    with served.wire() as wire:
        for byte in header + REQUEST:
            wire.send(bytes([byte]))
        assert b"X-Forwarded-For: 9.8.7.6\r\n" in wire.response().body
    tls = f'tls = {{ cert = "{authority.certificate}", key = "{authority.key}" }}'
    secure = relayed(serve, origin, more=tls)
    with socket.create_connection(("127.0.0.1", secure.port), 15) as plain:
        plain.sendall(header)
        context = authority.context()
        context.set_alpn_protocols(["http/1.1"])
        with context.wrap_socket(plain, server_hostname="localhost") as tls_socket:
            tls_socket.sendall(REQUEST)
            assert b"X-Forwarded-For: 9.8.7.6\r\n" in tls_socket.recv(65536)


@pytest.mark.parametrize("header", [V1, V2])
def test_relays_over_unix_sockets(
    serve: Serve, origin: Origins, tmp_path: Path, header: bytes
) -> None:
    """All clients of the socket are relays, or none is."""
    path = tmp_path / "front.sock"
    one = origin("one")
    served = serve(
        f'[[listener]]\naddress = "unix:{path}"\nproxy_protocol = "unix"\n'
        '[[listener]]\naddress = "127.0.0.1:PORT"\n[[route]]\ncluster = "a"\n'
        f'[cluster.a]\nendpoints = ["{one.address}"]\n',
    )
    for pieces in ([header + REQUEST], [bytes([byte]) for byte in header + REQUEST]):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            for piece in pieces:
                client.sendall(piece)
            assert b"X-Forwarded-For: 9.8.7.6\r\n" in client.recv(65536)
            client.sendall(REQUEST)
            assert b"X-Forwarded-For: 9.8.7.6\r\n" in client.recv(65536), "for all of it"
    for bad in (REQUEST, b"PROXY nonsense\r\n" + REQUEST, b"PROXY " + b"x" * 2000):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(bad)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(65536) == b""
    with served.wire() as wire:
        assert b"9.8.7.6" not in wire.get("/head").body, "the other listener has no relays"


def test_relays_may_speak_for_themselves(serve: Serve, origin: Origins) -> None:
    served = relayed(serve, origin)
    for header in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"):
        with served.wire() as wire:
            wire.send(header + REQUEST)
            assert b"X-Forwarded-For: 127.0.0.1\r\n" in wire.response().body


@pytest.mark.parametrize(
    "bad",
    [
        REQUEST,
        b"PROXY TCP4 9.8.7.6 1.2.3.4 4321\r\n" + REQUEST,
        b"PROXY TCP4 9.8.7.6 1.2.3.4 99999 80\r\n" + REQUEST,
        b"PROXY " + b"x" * 200 + REQUEST,
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12) + REQUEST,
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(12) + REQUEST,
        SIGNATURE + b"\x21\x11\x00\x02" + bytes(12) + REQUEST,
    ],
)
def test_malformed_headers_end_the_connection(serve: Serve, origin: Origins, bad: bytes) -> None:
    served = relayed(serve, origin)
    with served.wire() as wire:
        wire.send(bad)
        with contextlib.suppress(ConnectionResetError):
            assert wire.rest() == b""


def test_only_relays_are_believed(serve: Serve, origin: Origins) -> None:
    served = relayed(serve, origin, '"10.0.0.0/8"')
    with served.wire() as wire:
        wire.send(V1 + REQUEST)
        assert wire.response().status == 400, "a stranger's claim is no request"
    with served.wire() as wire:
        wire.send(REQUEST)
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in wire.response().body


def test_a_header_that_never_comes(serve: Serve, origin: Origins) -> None:
    address = origin("one").address
    served = before(
        serve,
        address,
        '[timeouts]\nheader_read = "500ms"',
        'proxy_protocol = ["127.0.0.1"]',
    )
    with served.wire() as wire:
        wire.send(V1[:10])
        assert wire.is_closed()


def test_http2_behind_a_relay(serve: Serve, origin: Origins) -> None:
    served = relayed(serve, origin)
    with Streams(served.port, first=V2) as client:
        assert b"X-Forwarded-For: 9.8.7.6\r\n" in client.get("/head").body


def test_certificates_of_clients_are_told_to_applications(
    serve: Serve, origin: Origins, authority: Authority
) -> None:
    """Over both protocols; what a stranger claims by itself is not passed on."""
    ours = authority.ca.issue_cert("client.test")
    cert = authority.folder / "client.pem"
    ours.private_key_and_cert_chain_pem.write_to_path(str(cert))
    tls = f'cert = "{authority.certificate}", key = "{authority.key}"'
    served = before(
        serve,
        origin("one").address,
        "",
        f'tls = {{ {tls}, client_ca = "{authority.pem}", client_optional = true }}',
    )
    context = authority.context()
    forged = ("x-forwarded-client-cert", "Hash=00;DNS=forged.test")
    with Streams(served.port, context) as client:
        nobody = client.get("/head").body
        assert b"client-cert" not in nobody.lower()
    context.load_cert_chain(cert)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ours.cert_chain_pems[0].bytes().decode()))
    for protocol in ("h2", "http/1.1"):
        if protocol == "h2":
            with Streams(served.port, context) as client:
                seen = client.get("/head", forged).body.decode()
        else:
            context.set_alpn_protocols([protocol])
            with (
                socket.create_connection(("127.0.0.1", served.port), 15) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secured,
            ):
                field = ": ".join(forged)
                request = f"GET /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n"
                secured.sendall(request.encode())
                seen = ""
                while piece := secured.recv(65536):
                    seen += piece.decode()
        lines = [line for line in seen.split("\r\n") if "client-cert" in line.lower()]
        assert len(lines) == 1, protocol
        value = lines[0].partition(": ")[2]
        subject = openssl_subject(cert)
        begin = f'Hash={digest.hexdigest()};Subject="{subject}";DNS=client.test;Cert='
        assert value.startswith(begin), value
        pem = urllib.parse.unquote(value.partition('Cert="')[2].rstrip('"'))
        assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest() == digest.digest()


def openssl_subject(certificate: Path) -> str:
    """The subject as OpenSSL has it in the form of RFC 2253."""
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-subject"]
    command += ["-nameopt", "RFC2253"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix("subject=")


SUBJECT = [
    (NameOID.COUNTRY_NAME, "DE"),
    (NameOID.STATE_OR_PROVINCE_NAME, " Bavaria # 1 "),
    (NameOID.ORGANIZATION_NAME, 'Shop, Inc. + "Sons" <x>; \\'),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "Tür und Tor"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "two\r\nX-Forged: lines"),
    (NameOID.DOMAIN_COMPONENT, "test"),
    (NameOID.USER_ID, "u=1"),
    (x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), "nobody knows"),
    (NameOID.COMMON_NAME, "#till 3"),
    (NameOID.EMAIL_ADDRESS, "till@shop.test"),
]
URIS = ["spiffe://shop.test/ns/till;a,b=c", "https://shop.test/%22"]


def test_all_that_a_certificate_says(serve: Serve, origin: Origins, authority: Authority) -> None:
    """Subject as OpenSSL writes it, URIs and names; nothing gets out of its quotes."""
    pem = authority.folder / "client.pem"
    pem.write_bytes(eloquent(authority))
    tls = f'cert = "{authority.certificate}", key = "{authority.key}"'
    served = before(
        serve, origin("one").address, "", f'tls = {{ {tls}, client_ca = "{authority.pem}" }}'
    )
    context = authority.context()
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    with Streams(served.port, context) as client:
        seen = client.get("/head").body.decode()
    lines = [line for line in seen.split("\r\n") if "client-cert" in line.lower()]
    assert len(lines) == 1
    said = lines[0].partition(";")[2].partition(";Cert=")[0]
    expected = f'Subject="{openssl_subject(pem)}"'
    expected += "".join(f';URI="{uri}"' for uri in URIS)
    expected += ";DNS=till.shop.test;DNS=*.shop.test"
    assert said == expected
    assert "\\C3\\BC" in said, "not ASCII, and therefore escaped"
    assert "\\0D\\0AX-Forged" in said


def eloquent(authority: Authority) -> bytes:
    """A key and a certificate of a client that says a lot, signed by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.pem.read_bytes())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in URIS]
    names += [x509.DNSName("till.shop.test"), x509.DNSName("*.shop.test")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(kind, text) for kind, text in SUBJECT]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)
