"""What a setting's value may be: each function returns the value as it is used, or raises
ValueError with what is wrong with it.

A value comes from a command line as text, or from a configuration file as any Python object.
"""

from __future__ import annotations

import grp
import importlib
import inspect
import ipaddress
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any


def count(value: Any) -> int:
    """A number that is not negative; text may be hexadecimal or octal, as in Python."""
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            raise ValueError(f"'{value}' is not a whole number") from None
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    if value < 0:
        raise ValueError(f"{int(value)} is negative")
    return int(value)


def boolean(value: Any) -> bool | None:
    """True or False, or these words."""
    if value is None or isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in {"true", "false"}:
        raise ValueError(f"{value!r} is neither True nor False")
    return word == "true"


def text(value: Any) -> str | None:
    """Text, without space around it."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value.strip()


def texts(value: Any) -> list[str]:
    """Several texts, or one."""
    if not value:
        return []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r} is not a list of texts")
    return [str(text(item)) for item in value]


def files(value: Any) -> list[str]:
    """Files that exist; patterns stay as they are."""
    named = texts(value)
    for name in named:
        if not set(name) & set("*?[") and not Path(name).exists():
            raise ValueError(f"there is no file {name}")
    return named


def dictionary(value: Any) -> dict[str, Any]:
    """A dictionary."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a dictionary")
    return value


def addresses(value: Any) -> list[str]:
    """Addresses and networks with commas between them, or `*`."""
    named = [item.strip() for item in (text(value) or "").split(",") if item.strip()]
    for name in named:
        if name != "*":
            try:
                ipaddress.ip_network(name)
            except ValueError as error:
                raise ValueError(str(error)) from None
    return named


def words(value: Any) -> list[str]:
    """Words with commas between them."""
    return [item.strip() for item in (text(value) or "").split(",") if item.strip()]


def user(value: Any) -> int:
    """A user as number; ours if there is none."""
    if value is None:
        return os.geteuid()
    if isinstance(value, int) or str(value).isdigit():
        return int(value)
    try:
        return pwd.getpwnam(value).pw_uid
    except KeyError:
        raise ValueError(f"there is no user '{value}'") from None


def group(value: Any) -> int:
    """A group as number; ours if there is none."""
    if value is None:
        return os.getegid()
    if isinstance(value, int) or str(value).isdigit():
        return int(value)
    try:
        return grp.getgrnam(value).gr_gid
    except KeyError:
        raise ValueError(f"there is no group '{value}'") from None


def folder(value: Any) -> str:
    """A folder that exists, as an absolute path."""
    path = Path(text(value) or ".").absolute()
    if not path.is_dir():
        raise ValueError(f"cannot change to '{value}': there is no such folder")
    return os.path.normpath(path)


def worker_class(value: Any) -> Any:
    """The name of a class, or a class; a function is called for it."""
    if inspect.isfunction(value) or inspect.ismethod(value):
        value = value()
    return value if inspect.isclass(value) else text(value)


def one_of(*allowed: str) -> Callable[[Any], str]:
    """One of these words."""

    def check(value: Any) -> str:
        word = (text(value) or "").lower()
        if word not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return word

    return check


def proxy_protocol(value: Any) -> str:
    """A version of the PROXY protocol; True means any."""
    if isinstance(value, bool) or value is None:
        return "auto" if value else "off"
    return one_of("off", "v1", "v2", "auto")("auto" if value == "true" else value)


def http2_cleartext(value: Any) -> str:
    """How HTTP/2 in clear text begins; True means that clients begin with it."""
    if isinstance(value, bool) or value is None:
        return "prior-knowledge" if value else "off"
    return one_of("off", "prior-knowledge", "upgrade", "both")(value)


def statsd(value: Any) -> str | None:
    """HOST:PORT, or unix://PATH."""
    address = text(value)
    if address is None or address.startswith("unix://"):
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"'{address}' is not of the form HOST:PORT or unix://PATH")
    return address


def hook(*parameters: int) -> Callable[[Any], Callable[..., Any]]:
    """A callable of so many parameters, or the dotted name of one."""

    def check(value: Any) -> Callable[..., Any]:
        if isinstance(value, str):
            value = imported(value)
        if not callable(value):
            raise ValueError(f"{value!r} cannot be called")
        taken = arity(value)
        if taken is not None and taken not in parameters:
            wanted = " or ".join(map(str, parameters))
            raise ValueError(f"it must take {wanted} arguments, and it takes {taken}")
        return value  # type: ignore[no-any-return]

    return check


def imported(name: str) -> Any:
    """What a dotted name stands for."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise ValueError(f"'{name}' is not of the form module.attribute")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import '{name}': {error}") from None


def arity(function: Callable[..., Any]) -> int | None:
    """How many positional arguments it takes; None if any number, or if that cannot be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters)
