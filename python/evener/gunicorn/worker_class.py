"""Which worker classes mean Evener's own worker, and what they set.

uvicorn's worker classes and their subclasses, gunicorn's `asgi`, and our own do. Others serve
something else than ASGI on an event loop and are refused by name.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from evener.gunicorn import log
from evener.gunicorn.settings import Refused
from evener.gunicorn.values import imported

STAND_IN = "Evener's stand-in"
OURS = {
    "asgi",
    "evener",
    "evener.worker",
    "gunicorn.workers.gasgi.ASGIWorker",
    "uvicorn.workers.UvicornWorker",
    "uvicorn_worker.UvicornWorker",
}
H11 = {"uvicorn.workers.UvicornH11Worker", "uvicorn_worker.UvicornH11Worker"}
OTHERS = {"sync", "gthread", "gevent", "gevent_wsgi", "gevent_pywsgi", "eventlet", "tornado"}


class UvicornWorker:
    """Stands for uvicorn's worker class where it is not installed, so that files which derive
    classes of their own from it can be read. It is never run.
    """

    CONFIG_KWARGS: dict[str, Any] = {"loop": "auto", "http": "auto"}  # noqa: RUF012


class UvicornH11Worker(UvicornWorker):
    """The same for the other one."""

    CONFIG_KWARGS: dict[str, Any] = {"loop": "asyncio", "http": "h11"}  # noqa: RUF012


def provide_if_needed() -> None:
    """Lets people's imports of what configuration files are made with succeed where they would not:
    uvicorn's worker classes, and gunicorn's loggers. What is there is not imported for it.
    """
    with_gunicorn = is_there("gunicorn")
    for name in ("uvicorn.workers", "uvicorn_worker"):
        if not with_gunicorn or not is_there(name):
            module = types.ModuleType(name, STAND_IN)
            module.UvicornWorker = UvicornWorker  # type: ignore[attr-defined]
            module.UvicornH11Worker = UvicornH11Worker  # type: ignore[attr-defined]
            sys.modules[name] = module
    if not with_gunicorn:
        package = types.ModuleType("gunicorn", STAND_IN)
        module = types.ModuleType("gunicorn.glogging", STAND_IN)
        module.Logger = log.Log  # type: ignore[attr-defined]
        module.SafeAtoms = log.Atoms  # type: ignore[attr-defined]
        module.CONFIG_DEFAULTS = log.defaults()  # type: ignore[attr-defined]
        package.glogging = module  # type: ignore[attr-defined]
        sys.modules["gunicorn"], sys.modules["gunicorn.glogging"] = package, module


def is_there(name: str) -> bool:
    """Whether a module, or one in a package, is installed; nothing is imported."""
    package, _, part = name.partition(".")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        # Our own stand-in, from the time before a reload.
        return False
    if spec is None or not part:
        return spec is not None
    return any(
        Path(place, f"{part}.py").exists() for place in spec.submodule_search_locations or ()
    )


def options(value: Any, *, given: bool) -> dict[str, Any]:
    """The CONFIG_KWARGS of a worker class that means ours; raises Refused for any other."""
    if not given:
        return {}
    if isinstance(value, str):
        if value in OURS:
            return _changed(value)
        if value in H11:
            return {"loop": "asyncio", **_changed(value)}
        if value in OTHERS:
            raise Refused(
                f"worker_class: '{value}' does not serve ASGI applications, and Evener serves "
                "nothing else: use uvicorn.workers.UvicornWorker, or leave it out"
            )
        provide_if_needed()
        try:
            value = imported(value)
        except ValueError as error:
            raise Refused(f"worker_class: {error}") from None
    names = {f"{base.__module__}.{base.__name__}" for base in getattr(value, "__mro__", ())}
    known = OURS | H11 | {"uvicorn_worker._workers.UvicornWorker"}
    known.add(f"{UvicornWorker.__module__}.UvicornWorker")
    if not names & known:
        raise Refused(
            f"worker_class: {value.__module__}.{value.__qualname__} is not derived from uvicorn's "
            "worker class, and Evener cannot run it: use uvicorn.workers.UvicornWorker"
        )
    return dict(getattr(value, "CONFIG_KWARGS", {}))


def _changed(name: str) -> dict[str, Any]:
    """What a configuration file has put into the CONFIG_KWARGS of uvicorn's own class."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None) if module else None
    kwargs = dict(getattr(found, "CONFIG_KWARGS", {}))
    return {name: value for name, value in kwargs.items() if name not in {"loop", "http"}}
