"""The log that hooks write to (`server.log`, `worker.log`): gunicorn's loggers, in its form.

The access log is the edge's, unless Python's loggers are to write it: because a configuration of
loggers or a logger class was given, or a format that only Python understands.
"""

from __future__ import annotations

import base64
import json
import logging
import logging.config
import logging.handlers
import os
import re
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from evener.gunicorn.config import Config
from evener.gunicorn.settings import Refused

LEVELS = ("critical", "error", "warning", "info", "debug")
FORM = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE = "[%Y-%m-%d %H:%M:%S %z]"


# What the edge understands of `access_log_format`.
PLAIN_FORMAT = re.compile(r"(?:[^%]|%%|%\([^)]*\)[sd])*")


def own(cfg: Config) -> bool:
    """Whether the logger is gunicorn's usual one."""
    return cfg.logger_class in {None, "simple", "gunicorn.glogging.Logger"}


def configured(cfg: Config) -> bool:
    """Whether a configuration of Python's loggers was given."""
    return bool(cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json)


def errors_in_python(cfg: Config) -> bool:
    """Whether the error log of the program itself goes through Python's loggers."""
    return configured(cfg) or bool(cfg.syslog) or not own(cfg)


def access_in_python(cfg: Config) -> bool:
    """Whether workers write the access log, through Python's loggers."""
    if configured(cfg) or (cfg.syslog and not cfg.disable_redirect_access_to_syslog):
        return True
    plain = own(cfg) and PLAIN_FORMAT.fullmatch(cfg.access_log_format)
    return cfg.accesslog is not None and not plain


class Atoms(dict[str, Any]):
    """What stands for the atoms of one line: unknown ones for `-`, and quotes cannot end a text."""

    def __init__(self, atoms: dict[str, Any]) -> None:
        super().__init__()
        for name, value in atoms.items():
            self[name] = value.replace('"', '\\"') if isinstance(value, str) else value

    def __getitem__(self, name: str) -> Any:
        return self.get(name.lower() if name.startswith("{") else name, "-")


