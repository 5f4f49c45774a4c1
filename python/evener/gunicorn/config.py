"""The settings of one run as hooks and workers see them: `cfg.workers`, `cfg.settings["bind"]`.

Where the values come from is left to `sources`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evener.gunicorn.settings import Known, Refused, known


def _nothing(*_: Any) -> None:
    """A hook that was not given."""


@dataclass
class Setting:
    """One setting with its value."""

    name: str
    value: Any
    default: Any
    source: str
    known: Known

    def get(self) -> Any:
        """The value."""
        return self.value


class Config:
    """All settings; each can be read as an attribute."""

    settings: dict[str, Setting]

    def __init__(self) -> None:
        self.__dict__["settings"] = {}
        # What was set in the environment before anything of `raw_env` was.
        self.__dict__["env_orig"] = dict(os.environ)
        for name, entry in known().items():
            default = _nothing if entry.hook else entry.default
            if not entry.hook and (default is not None or name in {"user", "group"}):
                default = entry.check(default)
            self.settings[name] = Setting(name, default, default, "default", entry)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name].value
        except KeyError:
            raise AttributeError(f"there is no setting '{name}'") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.settings:
            raise AttributeError(f"there is no setting '{name}'")
        self.set(name, value)

    def set(self, name: str, value: Any, source: str = "code") -> None:
        """Sets a value, if the setting can have it."""
        setting = self.settings.get(name)
        if setting is None:
            raise AttributeError(f"there is no setting '{name}'")
        try:
            setting.value = setting.known.check(value)
        except (ValueError, TypeError) as error:
            raise Refused(f"{source}: {name}: {error}") from None
        setting.source = source

    def is_given(self, name: str) -> bool:
        """Whether anyone has set it."""
        return self.settings[name].source != "default"

    def hook(self, name: str) -> Callable[..., Any] | None:
        """The hook, if it was given."""
        return self.settings[name].value if self.is_given(name) else None

    @property
    def env(self) -> dict[str, str]:
        """What `raw_env` sets."""
        pairs = (item.partition("=") for item in self.settings["raw_env"].value)
        return {name: value for name, _, value in pairs}

    @property
    def proc_name(self) -> str:
        """The name of the process in listings."""
        name = self.settings["proc_name"].value or self.settings["default_proc_name"].value
        return str(name)

    @property
    def uid(self) -> int:
        """The user that workers run as."""
        return int(self.settings["user"].value)

    @property
    def gid(self) -> int:
        """The group that workers run as."""
        return int(self.settings["group"].value)

    @property
    def worker_class_str(self) -> str:
        """The worker's class as it was written."""
        value = self.settings["worker_class"].value
        return value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"

    @property
    def address(self) -> list[Any]:
        """Where it listens: a path, a descriptor as `fd://N`, or host and port."""
        return [address(text) for text in self.settings["bind"].value]

    @property
    def is_ssl(self) -> Any:
        """The certificate or its key, if one was given."""
        return self.settings["certfile"].value or self.settings["keyfile"].value

    @property
    def ssl_options(self) -> dict[str, Any]:
        """The settings of TLS."""
        names = ("keyfile", "certfile", "ssl_version", "cert_reqs", "ca_certs", "ciphers")
        return {name: self.settings[name].value for name in names}

    def __str__(self) -> str:
        lines = []
        width = max(map(len, self.settings))
        for name, setting in sorted(self.settings.items()):
            if setting.known.ours and setting.source == "default":
                continue
            value = setting.value
            if callable(value):
                value = f"<{value.__qualname__}()>" if setting.source != "default" else "None"
            lines.append(f"{name:<{width}} = {value}")
        return "\n".join(lines)


def address(text: str) -> Any:
    """An address of `bind` in parts; raises ValueError if it is none."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:").removeprefix("//")
    if text.startswith("fd://"):
        if not text[5:].isdigit():
            raise ValueError(f"'{text}' names no descriptor")
        return int(text[5:])
    text = text.removeprefix("tcp://")
    if text.isdigit():
        return ("0.0.0.0", int(text))  # noqa: S104 - as gunicorn reads it
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "8000"
    else:
        host, _, port = text.partition(":")
        port = port or "8000"
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text}' has no valid port")
    return (host or "0.0.0.0", int(port))  # noqa: S104
