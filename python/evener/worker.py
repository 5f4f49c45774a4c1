"""A worker process: imports the application, serves it, and ends in good order.

`python -m evener.worker APP` is what the supervisor starts. The serving itself is done by the
extension module `evener._worker`; here is the life around it: startup, signals, drain, shutdown.

Exit status: 0 after a drain, 2 for a wrong command line, 3 if the application cannot be started.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evener import environment, flags
from evener._worker import Server
from evener.application import Application, CannotStart, load
from evener.flags import Options
from evener.leading import LEAD_SIGNAL, Leading, load_hook
from evener.lifespan import Lifespan

# After the grace period, how long applications may take to notice that they are disconnected,
# and then that they are cancelled.
NOTICE_SECONDS = 2.0
CANCEL_SECONDS = 1.0
# WebSockets are closed in so many steps, spread over at most this long.
CLOSE_STEPS = 50
CLOSE_SPREAD_SECONDS = 10.0

# The supervisor sends it to a worker whose loop stands still, to show where (the same number as in
# its `fleet/watch.rs`). Signals with names have meanings for gunicorn's hooks, or for people.
STACK_SIGNAL = signal.SIGRTMIN + 1

log = logging.getLogger("evener")


class Life:
    """What else happens in a worker's life; gunicorn's hooks are made of it."""

    # Whether Ctrl-C and SIGQUIT end the worker at once; if not, that is left to the supervisor.
    hurries = False

    def load(self, options: Options) -> Application:
        """The application."""
        return load(options.app, app_dir=options.app_dir, factory=options.factory)

    def leader_hook(self, options: Options, app: Application) -> Callable[[], Any] | None:
        """What a worker calls that becomes the leader."""
        if options.leader_hook is None:
            return None
        return load_hook(options.leader_hook, options.app_dir, app)

    def complain(self, what: str, exc_info: Any) -> None:
        """Logs what went wrong without an end of the worker."""
        log.error("%s", what, exc_info=exc_info)

    def loaded(self) -> None:
        """The application is there, its lifespan has not begun."""

    def interrupted(self) -> None:
        """The worker was asked to end at once."""

    def reopen_logs(self) -> None:
        """SIGUSR1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker; returns its exit status."""
    options = flags.parse(arguments)
    set_up_logging(options.log_level)
    show_faults()
    # Where a worker is stuck is shown on its standard error by `kill -USR1`.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    return serve(options, Life())


def show_faults() -> None:
    """Crashes, and a loop that stands still, show their stacks on standard error."""
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL, all_threads=True)


def serve(options: Options, life: Life) -> int:
    """Serves until told to end; returns the exit status."""
    try:
        if options.env_file is not None:
            environment.load(options.env_file)
        with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
            runner.run(Worker(options, life).run())
    except CannotStart as error:
        sys.stderr.write(error.report() + "\n")
        sys.stderr.flush()
        return error.status
    return 0


class Worker:
    """The life of one worker."""

    def __init__(self, options: Options, life: Life) -> None:
        self._options = options
        self._life = life
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._hurry = False
        self._told_to_lead = False
        self._leading: Leading | None = None

    async def run(self) -> None:
        """From import to shutdown."""
        options = self._options
        self._listen_to_signals()
        with contextlib.closing(listening_socket(options)) as listener:
            app = self._life.load(options)
            hook = self._life.leader_hook(options, app)
            self._life.loaded()
            lifespan = Lifespan(app, options.lifespan)
            await lifespan.startup()
            server = Server(
                app,
                event_loop=asyncio.get_running_loop(),
                listener=listener.fileno(),
                page=options.page_fd,
                root_path=options.root_path,
                state=lifespan.state,
                server=server_address(options.server),
                trusted=options.proxy_headers,
                keep_alive=options.timeout_keep_alive,
                requests_max=spread(options.limit_max_requests, options.limit_max_requests_jitter),
                message_bytes_max=options.ws_max_size,
                deflate=options.ws_per_message_deflate,
                ping_interval=options.ws_ping_interval,
                ping_timeout=options.ws_ping_timeout,
                on_error=log_failure,
                on_event=self._handle_event,
            )
        server.start()
        say_ready(options.ready_fd)
        leading = self._leading = Leading(hook, self._life.complain)
        leading.begin()
        if self._told_to_lead:
            leading.lead()
        await self._stopping.wait()
        leading.leave()
        grace = 0.0 if self._hurry else options.timeout_graceful_shutdown
        leaves = asyncio.create_task(leading.over(grace), name="evener.leader")
        await self._drain(server)
        if self._hurry:
            leaves.cancel()
        elif not await leaves:
            log.warning("the leader's job does not end: leaving it alone")
        await lifespan.shutdown()
        server.stop()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(LEAD_SIGNAL, self._lead)
        # A terminal sends its interrupt to the whole group: under a supervisor it is the
        # supervisor that decides.
        supervised = self._options.ready_fd is not None
        interrupted: Callable[[], Any] = (lambda: None) if supervised else self._stopping.set
        if self._life.hurries:
            interrupted = self._interrupt
            loop.add_signal_handler(signal.SIGQUIT, interrupted)
            loop.add_signal_handler(signal.SIGUSR1, self._life.reopen_logs)
            loop.add_signal_handler(signal.SIGWINCH, lambda: None)
        loop.add_signal_handler(signal.SIGINT, interrupted)

    def _lead(self) -> None:
        """The supervisor says that this worker is the leader now."""
        self._told_to_lead = True
        if self._leading is not None:
            self._leading.lead()

    def _interrupt(self) -> None:
        """Ends without waiting for what is under way."""
        first, self._hurry = not self._hurry, True
        self._stopping.set()
        self._changed.set()
        if first:
            self._life.interrupted()

    def _handle_event(self, event: str, detail: object = None) -> None:
        if event == "limit":
            log.info("the limit of requests is reached: draining")
            self._stopping.set()
        elif event == "drained":
            self._changed.set()
        else:
            log.error("cannot accept connections, trying again: %s", detail)

    async def _drain(self, server: Server) -> None:
        """Ends what is going on: at its own pace, then disconnected, then cancelled."""
        grace = 0.0 if self._hurry else self._options.timeout_graceful_shutdown
        server.drain()
        closing = asyncio.create_task(close_websockets(server, grace), name="evener.close")
        if not await self._until_idle(server, grace):
            log.warning("%d requests are not done in time: disconnecting them", server.busy)
        closing.cancel()
        server.disconnect_all()
        if not await self._until_idle(server, NOTICE_SECONDS):
            log.warning("%d requests do not end: cancelling them", server.busy)
            for task in server.tasks():
                task.cancel()
            await self._until_idle(server, CANCEL_SECONDS)

    async def _until_idle(self, server: Server, seconds: float) -> bool:
        """Waits until nothing runs; False if that takes longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while server.busy and not (self._hurry and seconds > NOTICE_SECONDS):
                    self._changed.clear()
                    await self._changed.wait()
        return server.busy == 0


