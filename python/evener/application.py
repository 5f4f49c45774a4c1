"""Finds the application that an import string names, and says clearly when it cannot.

The application's own errors are shown with their own traceback, without our frames in it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


CANNOT_START = 3


class CannotStart(Exception):
    """The worker cannot start; the text says what, where and what to do."""

    # The exit status of a worker that ends for it.
    status = CANNOT_START

    def __init__(self, what: str, cause: BaseException | None = None, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.detail = detail

    def report(self) -> str:
        """The message for people: first what it is, then the application's own traceback."""
        parts = [f"evener: {self.what}"]
        if self.cause is not None:
            parts.append("".join(traceback.format_exception(self.cause)).rstrip())
        elif self.detail:
            parts.append(self.detail.rstrip())
        return "\n".join(parts)


def load(
    target: str,
    *,
    app_dir: str,
    factory: bool,
    arguments: tuple[Sequence[Any], Mapping[str, Any]] = ((), {}),
) -> Application:
    """Imports `module:attribute` (attribute `app` unless given) and checks that it is an app.

    A factory is called with `arguments`.
    """
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    if not module_name:
        raise CannotStart(f"'{target}' names no module: write it as module:attribute (main:app)")
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module = _import(module_name, target, directory)
    found: Any = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CannotStart(
                f"module '{module_name}' ({_place(module)}) has no attribute '{attribute}': "
                f"name the application in '{target}', as in {module_name}:app"
            ) from None
    if factory:
        try:
            found = found(*arguments[0], **arguments[1])
        except Exception as error:  # whatever the factory raises is shown
            raise CannotStart(
                f"the factory '{target}' failed: mend it, or leave out --factory "
                "if it is the application itself",
                _own(error),
            ) from None
    return _checked(found, target)


def _import(module_name: str, target: str, directory: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        wanted = error.name or ""
        if module_name == wanted or module_name.startswith(wanted + "."):
            raise CannotStart(
                f"cannot import '{target}': there is no module '{wanted}' in {directory} "
                "or anywhere else on Python's path; name the directory with --app-dir"
            ) from None
        raise CannotStart(
            f"cannot import '{target}': its module '{module_name}' imports '{wanted}', "
            "which is not installed for this Python "
            f"({sys.executable})",
            _own(error),
        ) from None
    except SystemExit as error:
        raise CannotStart(
            f"cannot import '{target}': its module '{module_name}' ended the program "
            f"(exit status {error.code}) instead of being imported"
        ) from None
    except Exception as error:  # whatever the module raises is shown
        raise CannotStart(
            f"cannot import '{target}': its module '{module_name}' failed", _own(error)
        ) from None


def _checked(found: Any, target: str) -> Application:
    if not callable(found):
        raise CannotStart(
            f"'{target}' is {_a(found)}, not an ASGI application: name the application itself "
            "(for FastAPI, the FastAPI() object)"
        )
    parameters = _required(found)
    if parameters == 0:
        raise CannotStart(
            f"'{target}' takes no arguments, so it is no ASGI application: "
            "if it makes one, add --factory"
        )
    if parameters == 2 and not inspect.isclass(found):
        raise CannotStart(
            f"'{target}' takes two arguments, as WSGI applications do, and Evener serves ASGI: "
            "wrap it (a2wsgi.WSGIMiddleware), or run it with --worker-command"
        )
    application: Application = found
    return application


def _required(found: Any) -> int | None:
    """How many arguments a call needs; None if that cannot be told."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in positional and parameter.default is inspect.Parameter.empty
        for parameter in parameters
    )


def _own(error: BaseException) -> BaseException:
    """The error with the frames of importing, and of this file, cut off its traceback."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return error.with_traceback(frames)


def _is_machinery(filename: str) -> bool:
    return filename in {__file__, importlib.__file__} or filename.startswith("<frozen importlib")


def _place(module: Any) -> str:
    return getattr(module, "__file__", None) or "built in"


def _a(found: Any) -> str:
    name = type(found).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