class Log:
    """gunicorn's logger object."""

    atoms_wrapper_class = Atoms

    def __init__(self, cfg: Config) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.cfg = cfg
        self._handlers: list[tuple[logging.Logger, logging.Handler]] = []
        self.setup(cfg)

    def setup(self, cfg: Config) -> None:
        """Does what the settings say, in the place of what earlier ones did."""
        self.cfg = cfg
        for logger, handler in self._handlers:
            logger.removeHandler(handler)
        self._handlers.clear()
        level = logging.getLevelName(cfg.loglevel.upper())
        self.loglevel = level = level if isinstance(level, int) else logging.INFO
        capture_if_asked(cfg)
        handler = file_handler(cfg.errorlog, cfg, sys.stderr)
        handler.setFormatter(logging.Formatter(FORM, DATE))
        for name in ("gunicorn.error", "evener", "uvicorn"):
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.handlers = []
            logger.setLevel(level)
            self._add(logger, handler)
        self.access_log.propagate = False
        self.access_log.setLevel(logging.INFO)
        if cfg.accesslog is not None and access_in_python(cfg):
            lines = file_handler(cfg.accesslog, cfg, sys.stdout)
            lines.setFormatter(logging.Formatter("%(message)s"))
            self._add(self.access_log, lines)
        if cfg.syslog:
            self._add(self.error_log, syslog_handler(cfg, "error"))
            if not cfg.disable_redirect_access_to_syslog:
                self._add(self.access_log, syslog_handler(cfg, "access"))
        self._configure(cfg)

    def _add(self, logger: logging.Logger, handler: logging.Handler) -> None:
        logger.addHandler(handler)
        self._handlers.append((logger, handler))

    def _configure(self, cfg: Config) -> None:
        """Applies `logconfig_dict`, else `logconfig_json`, else `logconfig`."""
        try:
            if cfg.logconfig_dict:
                logging.config.dictConfig({**defaults(), **cfg.logconfig_dict})
            elif cfg.logconfig_json:
                told = json.loads(Path(cfg.logconfig_json).read_text(encoding="utf-8"))
                logging.config.dictConfig({**defaults(), **told})
            elif cfg.logconfig:
                if not Path(cfg.logconfig).exists():
                    raise Refused(f"logconfig: there is no file {cfg.logconfig}")
                here = {"__file__": cfg.logconfig, "here": str(Path(cfg.logconfig).parent)}
                logging.config.fileConfig(cfg.logconfig, here, disable_existing_loggers=False)
        except (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
            raise Refused(f"the logging configuration is refused: {error}") from error

    def critical(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level."""
        self.error_log.critical(message, *arguments, **more)

    def error(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level."""
        self.error_log.error(message, *arguments, **more)

    def warning(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level."""
        self.error_log.warning(message, *arguments, **more)

    def info(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level."""
        self.error_log.info(message, *arguments, **more)

    def debug(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at this level."""
        self.error_log.debug(message, *arguments, **more)

    def exception(self, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs an error with the traceback of the exception that is being handled."""
        self.error_log.exception(message, *arguments, **more)

    def log(self, level: Any, message: Any, *arguments: Any, **more: Any) -> None:
        """Logs at a level given by name or number."""
        if isinstance(level, str):
            level = getattr(logging, level.upper(), logging.INFO)
        self.error_log.log(level, message, *arguments, **more)

    @property
    def access_log_enabled(self) -> bool:
        """Whether requests are logged here."""
        return access_in_python(self.cfg)

    def now(self) -> str:
        """The time, as common log formats have it."""
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], took: timedelta) -> Any:
        """What a line can be made of."""
        status = resp.status
        if isinstance(status, str):
            status = status.split(None, 1)[0]
        method, protocol = environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"]
        micros = took // timedelta(microseconds=1)
        atoms = {
            "h": environ.get("REMOTE_ADDR", "-"),
            "l": "-",
            "u": user(environ.get("HTTP_AUTHORIZATION", "")),
            "t": self.now(),
            "r": f"{method} {environ['RAW_URI']} {protocol}",
            "s": status,
            "m": method,
            "U": environ.get("PATH_INFO"),
            "q": environ.get("QUERY_STRING"),
            "H": protocol,
            "b": str(resp.sent),
            "B": resp.sent,
            "f": environ.get("HTTP_REFERER", "-"),
            "a": environ.get("HTTP_USER_AGENT", "-"),
            "T": micros // 1_000_000,
            "D": micros,
            "M": micros // 1000,
            "L": f"{micros // 1_000_000}.{micros % 1_000_000:06}",
            "p": f"<{os.getpid()}>",
        }
        atoms.update({f"{{{name.lower()}}}i": value for name, value in req.headers})
        atoms.update({f"{{{name.lower()}}}o": value for name, value in resp.headers})
        atoms.update({f"{{{name.lower()}}}e": value for name, value in environ.items()})
        return atoms

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Writes the line of one request."""
        try:
            atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
            self.access_log.info(self.cfg.access_log_format, atoms)
        except Exception:  # as gunicorn: a format that cannot be filled is no reason to fail
            self.error(traceback.format_exc())

    def reopen_files(self) -> None:
        """Opens log files again, after they were moved away."""
        capture_if_asked(self.cfg)
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
        for logger in (logging.root, *loggers):
            for handler in logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    # The next record opens the file anew.
                    handler.close()

    def close_on_exec(self) -> None:
        """Descriptors of Python's are not inherited anyway."""


def user(authorization: str) -> str:
    """The user of basic authentication."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        name, _, _ = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return name.decode() or "-"
    except ValueError:
        return "-"


def capture_if_asked(cfg: Config) -> None:
    """Lets standard output and error go to the error log's file (`capture_output`)."""
    if cfg.capture_output and cfg.errorlog not in {None, "-"}:
        capture(cfg.errorlog)


def capture(path: str) -> None:
    """Lets standard output and error go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def file_handler(path: str | None, cfg: Config, standard: TextIO) -> logging.Handler:
    """Writes to a standard stream (`-`), or to a file that belongs to the workers' user."""
    if path is None:
        return logging.NullHandler()
    if path == "-":
        return logging.StreamHandler(standard)
    handler = logging.FileHandler(path)
    if os.geteuid() == 0:
        os.chown(handler.baseFilename, cfg.uid, cfg.gid)
    return handler


def syslog_handler(cfg: Config, kind_of_log: str) -> logging.Handler:
    """Sends to syslog as `syslog_addr` says."""
    kind, _, place = cfg.syslog_addr.partition("://")
    facility = logging.handlers.SysLogHandler.facility_names.get(cfg.syslog_facility.lower())
    if facility is None:
        raise Refused(f"syslog_facility: '{cfg.syslog_facility}' is no facility")
    if kind == "unix":
        address: Any = place.partition("#")[0]
    else:
        host, _, port = place.partition(":")
        address = (host or "localhost", int(port or 514))
    handler = logging.handlers.SysLogHandler(address, facility)
    prefix = cfg.syslog_prefix or cfg.proc_name.replace(":", ".")
    handler.setFormatter(
        logging.Formatter(f"gunicorn.{prefix}.{kind_of_log}: [%(process)d] %(message)s")
    )
    return handler


def defaults() -> dict[str, Any]:
    """What a logging configuration may leave out."""
    console = {
        "class": "logging.StreamHandler",
        "formatter": "generic",
        "stream": "ext://sys.stdout",
    }
    error = {**console, "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {
            "gunicorn.error": {
                "level": "INFO",
                "handlers": ["error_console"],
                "propagate": True,
                "qualname": "gunicorn.error",
            },
            "gunicorn.access": {
                "level": "INFO",
                "handlers": ["console"],
                "propagate": True,
                "qualname": "gunicorn.access",
            },
        },
        "handlers": {"console": console, "error_console": error},
        "formatters": {
            "generic": {"format": FORM, "datefmt": DATE, "class": "logging.Formatter"},
        },
    }


def make(cfg: Config) -> Any:
    """The logger that was asked for."""
    kind = cfg.logger_class
    if own(cfg):
        if cfg.statsd_host:
            from evener.gunicorn.counting import Counting

            return Counting(cfg)
        return Log(cfg)
    if isinstance(kind, str):
        from evener.gunicorn.values import imported

        try:
            kind = imported(kind)
        except ValueError as error:
            raise Refused(f"logger_class: {error}") from None
    return kind(cfg)
