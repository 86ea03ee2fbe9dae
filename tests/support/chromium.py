"""Headless Chromium, driven by its DevTools protocol over a pipe: no package is needed for it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

MISSING = "needs Chromium: make browser"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    # The network is closed but for this machine: no name is resolved, no address of another taken.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# A page answers within milliseconds. A machine that is busy with other tests may take seconds.
_PATIENCE = 60.0


def find() -> str | None:
    """Return the browser's program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class PageError(AssertionError):
    """What a page's own script raised."""


class Page:
    """One page in a browser of its own, closed at the end of a ``with``.

    Attributes
    ----------
    requests : list of str
        Every address that the page asked for.
    errors : list of str
        Exceptions and errors that its scripts left.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        program = find()
        assert program is not None, MISSING
        # The browser reads commands from its file 3 and writes answers to its file 4.
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        size = f"--window-size={width},{height}"
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *_FLAGS, size, f"--user-data-dir={profile}"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._buffer, self._last, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            _ = self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            _ = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _ = self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._end_helpers()

    def _end_helpers(self) -> None:
        """End the browser's own helpers: they outlive it, and still write into its profile."""
        deadline = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, signal.SIGKILL)
                time.sleep(0.01)

    # ------------------------------------------------------------ the protocol

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result once it comes; events before it are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        _ = os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        self._keep(message)
        return message

    def _keep(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", details["text"])
            self.errors.append(thrown)
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    # ------------------------------------------------------------ what a reader does

    def open(self, address: str) -> None:
        """Load a page, and wait until its scripts have run."""
        _ = self.call("Page.navigate", url=address)
        deadline = time.monotonic() + _PATIENCE
        while not self.run("document.readyState + location.href").startswith(f"complete{address}"):
            assert time.monotonic() < deadline, f"{address} does not load"
        self.settle()

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait for two frames: what was changed is drawn then."""
        frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        _ = self.run(f"{frame}.then(() => 1)")

    def center(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view, and return the middle of it."""
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.run(script)
        return x, y

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element."""
        self.drag(selector, (0.0, 0.0))

    def drag(self, selector: str, by: tuple[float, float], *, steps: int = 3) -> None:
        """Press the mouse on an element, move it by so many pixels, and let it go."""
        x, y = self.center(selector)
        places = [(x + by[0] * k / steps, y + by[1] * k / steps) for k in range(steps + 1)]
        button: dict[str, Any] = {"button": "left", "clickCount": 1}
        self._mouse("mouseMoved", places[0])
        self._mouse("mousePressed", places[0], **button)
        if any(by):
            for place in places[1:]:
                self._mouse("mouseMoved", place, button="left", buttons=1)
        self._mouse("mouseReleased", places[-1], **button)
        self.settle()

    def _mouse(self, kind: str, place: tuple[float, float], **more: Any) -> None:
        _ = self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **more)

    def swipe(self, selector: str, by: tuple[float, float]) -> None:
        """Drag with a finger."""
        x, y = self.center(selector)
        for kind, points in (
            ("touchStart", [{"x": x, "y": y}]),
            ("touchMove", [{"x": x + by[0] / 2, "y": y + by[1] / 2}]),
            ("touchMove", [{"x": x + by[0], "y": y + by[1]}]),
            ("touchEnd", []),
        ):
            _ = self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.settle()

    def press(self, key: str, *, times: int = 1) -> None:
        """Press a key on what has the focus."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}
        for _again in range(times):
            for kind in ("keyDown", "keyUp"):
                _ = self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key.replace(" ", "Space"),
                    windowsVirtualKeyCode=codes.get(key, 0),
                )
        self.settle()

    def screen(self, width: int, height: int, *, dark: bool = False, touch: bool = False) -> None:
        """Set the size of the window and the reader's taste."""
        _ = self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        _ = self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        taste = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        _ = self.call("Emulation.setEmulatedMedia", features=taste)
        self.settle()

    def picture(self, path: Path) -> None:
        """Store the whole page as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        _ = path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def offline_page(profile: Path, address: str) -> Iterator[Page]:
    """Open an address with the network closed."""
    with Page(profile) as page:
        closed = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        _ = page.call("Network.emulateNetworkConditions", **closed)
        page.open(address)
        yield page
