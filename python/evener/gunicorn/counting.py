"""What hooks and the application log, counted at a statsd server (`statsd_host`), and what they log
as a metric: `log.info("", extra={"metric": NAME, "value": NUMBER, "mtype": "gauge"})`.

Requests are the program's to count.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from evener.gunicorn.config import Config
from evener.gunicorn.log import Log


class Counting(Log):
    """A log that counts; the methods of a statsd client can be called directly."""

    KINDS = ("gauge", "counter", "histogram", "timer")

    def __init__(self, cfg: Config) -> None:
        prefix = cfg.statsd_prefix.rstrip(".")
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = f"|#{cfg.dogstatsd_tags}" if cfg.dogstatsd_tags else ""
        self._socket: socket.socket | None = None
        try:
            if cfg.statsd_host.startswith("unix://"):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.connect(cfg.statsd_host.removeprefix("unix://"))
            else:
                host, _, port = cfg.statsd_host.rpartition(":")
                kind = socket.AF_INET6 if ":" in host else socket.AF_INET
                self._socket = socket.socket(kind, socket.SOCK_DGRAM)
                self._socket.connect((host.strip("[]"), int(port)))
        except OSError:
            # The program has said that there is no such address.
            self._socket = None
        super().__init__(cfg)

    def critical(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and counts it."""
        super().critical(message, *arguments, **more)
        self.increment("gunicorn.log.critical", 1)

    def error(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and counts it."""
        super().error(message, *arguments, **more)
        self.increment("gunicorn.log.error", 1)

    def warning(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and counts it."""
        super().warning(message, *arguments, **more)
        self.increment("gunicorn.log.warning", 1)

    def exception(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and counts it."""
        super().exception(message, *arguments, **more)
        self.increment("gunicorn.log.exception", 1)

    def info(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and tells a metric if there is one."""
        self.log(logging.INFO, message, *arguments, **more)

    def debug(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and tells a metric if there is one."""
        self.log(logging.DEBUG, message, *arguments, **more)

    def log(self, level: Any, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level, and tells a metric if there is one."""
        told = more.get("extra") or {}
        if told.get("mtype") in self.KINDS and "metric" in told and "value" in told:
            kind = "increment" if told["mtype"] == "counter" else told["mtype"]
            getattr(self, kind)(told["metric"], told["value"])
        if message:
            super().log(level, message, *arguments, **more)

    def gauge(self, name: str, value: Any) -> None:
        """Tells a level."""
        self._send(f"{name}:{value}|g")

    def increment(self, name: str, value: Any, sampling_rate: float = 1.0) -> None:
        """Tells that something has happened."""
        self._send(f"{name}:{value}|c|@{sampling_rate}")

    def decrement(self, name: str, value: Any, sampling_rate: float = 1.0) -> None:
        """Takes something back."""
        self._send(f"{name}:-{value}|c|@{sampling_rate}")

    def timer(self, name: str, value: Any) -> None:
        """Tells a duration in milliseconds."""
        self._send(f"{name}:{value}|ms")

    def histogram(self, name: str, value: Any) -> None:
        """Tells a value whose distribution counts."""
        self._send(f"{name}:{value}|h")

    def _send(self, line: str) -> None:
        if self._socket is not None:
            try:
                self._socket.send(f"{self._prefix}{line}{self._tags}".encode())
            except OSError:
                # Nobody listens there.
                return
