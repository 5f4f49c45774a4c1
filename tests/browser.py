"""A headless browser for a test, driven over its own debugging protocol: opens a page, runs
scripts in it. Waiting for what the page shows is left to the test.
"""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from running import eventually
from websockets.sync.client import connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--remote-debugging-port=0",
]


class Browser:
    """One browser with one page, in a profile of its own; it ends with the `with` block."""

    def __init__(self, program: str, profile: Path, *flags: str) -> None:
        command = [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._asked = 0
        self._stack = ExitStack()
        try:
            told = profile / "DevToolsActivePort"
            eventually(lambda: told.exists() and told.read_text().strip(), "the browser runs", 30)
            place = f"http://127.0.0.1:{told.read_text().split()[0]}/json/list"
            pages = eventually(
                lambda: [page for page in httpx.get(place).json() if page["type"] == "page"],
                "it has a page",
                30,
            )
            url = pages[0]["webSocketDebuggerUrl"]
            self._socket = self._stack.enter_context(connect(url, max_size=None))
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(20))
            if message.get("id") == self._asked:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        """Goes to a page."""
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        result = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, words: str) -> None:
        """Waits until the page shows some words."""
        shown = "document.body ? document.body.innerText : ''"
        try:
            eventually(lambda: words in self.run(shown), f"the page shows {words!r}", 15)
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows:\n{self.run(shown)}") from None
