"""The lifespan of the application: its startup before the first request, its shutdown after the
last.

One task runs the application's lifespan call from start to end, so that what it opens (task
groups, context managers) is closed by the same task.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from evener.application import Application, CannotStart, Message

Mode = Literal["auto", "on", "off"]

# How long an application that has said its last may take to end.
LAST_WORDS_SECONDS = 1.0

log = logging.getLogger("evener")


class Lifespan:
    """Runs the lifespan of one application."""

    def __init__(self, app: Application, mode: Mode) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._mode = mode
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._answer: asyncio.Future[Message] | None = None
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Returns when the application has started; raises CannotStart if it cannot."""
        if self._mode == "off":
            return
        self._task = asyncio.create_task(self._run(), name="evener.lifespan")
        answer = await self._ask("lifespan.startup", self._task)
        if answer is None:
            await self._without_lifespan()
        elif answer["type"] == "lifespan.startup.failed":
            error = await last_words(self._task)
            said = str(answer.get("message") or "it gave no reason")
            raise CannotStart("the application's startup (lifespan) failed", error, said)

    async def shutdown(self) -> None:
        """Returns when the application has shut down; what goes wrong is logged."""
        if self._task is None:
            return
        if self._task.done():
            log_failure(self._task, "while it was serving")
            return
        answer = await self._ask("lifespan.shutdown", self._task)
        if answer is None:
            log_failure(self._task, "in its shutdown")
        elif answer["type"] == "lifespan.shutdown.failed":
            said = answer.get("message") or "it gave no reason"
            log.error("the application's shutdown (lifespan) failed: %s", said)
        await last_words(self._task)

    async def _run(self) -> None:
        scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await self._app(scope, self._to_app.get, self._send)

    async def _send(self, message: Message) -> None:
        answer = self._answer
        kind = str(message.get("type"))
        if answer is None or answer.done() or not kind.startswith("lifespan."):
            raise RuntimeError(f"ASGI message '{kind}': it answers nothing that was asked")
        answer.set_result(message)

    async def _ask(self, kind: str, task: asyncio.Task[None]) -> Message | None:
        """Sends a message; the answer, or None if the application ends without one."""
        self._answer = answer = asyncio.get_running_loop().create_future()
        self._to_app.put_nowait({"type": kind})
        waited: set[asyncio.Future[Any]] = {task, answer}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None

    async def _without_lifespan(self) -> None:
        """The application has ended instead of starting: it may not know of lifespans."""
        task, self._task = self._task, None
        error = task.exception() if task is not None and not task.cancelled() else None
        if self._mode == "on":
            raise CannotStart(
                "the application does not answer 'lifespan.startup', and --lifespan is 'on'",
                error,
                "Mend its lifespan, or leave out the flag.",
            )
        if error is not None:
            log.debug("the application has no lifespan: %r", error)


async def last_words(task: asyncio.Task[None]) -> BaseException | None:
    """What the application raises after it has said its last."""
    await asyncio.wait({task}, timeout=LAST_WORDS_SECONDS)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=LAST_WORDS_SECONDS)
    return task.exception() if task.done() and not task.cancelled() else None


def log_failure(task: asyncio.Task[None], when: str) -> None:
    """Logs the exception that the lifespan ended with, if it did."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("the application's lifespan failed %s", when, exc_info=error)
