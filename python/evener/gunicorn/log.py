"""The log that hooks write to (`server.log`, `worker.log`): gunicorn's loggers, in its form.

The access log is the edge's; only where the files are, and what `logconfig` says about loggers, is
looked after here.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any

from evener.gunicorn.config import Config
from evener.gunicorn.settings import Refused

LEVELS = ("critical", "error", "warning", "info", "debug")
FORM = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE = "[%Y-%m-%d %H:%M:%S %z]"


class Log:
    """gunicorn's logger object."""

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
        level = level if isinstance(level, int) else logging.INFO
        if cfg.capture_output and cfg.errorlog not in {None, "-"}:
            capture(cfg.errorlog)
        handler = file_handler(cfg.errorlog, cfg)
        handler.setFormatter(logging.Formatter(FORM, DATE))
        for name in ("gunicorn.error", "evener", "uvicorn"):
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.handlers = []
            logger.setLevel(level)
            self._add(logger, handler)
        self.access_log.propagate = False
        self.access_log.setLevel(logging.INFO)
        if cfg.syslog:
            self._add(self.error_log, syslog_handler(cfg))
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

    def reopen_files(self) -> None:
        """Opens log files again, after they were moved away."""
        if self.cfg.capture_output and self.cfg.errorlog not in {None, "-"}:
            capture(self.cfg.errorlog)
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
        for logger in (logging.root, *loggers):
            for handler in logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    # The next record opens the file anew.
                    handler.close()

    def close_on_exec(self) -> None:
        """Descriptors of Python's are not inherited anyway."""


def capture(path: str) -> None:
    """Lets standard output and error go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def file_handler(path: str | None, cfg: Config) -> logging.Handler:
    """Writes to standard error, or to a file that belongs to the workers' user."""
    if path is None:
        return logging.NullHandler()
    if path == "-":
        return logging.StreamHandler()
    handler = logging.FileHandler(path)
    if os.geteuid() == 0:
        os.chown(handler.baseFilename, cfg.uid, cfg.gid)
    return handler


def syslog_handler(cfg: Config) -> logging.Handler:
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
    handler.setFormatter(logging.Formatter(f"gunicorn.{prefix}.error: [%(process)d] %(message)s"))
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
    if kind is None or (isinstance(kind, str) and kind in {"simple", "gunicorn.glogging.Logger"}):
        return Log(cfg)
    if isinstance(kind, str):
        from evener.gunicorn.values import imported

        try:
            kind = imported(kind)
        except ValueError as error:
            raise Refused(f"logger_class: {error}") from None
    return kind(cfg)
