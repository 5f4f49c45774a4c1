"""A gRPC server for tests, without generated code: messages are plain bytes.

    python grpc_shop.py PORT [--tls CERT KEY]

It echoes in all four kinds of calls, fails as asked, and says whether it serves.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)

CANCELLED = threading.Event()


def one(request: bytes, context: Any) -> bytes:
    """Answers with what was asked, and with metadata at both ends."""
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-bytes-bin", b"\x00\xff")))
    return request


def fail(request: bytes, context: Any) -> bytes:
    """Fails as it is asked to."""
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
    return b""


def many(request: bytes, context: Any) -> Iterator[bytes]:
    """Answers a number of times."""
    for number in range(int(request)):
        yield b"%d" % number


def count(requests: Iterator[bytes], context: Any) -> bytes:
    """Counts what it gets."""
    return b"%d" % sum(1 for _ in requests)


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Answers each as it comes."""
    yield from requests


def endless(request: bytes, context: Any) -> Iterator[bytes]:
    """Answers until nobody listens any more."""
    context.add_callback(CANCELLED.set)
    while context.is_active():
        yield b"tick"
        time.sleep(0.01)


def cancelled(request: bytes, context: Any) -> bytes:
    """Whether an endless call was cancelled."""
    return b"yes" if CANCELLED.wait(5) else b"no"


def main() -> int:
    """Serves until SIGTERM; after SIGUSR1 it says that it does not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", nargs=2, type=Path)
    arguments = parser.parse_args()
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
    states = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    states.set("shop.Shop", health_pb2.HealthCheckResponse.SERVING)
    where = f"127.0.0.1:{arguments.port}"
    if arguments.tls:
        certificate, key = (path.read_bytes() for path in arguments.tls)
        server.add_secure_port(where, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        server.add_insecure_port(where)

    server.start()
    while signal.sigwait(signals) == signal.SIGUSR1:
        states.set("shop.Shop", health_pb2.HealthCheckResponse.NOT_SERVING)
    return 0


if __name__ == "__main__":
    sys.exit(main())
