"""TLS towards clients: the edge ends it, and everything above works as in clear text."""

import datetime
import hashlib
import http.client
import signal
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
import trustme
from browser import Browser
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponderEncoding, OCSPResponseBuilder
from running import OWN, PROGRAM, Evener, Start, eventually, free_port
from websockets.sync.client import connect

MEGABYTES = 8 * 1024 * 1024


class Authority:
    """Signs certificates, and is trusted by the contexts that it makes."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.certificate = folder / "server.pem"
        self.key = folder / "server.key"
        self.pem = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.pem))
        self.issue("localhost")

    def issue(self, *names: str) -> None:
        """Writes a new certificate of the server."""
        issued = self.ca.issue_cert(*names)
        issued.private_key_pem.write_to_path(str(self.key))
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.certificate.write_bytes(chain)

    def flags(self) -> list[str]:
        """What `evener run` is given."""
        return ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]

    def context(self) -> ssl.SSLContext:
        """A client that trusts what this signs, and nothing else."""
        context = ssl.create_default_context(cafile=str(self.pem))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secure(start: Start, *flags: str) -> Evener:
    """A program whose clients speak TLS."""
    evener = start(*OWN, *flags, wait=False)
    eventually(lambda: evener.admin.exists() and len(evener.ready()) == 1, "it is ready", 40, 0.1)
    return evener


def connection(evener: Evener, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", evener.port, timeout=15, context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_of_all_sizes(start: Start, authority: Authority, version: ssl.TLSVersion) -> None:
    evener = secure(start, *authority.flags())
    context = authority.context()
    context.minimum_version = context.maximum_version = version
    client = connection(evener, context)
    client.request("GET", "/lab/request", headers={"X-Forwarded-Proto": "http"})
    seen = client.getresponse().read().decode()
    assert '"scheme":"http"' in seen, "a trusted peer may say so"
    for size in (0, 1, 1024, 16384, 65537, MEGABYTES):
        client.request("GET", f"/lab/text/{size}")
        assert len(client.getresponse().read()) == size
        body = bytes(range(256)) * (size // 256 + 1)
        client.request("POST", "/lab/digest", body=body)
        assert hashlib.sha256(body).hexdigest() in client.getresponse().read().decode()
    client.request("GET", "/lab/stream?chunks=200&size=1000&interval=0.001")
    assert len(client.getresponse().read()) == 200_000
    client.close()


def test_the_application_sees_https(start: Start, authority: Authority) -> None:
    evener = secure(start, *authority.flags())
    url = f"https://localhost:{evener.port}/lab/request"
    with urllib.request.urlopen(url, context=authority.context(), timeout=15) as response:
        assert b'"scheme":"https"' in response.read()
    done = subprocess.run(
        ["curl", "-sS", "--cacert", str(authority.pem), url],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert '"scheme":"https"' in done.stdout


def test_websockets_over_tls(start: Start, authority: Authority) -> None:
    evener = secure(start, *authority.flags())
    url = f"wss://localhost:{evener.port}/live/echo"
    with connect(url, ssl=authority.context(), open_timeout=15) as socket_:
        for size in (1, 1000, 100_000):
            socket_.send("x" * size)
            assert socket_.recv(15) == "x" * size


def test_a_reload_reads_certificates_anew_and_keeps_old_ones_when_they_are_bad(
    start: Start, authority: Authority
) -> None:
    evener = secure(start, *authority.flags())

    def serial() -> str:
        with socket.create_connection(("127.0.0.1", evener.port), 15) as plain:
            context = authority.context()
            with context.wrap_socket(plain, server_hostname="localhost") as tls:
                certificate = tls.getpeercert()
                assert certificate is not None
                return str(certificate["serialNumber"])

    first = serial()
    kept = connection(evener, authority.context())
    kept.request("GET", "/lab/worker")
    assert kept.getresponse().read()
    authority.issue("localhost")
    evener.signal(signal.SIGHUP)
    second = eventually(lambda: (now := serial()) != first and now, "the new certificate", 20)
    authority.certificate.write_text("nonsense")
    refused = evener.tell("reload", check=False)
    assert refused.returncode != 0
    assert "server.pem" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert serial() == second
    evener.signal(signal.SIGHUP)
    eventually(lambda: "nothing was changed" in evener.words(), "its log says so")
    assert serial() == second
    kept.request("GET", "/lab/worker")
    assert kept.getresponse().status == 200, "old connections go on"


def test_clients_show_certificates_when_they_must(start: Start, authority: Authority) -> None:
    flags = [*authority.flags(), "--ssl-ca-certs", str(authority.pem), "--ssl-cert-reqs", "2"]
    evener = secure(start, *flags)
    stranger = connection(evener, authority.context())
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        stranger.request("GET", "/lab/worker")
        stranger.getresponse()
    issued = authority.ca.issue_cert("client.example")
    known = authority.context()
    issued.configure_cert(known)
    client = connection(evener, known)
    client.request("GET", "/lab/worker")
    assert client.getresponse().status == 200


def test_what_is_no_tls_is_cut_off_and_holds_up_nobody(start: Start, authority: Authority) -> None:
    evener = secure(start, *authority.flags(), "--timeout-header-read", "1s")
    with evener.wire() as plain:
        plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        refused = plain.response()
        assert refused.status == 400
        assert b"https://" in refused.body
        assert plain.is_closed()
    with evener.wire() as silent:
        client = connection(evener, authority.context())
        client.request("GET", "/lab/worker")
        assert client.getresponse().status == 200
        assert silent.is_closed(), "a handshake that does not come is not waited for"


def test_everything_under_way_is_finished_at_the_end(start: Start, authority: Authority) -> None:
    evener = secure(start, *authority.flags())
    client = connection(evener, authority.context())
    client.request("GET", "/lab/stream?chunks=30&size=100000&interval=0.02")
    response = client.getresponse()
    assert response.read(10)
    evener.signal(signal.SIGTERM)
    assert len(response.read()) == 30 * 100_000 - 10
    assert evener.process.wait(20) == 0


def test_bad_files_are_named(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path.parent)
    wrong = [
        (["--ssl-certfile", str(tmp_path / "none.pem")], "none.pem"),
        (["--ssl-certfile", str(authority.certificate)], "no private key"),
        (["--ssl-keyfile", str(authority.key)], "--ssl-certfile"),
        (
            ["--ssl-certfile", str(authority.certificate), "--ssl-keyfile", str(other.key)],
            "not the key of",
        ),
    ]
    for flags, expected in wrong:
        command = [str(PROGRAM), "run", "app.main:app", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 2
        assert expected in done.stderr, done.stderr


def test_clients_that_stop_reading_are_cut_off_wherever_their_bytes_are_stuck(
    start: Start, authority: Authority
) -> None:
    evener = secure(start, *authority.flags(), "--timeout-send-gap", "1s")
    context = authority.context()
    stuck = []
    # In steps smaller than what TLS keeps of a response, so that of some all but that is sent.
    for size in range(100_000, 4_200_000, 60_000):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(15)
        plain.connect(("127.0.0.1", evener.port))
        tls = context.wrap_socket(plain, server_hostname="localhost")
        tls.sendall(f"GET /lab/text/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        stuck.append(tls)

    def over() -> bool:
        traffic = evener.ask("status")["traffic"]
        return int(traffic["requests"]) >= len(stuck) and traffic["in_flight"] == 0

    eventually(over, "nobody waits for them", 20, 0.2)
    assert all(worker["failures"] == 0 for worker in evener.workers()), "no worker is to blame"
    for tls in stuck:
        tls.close()


PROTOCOLS = """
[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .map(one => one.nextHopProtocol)
"""


def test_a_browser_speaks_http2(
    start: Start, authority: Authority, chromium: str, tmp_path: Path
) -> None:
    """The page and all that it asks for come over HTTP/2: fetches, events, a POST; and a WebSocket
    works beside them.
    """
    evener = secure(start, *authority.flags())
    ignore = "--ignore-certificate-errors"
    with Browser(chromium, tmp_path / "profile", ignore) as browser:
        browser.open(f"https://localhost:{evener.port}/")
        browser.wait_for("Ash evener")
        browser.wait_for("tick 2 from worker")
        browser.wait_for("in lobby, held by worker")
        browser.run("say.text.value = 'over TLS'; say.requestSubmit(); 1")
        browser.wait_for("over TLS")
        browser.run("document.getElementById('order').requestSubmit(); 1")
        browser.wait_for("taken by worker")
        used = browser.run(PROTOCOLS)
    assert len(used) > 2, "the page, and what it asked for"
    assert set(used) == {"h2"}, used


def response_about(authority: Authority, folder: Path) -> Path:
    """What an OCSP responder of the authority says of its server's certificate."""
    signer = load_pem_x509_certificate(authority.ca.cert_pem.bytes())
    key = load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    builder = OCSPResponseBuilder().add_response(
        cert=load_pem_x509_certificates(authority.certificate.read_bytes())[0],
        issuer=signer,
        algorithm=hashes.SHA1(),  # noqa: S303
        cert_status=OCSPCertStatus.GOOD,
        this_update=now,
        next_update=now + datetime.timedelta(days=1),
        revocation_time=None,
        revocation_reason=None,
    )
    response = builder.responder_id(OCSPResponderEncoding.HASH, signer).sign(key, hashes.SHA256())
    file = folder / "ocsp.der"
    file.write_bytes(response.public_bytes(Encoding.DER))
    return file


def test_what_the_authority_says_is_stapled(authority: Authority, tmp_path: Path) -> None:
    port, ocsp = free_port(), response_about(authority, tmp_path)
    config = tmp_path / "evener.toml"
    config.write_text(f"""
        [[listener]]
        address = "127.0.0.1:{port}"
        tls = {{ cert = "{authority.certificate}", key = "{authority.key}", ocsp = "{ocsp}" }}
        [[route]]
        respond = {{ status = 200, body = "here" }}
        [admin]
        socket = "{tmp_path}/admin.sock"
    """)

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, "check", "-c", config],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    assert check().returncode == 0, check().stderr
    command = [str(PROGRAM), "serve", "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as served:
        try:
            eventually((tmp_path / "admin.sock").exists, "it serves", 20, 0.05)
            asked = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status"],
                input="",
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        finally:
            served.terminate()
    assert "OCSP Response Status: successful" in asked.stdout, asked.stdout
    assert "Cert Status: good" in asked.stdout
    for wrong in (b"", b"-----BEGIN OCSP RESPONSE-----", b"\x30\x03\x0a\x01\x06", b"\x30\x84"):
        ocsp.write_bytes(wrong)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as refused:
            _, said = refused.communicate(timeout=20)
        assert refused.returncode != 0
        assert str(ocsp) in said, said
