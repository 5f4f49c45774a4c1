"""Case (i): what clients speak: HTTP/2 in clear text, and over TLS 1.3, beside HTTP/1.1 over TLS.

The load is h2load's, because the bench's own generator speaks neither. It counts what was answered
with 2xx; latencies are its own means, and not comparable with those of other cases.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sidebyside import usage
from sidebyside.cases.proxy import origin
from sidebyside.measure import Measured
from sidebyside.places import LOAD_CPU, free_port
from sidebyside.proxies import ENVOY, MissingError, envoy_servers, need
from sidebyside.running import Command, Deployment
from sidebyside.serving import evener_program
from sidebyside.session import Session
from sidebyside.templates import fill, folder

CONNECTIONS = 32
REQUESTS = {1_000: 20_000, 100_000: 3_000}
WARM_REQUESTS = 500
PEERS = ("evener", "nginx", "haproxy", "envoy")


@dataclass(frozen=True)
class Spoken:
    """One way to ask."""

    secure: bool
    flags: tuple[str, ...]


SPOKEN = {
    "HTTP/2, 1 stream": Spoken(False, ("-m", "1")),
    "HTTP/2, 10 streams": Spoken(False, ("-m", "10")),
    "HTTP/2 over TLS 1.3, 1 stream": Spoken(True, ("-m", "1")),
    "HTTP/2 over TLS 1.3, 10 streams": Spoken(True, ("-m", "10")),
    "HTTP/1.1 over TLS 1.3": Spoken(True, ("--h1",)),
}


@dataclass(frozen=True)
class Ports:
    """Where one peer listens."""

    plain: int
    secure: int


def measure(session: Session) -> None:
    """All ways to ask, two sizes, in interleaved rounds."""
    try:
        need("h2load")
        certificate = _certificate()
    except MissingError as error:
        session.skip(f"(i) {error}")
        return
    command, endpoints = origin()
    upstream = Deployment(endpoints[0], [command])
    upstream.start()
    try:
        ports = {name: Ports(free_port(), free_port()) for name in PEERS}
        makers: dict[str, Callable[[], Deployment]] = {
            name: partial(_deployment, name, ports[name], endpoints, certificate)
            for name in session.wanted(ports)
        }
        with session.deployed("i", makers) as up:
            for way, spoken in SPOKEN.items():
                for size, requests in REQUESTS.items():
                    variant = f"{way}, {size // 1000} kB"
                    if not session.wants(variant, quick=size == 1_000):
                        continue
                    for turn in range(session.rounds()):
                        for peer, deployment in up.items():
                            measured = _under(spoken, ports[peer], deployment, size, requests)
                            session.note("i", variant, peer, turn, measured)
    finally:
        upstream.stop()


def _certificate() -> Path:
    """A certificate and its key in one file, signed by itself."""
    place = folder("certificate")
    key, certificate, both = place / "key.pem", place / "certificate.pem", place / "both.pem"
    command = [need("openssl"), "req", "-x509", "-nodes", "-days", "30", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


def _deployment(name: str, ports: Ports, endpoints: list[str], certificate: Path) -> Deployment:
    place = folder(f"{name}-protocols")
    template, servers = {
        "evener": ("evener-protocols.toml", ", ".join(f'"{one}"' for one in endpoints)),
        "nginx": ("nginx-protocols.conf", " ".join(f"server {one};" for one in endpoints)),
        "haproxy": (
            "haproxy-protocols.cfg",
            "\n    ".join(f"server s{index} {one}" for index, one in enumerate(endpoints)),
        ),
        "envoy": ("envoy-protocols.yaml", envoy_servers(endpoints)),
    }[name]
    config = fill(
        template,
        place,
        plain=ports.plain,
        secure=ports.secure,
        certificate=certificate,
        servers=servers,
        folder=place,
    )
    arguments = {
        "evener": ["serve", "-c", str(config)],
        "nginx": ["-c", str(config), "-p", str(place)],
        "haproxy": ["-db", "-f", str(config)],
        "envoy": ["-c", str(config), *ENVOY],
    }[name]
    address = f"127.0.0.1:{ports.secure}"
    program = evener_program("evener") if name == "evener" else need(name)
    return Deployment(address, [Command(name, [program, *arguments], address)])


def _under(
    spoken: Spoken, ports: Ports, deployment: Deployment, size: int, requests: int
) -> Measured:
    scheme, port = ("https", ports.secure) if spoken.secure else ("http", ports.plain)
    command = ["taskset", "-c", str(LOAD_CPU), need("h2load"), "-c", str(CONNECTIONS)]
    command += [*spoken.flags, f"{scheme}://127.0.0.1:{port}/bytes/{size}"]
    subprocess.run([*command, "-n", str(WARM_REQUESTS)], check=True, capture_output=True)
    roots = deployment.counted()
    before = usage.cpu(roots)
    done = subprocess.run(
        [*command, "-n", str(requests)], check=True, capture_output=True, text=True
    ).stdout
    spent = usage.cpu_seconds(before, usage.cpu(roots))
    memory = usage.memory(roots)
    succeeded = _number(r"(\d+) succeeded", done)
    values = {
        "requests a second": _number(r"([\d.]+) req/s", done),
        "RSS MB": memory.rss / 1e6,
        "PSS MB": memory.pss / 1e6,
    }
    if succeeded:
        values["CPU µs per request"] = spent / succeeded * 1e6
    failed = requests - int(succeeded)
    return Measured(values, {"not answered with 2xx": failed} if failed else {}, {})


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0
