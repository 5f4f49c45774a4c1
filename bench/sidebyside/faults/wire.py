"""What goes to an endpoint, seen on the loopback interface itself: so it can be said when a proxy
has sent the last request to one that is dead or stopped, which cannot say so, in the same way for
every proxy. Needs root (CAP_NET_RAW); who has it not gets no such figures.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from typing import Self

ALL_PROTOCOLS = 0x0003
ATTACH_FILTER = 26
OUTGOING = 4
ETHERNET_BYTES = 14
SYN, ACK = 0x02, 0x10
WAKE_SECONDS = 0.2


def can_look() -> bool:
    """Whether this process may."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except (OSError, AttributeError):
        return False
    return True


class Wire:
    """Looks at packets to one TCP address until it is left."""

    def __init__(self, host: str, port: int) -> None:
        self.requests: list[tuple[float, int]] = []
        """When a request went out, and from which port."""
        self.connects: list[tuple[float, int]] = []
        self._over = False
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._attach(int.from_bytes(socket.inet_aton(host)), port)
        self._socket.bind(("lo", ALL_PROTOCOLS))
        self._socket.settimeout(WAKE_SECONDS)
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        self._socket.close()

    def tries(self) -> list[float]:
        """When something was tried there: a request, or a connection that carried none."""
        carried = {port for _, port in self.requests}
        vain = [when for when, port in self.connects if port not in carried]
        return sorted([when for when, _ in self.requests] + vain)

    def _attach(self, host: int, port: int) -> None:
        """Has the kernel pass on only what goes there (classic BPF)."""
        program = [
            (0x28, 0, 0, 12),
            (0x15, 0, 8, 0x0800),
            (0x30, 0, 0, 23),
            (0x15, 0, 6, socket.IPPROTO_TCP),
            (0x20, 0, 0, 30),
            (0x15, 0, 4, host),
            (0xB1, 0, 0, 14),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, port),
            (0x06, 0, 0, 256),
            (0x06, 0, 0, 0),
        ]
        code = b"".join(struct.pack("HBBI", *step) for step in program)
        held = ctypes.create_string_buffer(code)
        words = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, words)

    def _look(self) -> None:
        while not self._over:
            try:
                packet, address = self._socket.recvfrom(256)
            except TimeoutError:
                continue
            # Each packet passes the loopback interface twice: out, and in again.
            if address[2] == OUTGOING:
                continue
            now = time.monotonic()
            tcp = packet[ETHERNET_BYTES + 4 * (packet[ETHERNET_BYTES] & 15) :]
            source = int.from_bytes(tcp[:2])
            if tcp[13] & (SYN | ACK) == SYN:
                self.connects.append((now, source))
            if tcp[4 * (tcp[12] >> 4) :].startswith(b"GET /work"):
                self.requests.append((now, source))
