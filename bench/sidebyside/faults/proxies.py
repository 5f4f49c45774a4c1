"""Who stands before the endpoints, each as its operators would set it up for this."""

from __future__ import annotations

from collections.abc import Callable

from sidebyside.faults.endpoints import Endpoints
from sidebyside.places import free_port
from sidebyside.proxies import need
from sidebyside.running import Command, Deployment
from sidebyside.serving import evener_program
from sidebyside.templates import fill, folder

NAME = "copies.test"
BARE = "evener, endpoints alone"
CHECKED = "evener, checks alone"

Make = Callable[[Endpoints, str, bool], Deployment]
"""From the endpoints, the address of a name server, and whether they are told by name."""


def evener(program: str, template: str = "evener-faults.toml") -> Make:
    """A file for `evener serve`."""

    def make(endpoints: Endpoints, dns: str, by_name: bool) -> Deployment:
        port, place = free_port(), folder("evener-faults")
        servers = [f'"{endpoint.address}"' for endpoint in endpoints.serving]
        if by_name:
            servers = [f'"{NAME}:{endpoints.port}"']
        config = fill(
            template,
            place,
            port=port,
            folder=place,
            dns=dns,
            **({"health": endpoints.health_port} if "bare" not in template else {}),
            servers=", ".join(servers),
        )
        return _one("evener", [program, "serve", "-c", str(config)], port)

    return make


def nginx(endpoints: Endpoints, dns: str, by_name: bool) -> Deployment:
    """nginx, one worker process."""
    port, place = free_port(), folder("nginx-faults")
    servers = " ".join(f"server {endpoint.address};" for endpoint in endpoints.serving)
    upstream = f"upstream copies {{ zone copies 64k; {servers} keepalive 64; }}"
    passed = "proxy_pass http://copies;"
    if by_name:
        upstream = ""
        passed = f"set $name {NAME}; proxy_pass http://$name:{endpoints.port};"
    values = {"upstream": upstream, "pass": passed}
    config = fill("nginx-faults.conf", place, port=port, folder=place, dns=dns, **values)
    return _one("nginx", [need("nginx"), "-c", str(config), "-p", str(place)], port)


def haproxy(endpoints: Endpoints, dns: str, by_name: bool) -> Deployment:
    """HAProxy, one thread."""
    port, place = free_port(), folder("haproxy-faults")
    servers = "\n    ".join(
        f"server s{index} {endpoint.address}" for index, endpoint in enumerate(endpoints.serving)
    )
    if by_name:
        name = f"{NAME}:{endpoints.port}"
        servers = f"server-template s 4 {name} resolvers names init-addr none"
    health = endpoints.health_port
    config = fill("haproxy-faults.cfg", place, port=port, dns=dns, health=health, servers=servers)
    return _one("haproxy", [need("haproxy"), "-db", "-f", str(config)], port)


def _one(name: str, arguments: list[str], port: int) -> Deployment:
    address = f"127.0.0.1:{port}"
    # Not until it has found its endpoints is it up.
    return Deployment(address, [Command(name, arguments, address, path="/work")])


def makers(program: str | None = None) -> dict[str, Make]:
    """All of them; of Evener this program, else the one that the bench has built."""
    own = program or evener_program("evener")
    return {
        "evener": evener(own),
        CHECKED: evener(own, "evener-faults-checked.toml"),
        BARE: evener(own, "evener-faults-bare.toml"),
        "nginx": nginx,
        "haproxy": haproxy,
    }
