"""Reverse proxies, each in its best fair configuration for the same job."""

from __future__ import annotations

from collections.abc import Callable

from sidebyside.places import free_port, program
from sidebyside.running import Command, Deployment
from sidebyside.templates import fill, folder

# Buffers so that a large response is read in pieces of 64 kB; for small ones nginx's own are best.
NGINX_LARGE = "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"
ENVOY = ("--concurrency", "1", "--log-level", "error", "--disable-hot-restart")


class MissingError(Exception):
    """A peer is not installed: which, and how it is."""


def need(name: str) -> str:
    """The path of a program."""
    path = program(name)
    if path is None:
        raise MissingError(f"{name} is not installed (python bench/install.py)")
    return str(path)


def evener(endpoints: list[str], large: bool) -> Deployment:
    """Evener's data plane alone, one shard."""
    del large
    address = f"127.0.0.1:{free_port()}"
    command = Command("evener-proxy", [need("proxy"), address, *endpoints], address)
    return Deployment(address, [command])


def nginx(endpoints: list[str], large: bool) -> Deployment:
    """nginx, one worker process."""
    port, place = free_port(), folder("nginx-proxy")
    config = fill(
        "nginx-proxy.conf",
        place,
        folder=place,
        port=port,
        servers=" ".join(f"server {endpoint};" for endpoint in endpoints),
        buffers=NGINX_LARGE if large else "",
    )
    return _one("nginx-proxy", [need("nginx"), "-c", str(config), "-p", str(place)], port)


def haproxy(endpoints: list[str], large: bool) -> Deployment:
    """HAProxy, one thread."""
    del large
    port, place = free_port(), folder("haproxy")
    servers = [
        f"server s{index} {endpoint.replace('unix:', 'unix@')}"
        for index, endpoint in enumerate(endpoints)
    ]
    config = fill("haproxy.cfg", place, port=port, servers="\n    ".join(servers))
    return _one("haproxy", [need("haproxy"), "-db", "-f", str(config)], port)


def envoy(endpoints: list[str], large: bool) -> Deployment:
    """Envoy, one worker thread."""
    del large
    port, place = free_port(), folder("envoy")
    config = fill("envoy.yaml", place, port=port, servers=envoy_servers(endpoints))
    return _one("envoy", [need("envoy"), "-c", str(config), *ENVOY], port)


def envoy_servers(endpoints: list[str]) -> str:
    """The endpoints as lines of Envoy's file."""
    lines = []
    for endpoint in endpoints:
        host, _, number = endpoint.rpartition(":")
        at = f"{{ socket_address: {{ address: {host}, port_value: {number} }} }}"
        lines.append(f"            - endpoint: {{ address: {at} }}")
    return "\n".join(lines)


def caddy(endpoints: list[str], large: bool) -> Deployment:
    """Caddy; its runtime sees the one core that it may use."""
    del large
    port, place = free_port(), folder("caddy")
    servers = " ".join(endpoint.replace("unix:", "unix/") for endpoint in endpoints)
    config = fill("Caddyfile", place, port=port, servers=servers)
    return _one("caddy", [need("caddy"), "run", "--config", str(config)], port)


def traefik(endpoints: list[str], large: bool) -> Deployment:
    """Traefik; its runtime sees the one core that it may use."""
    del large
    port, place = free_port(), folder("traefik")
    servers = [f'          - url: "http://{endpoint}"' for endpoint in endpoints]
    fill("traefik-routes.yaml", place, servers="\n".join(servers)).rename(place / "routes.yaml")
    config = fill("traefik.yaml", place, port=port, folder=place)
    return _one("traefik", [need("traefik"), f"--configFile={config}"], port, path="/bytes/1")


def pingora(endpoints: list[str], large: bool) -> Deployment:
    """A minimal balancer on Pingora, one thread (`bench/peers/pingora`)."""
    del large
    port = free_port()
    arguments = [need("bench-pingora"), f"127.0.0.1:{port}", *endpoints]
    return _one("pingora", arguments, port)


def hyper(endpoints: list[str], large: bool) -> Deployment:
    """A minimal proxy on hyper, one thread (`bench/peers/hyper`)."""
    del large
    port = free_port()
    arguments = [need("bench-hyper"), f"127.0.0.1:{port}", *endpoints]
    return _one("hyper", arguments, port)


def _one(name: str, arguments: list[str], port: int, path: str | None = None) -> Deployment:
    address = f"127.0.0.1:{port}"
    return Deployment(address, [Command(name, arguments, address, path=path)])


PROXIES: dict[str, Callable[[list[str], bool], Deployment]] = {
    "evener": evener,
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "caddy": caddy,
    "traefik": traefik,
    "pingora": pingora,
    "hyper": hyper,
}