async def close_websockets(server: Server, grace: float) -> None:
    """Closes WebSockets with 1012 (service restart), spread out: their clients come back."""
    open_now = server.close_websockets(0, 1012, "")
    step = max(1, -(-open_now // CLOSE_STEPS))
    pause = min(CLOSE_SPREAD_SECONDS, grace / 2) / CLOSE_STEPS
    # One that is accepted meanwhile is closed too: the rounds go on until we are cancelled.
    while True:
        server.close_websockets(step, 1012, "service restart")
        await asyncio.sleep(pause)


def log_failure(scope: dict[str, Any] | None, error: BaseException) -> None:
    """Logs an exception of the application, with the request that it happened in."""
    if scope is None:
        log.error("exception in the application", exc_info=error)
        return
    request_id = next(
        (value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"),
        "-",
    )
    what = scope.get("method", "WEBSOCKET")
    log.error(
        "request %s, %s %s: exception in the application",
        request_id,
        what,
        scope["path"],
        exc_info=error,
    )


def set_up_logging(level: str) -> None:
    """Our own log, and that of applications written for uvicorn, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    number = 5 if level == "trace" else getattr(logging, level.upper())
    for name in ("evener", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(number)
        logger.propagate = False


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop that was asked for; `auto` is uvloop where it is installed."""
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise CannotStart(
                    "--loop uvloop: uvloop is not installed; install it, or use --loop auto"
                ) from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def listening_socket(options: Options) -> socket.socket:
    """The socket that was given, or a new one."""
    if options.socket_fd is not None:
        try:
            return socket.socket(fileno=options.socket_fd)
        except OSError as error:
            raise CannotStart(f"--socket-fd {options.socket_fd}: {error.strerror}") from None
    address = options.uds or f"{options.host}:{options.port}"
    try:
        if options.uds is not None:
            return unix_listener(options.uds, options.backlog)
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server(
            (options.host, options.port), family=family, backlog=options.backlog
        )
    except OSError as error:
        raise CannotStart(f"cannot listen on {address}: {error.strerror}") from None


def unix_listener(path: str, backlog: int) -> socket.socket:
    """Listens on a unix socket, in the place of one that nobody listens on any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) != 0:
                    Path(path).unlink()
        listener.bind(path)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def server_address(text: str | None) -> tuple[str, int | None] | None:
    """HOST:PORT as the scope shows it."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise CannotStart(f"--server {text}: not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def spread(limit: int, jitter: int) -> int:
    """The limit with a random part of the jitter on top, so that not all workers end at once."""
    return limit + random.randint(0, jitter) if limit and jitter else limit  # noqa: S311


def say_ready(descriptor: int | None) -> None:
    """Tells the supervisor that requests may come; ends the worker if nobody is there to hear it.

    A worker whose fork was ordered just before the nursery died is known to nobody: it would go on
    without anyone who sends it requests, or ends it.
    """
    if descriptor is None:
        log.info("ready")
        return
    try:
        os.write(descriptor, b"ready\n")
    except BrokenPipeError:
        raise CannotStart("nobody waits for this worker any more: it ends") from None
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
