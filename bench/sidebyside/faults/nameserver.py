"""A name server in a thread, whose records a test changes as it goes."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

A, AAAA, SRV = 1, 28, 33
Record = tuple[int, bytes]


def address(text: str) -> Record:
    """An A or AAAA record."""
    if ":" in text:
        return AAAA, socket.inet_pton(socket.AF_INET6, text)
    return A, socket.inet_aton(text)


def service(priority: int, weight: int, port: int, target: str) -> Record:
    """An SRV record."""
    return SRV, struct.pack("!HHH", priority, weight, port) + _name(target)


def _name(text: str) -> bytes:
    labels = [label.encode() for label in text.rstrip(".").split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


class NameServer:
    """Answers from `records`; says nothing while `silent`."""

    def __init__(self, ttl: int = 1) -> None:
        self.records: dict[str, list[Record]] = {}
        self.ttl = ttl
        self.silent = False
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.thread.join(5)
        self.socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self.socket.recvfrom(4096)
            if not query:
                return
            self.asked += 1
            if not self.silent:
                self.socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        name = ".".join(labels).lower()
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        known = self.records.get(name)
        found = [data for record, data in known or [] if record == kind]
        # Recursion is offered, and a name that nobody knows is said to be unknown.
        flags = 0x8180 if known is not None else 0x8183
        head = query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
        answers = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(data)) + data
            for data in found
        )
        return head + query[12:end] + answers
