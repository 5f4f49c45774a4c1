"""Where settings come from, in gunicorn's order: the defaults, the configuration file, the
variable GUNICORN_CMD_ARGS, the command line. What comes later wins.

The file is executed as Python. A name in it that is no setting does nothing, which gunicorn keeps
to itself: here it is said, unless the file itself makes use of the name.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evener.gunicorn.config import Config
from evener.gunicorn.settings import Known, Refused, known

DEFAULT_FILE = "gunicorn.conf.py"
MODULE = "__config__"


def parser() -> argparse.ArgumentParser:
    """gunicorn's command line."""
    made = argparse.ArgumentParser(
        prog="evener gunicorn",
        usage="%(prog)s [OPTIONS] [APP_MODULE]",
        description="Serves APP_MODULE as gunicorn's command line and configuration file say.",
    )
    made.add_argument("args", nargs="*", metavar="APP_MODULE", help="as MODULE:ATTRIBUTE")
    for setting in known().values():
        if setting.flags:
            made.add_argument(*setting.flags, dest=setting.name, default=None, **_action(setting))
    return made


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Reads a command line; a flag that is not known is refused with the nearest that is."""
    parsed, unknown = parser.parse_known_args(arguments)
    for word in unknown:
        if word.startswith("-"):
            flags = [flag for setting in known().values() for flag in setting.flags]
            close = difflib.get_close_matches(word.partition("=")[0], flags, 1, 0.6)
            hint = f"; did you mean {close[0]}?" if close else ""
            parser.error(f"there is no flag {word}{hint}")
    if unknown:
        parser.error(f"nothing is known to do with: {' '.join(unknown)}")
    return parsed


def _action(setting: Known) -> dict[str, Any]:
    if setting.action == "store_true":
        return {"action": "store_true"}
    if setting.action == "append":
        return {"action": "append", "metavar": "TEXT"}
    if setting.action == "store_const":
        return {"action": "store_const", "const": setting.const}
    if setting.action == "optional":
        return {"nargs": "?", "const": setting.const, "metavar": "MODE"}
    return {"metavar": setting.name.upper()}


class Sources:
    """One command line, and what else it brings in; can be read again for a reload."""

    def __init__(self, arguments: Sequence[str], warn: Callable[[str], None]) -> None:
        self._parser = parser()
        self._typed = _parse(self._parser, list(arguments))
        self._variable = _parse(self._parser, shlex.split(os.environ.get(VARIABLE, "")))
        self._warn = warn
        self.app: str | None = self._typed.args[0] if self._typed.args else None
        self.file: str | None = None

    def load(self) -> Config:
        """Reads everything; raises Refused, or ends the program with the file's own error."""
        config = Config()
        if self.app is not None:
            config.set("default_proc_name", self.app, "command line")
        change_folder(config)
        location = self._typed.config or self._variable.config
        if location is None and Path(DEFAULT_FILE).is_file():
            location = f"./{DEFAULT_FILE}"
        if location is not None:
            self._read(config, location)
        for source, typed in ((f"${VARIABLE}", self._variable), ("command line", self._typed)):
            for name, value in vars(typed).items():
                if value is not None and name != "args":
                    config.set(name, value, source)
        change_folder(config)
        for path in (config.pythonpath or "").split(","):
            if path and (absolute := str(Path(path).absolute())) not in sys.path:
                sys.path.insert(0, absolute)
        if self.app is None and config.wsgi_app is not None:
            config.set("default_proc_name", config.wsgi_app, "command line")
        return config

    def target(self, config: Config) -> str:
        """The application's name."""
        target: str | None = self.app or config.wsgi_app
        if target is None:
            raise Refused("no application was named: write it as MODULE:ATTRIBUTE (main:app)")
        return target

    def _read(self, config: Config, location: str) -> None:
        if location.startswith("python:"):
            module = importlib.import_module(location.removeprefix("python:"))
            names, path = vars(module), getattr(module, "__file__", None)
        else:
            path = location.removeprefix("file:")
            names = execute(path)
        self.file = path
        places = Places(path)
        for name, value in names.items():
            if name in config.settings:
                config.set(name, value, places.of(name))
        for name in places.unused(names):
            if name not in config.settings:
                self._warn(f"{places.of(name)}: {name} is no setting{nearest(name)}")


VARIABLE = "GUNICORN_CMD_ARGS"


def change_folder(config: Config) -> None:
    """Goes where the application is, and can be imported from."""
    os.chdir(config.chdir)
    if config.chdir not in sys.path:
        sys.path.insert(0, config.chdir)


def execute(path: str) -> dict[str, Any]:
    """Runs a configuration file; the names that it leaves."""
    if not Path(path).is_file():
        raise Refused(f"{path}: there is no such configuration file")
    loader = importlib.machinery.SourceFileLoader(MODULE, path)
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    assert spec is not None  # noqa: S101 - a spec with a loader is always made
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        loader.exec_module(module)
    except Exception:
        sys.stderr.write(f"Failed to read config file: {path}\n")
        traceback.print_exc()
        sys.exit(1)
    return vars(module)


def nearest(name: str) -> str:
    """The setting that may have been meant, in words that follow."""
    close = difflib.get_close_matches(name.lower(), known(), 1, 0.7)
    return f"; is {close[0]} meant?" if close else ": it does nothing"


class Places:
    """Where a configuration file gives a name its value."""

    def __init__(self, path: str | None) -> None:
        self._path = path or "?"
        self._lines: dict[str, tuple[int, int]] = {}
        self._used: set[str] = set()
        try:
            tree = ast.parse(Path(self._path).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self._lines[node.id] = (node.lineno, node.col_offset + 1)
            elif isinstance(node, ast.Name):
                self._used.add(node.id)
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self._lines[statement.name] = (statement.lineno, statement.col_offset + 1)

    def of(self, name: str) -> str:
        """FILE:LINE:COLUMN, as well as it is known."""
        line = self._lines.get(name)
        return f"{self._path}:{line[0]}:{line[1]}" if line else self._path

    def unused(self, names: dict[str, Any]) -> list[str]:
        """Names that the file sets, and never looks at again."""
        return [
            name
            for name, value in names.items()
            if name in self._lines
            and name not in self._used
            and not name.startswith("_")
            and not isinstance(value, type | types.ModuleType)
        ]
