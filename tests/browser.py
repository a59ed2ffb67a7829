"""A headless Chromium, spoken to over a pair of pipes by its DevTools protocol: nothing but the browser is needed.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Messages are JSON, ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 120.0
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-dev-shm-usage",
)


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Opened:
    """What happened while a page was opened: URLs that it asked for, and errors that it wrote."""

    requests: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qcc-browser-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def place() -> None:
            # the browser reads commands from 3 and answers on 4; neither may lie where the other is put
            read, write = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(read, 3)
            os.dup2(write, 4)

        command = [program, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}", "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=place, close_fds=False
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._rest, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        """Return the browser itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def open(self, page: Path, width: int, height: int) -> Opened:
        """Show a file in a window of so many CSS pixels, and wait until it is loaded."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        self._events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        found = Opened()
        for event in self._events:
            given = event["params"]
            match event["method"]:
                case "Network.requestWillBeSent":
                    found.requests.append(given["request"]["url"])
                case "Runtime.exceptionThrown":
                    found.errors.append(str(given["exceptionDetails"].get("text")))
                case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                    found.errors.append(str(given["args"]))
                case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                    found.errors.append(given["entry"]["text"])
                case _:
                    pass
        return found

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression on the page; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path, width: int, height: int) -> None:
        """Write the top of the page as a PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **given: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            if "method" in answer:
                self._events.append(answer)

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            answer = self._next()
            if "method" in answer:
                self._events.append(answer)

    def _next(self) -> dict[str, Any]:
        started = time.monotonic()
        os.set_blocking(self._in, False)
        while b"\0" not in self._rest:
            try:
                read = os.read(self._in, 1 << 20)
            except BlockingIOError:
                assert time.monotonic() - started < TIMEOUT, "the browser does not answer"
                time.sleep(0.01)
                continue
            assert read, "the browser is gone"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
