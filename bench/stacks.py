"""The stacks that are compared, each started by one function and ended by its process ids.

A stack is what a person would put in front of an application: Evener alone, uvicorn alone, or
nginx before uvicorn. Every one serves an application of `worker_apps` on a TCP port of loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclass
class Stack:
    """A running stack."""

    name: str
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def tree(self) -> list[int]:
        """Every process of it."""
        pids: list[int] = []
        waiting = [process.pid for process in self.processes]
        while waiting:
            pid = waiting.pop()
            pids.append(pid)
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except FileNotFoundError:
                continue
            waiting += [int(child) for child in children]
        return pids

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        ticks = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nginx(folder: Path, port: int, upstreams: list[str], method: str = "") -> list[str]:
    """nginx as a proxy, one worker process, in its best configuration for the job.

    Keep-alive to the upstreams (`keepalive`, HTTP/1.1, no Connection header), no access log, and
    the same forwarding header fields as Evener sets. Buffers are nginx's own defaults.
    """
    program = shutil.which("nginx")
    if program is None:
        raise SystemExit("nginx is not installed: tests/install.sh does it")
    servers = "".join(f"server {upstream};" for upstream in upstreams)
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
        user root;
        events {{ worker_connections 16384; }}
        http {{
            access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            upstream endpoints {{
                {method} {servers} keepalive 128; keepalive_requests 1000000000;
            }}
            server {{
                listen 127.0.0.1:{port} backlog=2048;
                location / {{
                    proxy_pass http://endpoints; proxy_http_version 1.1;
                    proxy_set_header Connection ""; proxy_set_header Host $host;
                    proxy_set_header X-Real-IP $remote_addr;
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    proxy_set_header X-Forwarded-Proto $scheme;
                }}
            }}
        }}""")
    return [program, "-e", f"{folder}/error.log", "-c", str(config)]


def uvicorn(app: str, *flags: str) -> list[str]:
    """uvicorn with uvloop and httptools, as `uvicorn[standard]` installs it."""
    python = sys.executable
    speed = ["--loop", "uvloop", "--http", "httptools"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [python, "-m", "uvicorn", app, *speed, *quiet, *flags]


def evener(folder: Path, app: str, port: int, *flags: str) -> list[str]:
    """`evener run`, from the environment of this Python."""
    program = Path(sys.executable).parent / "evener"
    quiet = ["--no-access-log", "--log-level", "warning", "--admin", f"{folder}/admin.sock"]
    return [str(program), "run", app, "--app-dir", str(HERE), "--port", str(port), *quiet, *flags]


@contextmanager
def running(
    name: str, port: int, commands: list[list[str]], path: str = "/", cpu: str | None = None
) -> Iterator[Stack]:
    """Starts the commands, waits until the stack answers on `port`, and ends them after use."""
    stack = Stack(name, port)
    pin = ["taskset", "-c", cpu] if cpu is not None else []
    try:
        for command in commands:
            stack.processes.append(
                subprocess.Popen([*pin, *command], cwd=HERE, stdout=subprocess.DEVNULL)
            )
        wait_until_it_answers(stack, path)
        yield stack
    finally:
        for process in reversed(stack.processes):
            process.send_signal(signal.SIGTERM)
        for process in stack.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_it_answers(stack: Stack, path: str) -> None:
    """Asks until there is a 200."""
    deadline = time.monotonic() + 40
    while True:
        try:
            with socket.create_connection(("127.0.0.1", stack.port), 1) as connection:
                connection.settimeout(2)
                request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline or any(p.poll() is not None for p in stack.processes):
            raise SystemExit(f"{stack.name} did not start")
        time.sleep(0.05)
