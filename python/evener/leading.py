"""The leader: the one worker that does what must be done once, and not once in each worker.

The supervisor says who leads: by EVENER_LEADER=1 in the environment at the start of a worker, or,
where a hook is there to be called, by a signal at any later time. It never has two at once.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evener.application import Application, CannotStart

# Tells a worker that it leads from now on (the same number as in the supervisor's `lib.rs`).
LEAD_SIGNAL = signal.SIGRTMIN + 2
LEADER = "EVENER_LEADER"


class Leading:
    """Whether this worker leads, and what it does then."""

    def __init__(self, hook: Callable[[], Any] | None, complain: Callable[..., Any]) -> None:
        self._hook = hook
        self._complain = complain
        self._leads = False
        self._over = False
        self._job: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """Leads, if it was started to. Requests can come already."""
        if os.environ.get(LEADER) == "1":
            self.lead()

    def lead(self) -> None:
        """From now on this worker is the leader; one that is about to end does not begin."""
        if self._leads or self._over:
            return
        self._leads = True
        os.environ[LEADER] = "1"
        if self._hook is None:
            return
        try:
            outcome = self._hook()
        except Exception:  # whatever the hook raises, requests are served
            self._complain("exception in the leader's hook", exc_info=True)
            return
        if inspect.isawaitable(outcome):
            self._job = asyncio.ensure_future(outcome)
            self._job.add_done_callback(self._finished)

    def _finished(self, job: asyncio.Future[Any]) -> None:
        if not job.cancelled() and (error := job.exception()) is not None:
            self._complain("exception in the leader's hook", exc_info=error)

    def leave(self) -> None:
        """The worker is about to end: a job that still runs is told so, by cancelling it."""
        self._over = True
        if self._job is not None:
            self._job.cancel()

    async def over(self, seconds: float) -> bool:
        """Waits for what the job does when it is cancelled; False if that takes longer."""
        if self._job is None:
            return True
        _, late = await asyncio.wait({self._job}, timeout=seconds)
        return not late


def load_hook(target: str, app_dir: str, app: Application) -> Callable[[], Any]:
    """The function that `module:function` names; it may take the application."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise CannotStart(f"--leader-hook {target}: write it as module:function")
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module raises is shown
        raise CannotStart(f"--leader-hook {target}: it cannot be imported", error) from None
    if not callable(found):
        raise CannotStart(f"--leader-hook {target}: it cannot be called")
    try:
        inspect.signature(found).bind(app)
    except (TypeError, ValueError):
        return found  # type: ignore[no-any-return]
    return lambda: found(app)
