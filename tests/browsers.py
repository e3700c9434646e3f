"""Chromium without a window, for tests of pages."""

import base64
import contextlib
import functools
import http.server
import json
import os
import pathlib
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

WIDTHS = (1280, 390)  # of a laptop and of a phone, pixels
THEMES = ("light", "dark")

_EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-dev-shm-usage",
    # A camera that shows a test pattern, which every page may use.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # No page reaches another machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
_SECONDS_TO_ANSWER = 120


class Browser:
    """A page of Chromium, driven by the DevTools protocol through a pair of pipes.

    Attributes:
        complaints: Messages of the console, and exceptions, of the page and its workers.
        requests: Addresses that the page and its workers have asked for.
    """

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, answers
        self._pending = b""  # read from the pipe, but not yet looked at
        self._number = 0
        self._session = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True
        )

    def call(self, method: str, **parameters) -> dict:
        """Sends a command and waits for its answer."""
        number = self._send(method, self._session, parameters)
        while (answer := self._read()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: str | pathlib.Path, width: int = 1280, theme: str = "light") -> None:
        """Opens a file or an address, and waits until it is loaded."""
        self.show(width, theme)
        self.complaints.clear()
        self.requests.clear()
        url = page.as_uri() if isinstance(page, pathlib.Path) else page
        self.call("Page.navigate", url=url)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def show(self, width: int, theme: str = "light") -> None:
        """Changes the width of the window in pixels, and the colour scheme."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def value(self, expression: str):
        """Evaluates JavaScript on the page; waits for the result of a promise."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression is true."""
        self.value(
            f"(async () => {{ while (!({condition}))"
            " await new Promise((resolve) => setTimeout(resolve, 20)); })()"
        )

    def choose_file(self, selector: str, path: pathlib.Path) -> None:
        """Chooses a file in an input, as a person does in the dialogue of the system."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key: str) -> None:
        """Presses and releases a key, such as "ArrowDown" or "Enter"."""
        code = {"windowsVirtualKeyCode": 13, "text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: pathlib.Path) -> None:
        """Writes the whole page, also what lies below the window, as a PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")

    def _send(self, method: str, session: str | None, parameters: dict) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._number

    def _read(self) -> dict:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._answers], [], [], _SECONDS_TO_ANSWER)
            assert ready, "the browser does not answer"
            read = os.read(self._answers, 1 << 16)
            assert read, "the browser is gone"
            self._pending += read
        message, _, self._pending = self._pending.partition(b"\0")
        answer = json.loads(message)
        method, parameters = answer.get("method"), answer.get("params")
        if method in _COMPLAINTS:
            self.complaints.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Target.attachedToTarget" and self._session:  # a worker of the page
            worker = parameters["sessionId"]
            for command in ("Runtime.enable", "Network.enable", "Runtime.runIfWaitingForDebugger"):
                self._send(command, worker, {})
        return answer


@contextlib.contextmanager
def running_browser(
    profile: pathlib.Path, *options: str, has_gpu: bool = False
) -> Iterator[Browser]:
    """Starts Chromium; the test is skipped where it is not installed.

    Args:
        profile: A folder for its files.
        options: Further options of its command line.
        has_gpu: Whether pages may use a GPU.
    """
    if not has_gpu:
        options = (*options, "--disable-gpu")
    executable = next(filter(None, map(shutil.which, _EXECUTABLES)), None)
    if executable is None:
        pytest.skip(f"needs a browser, one of {', '.join(_EXECUTABLES)}, which is not installed")
    (its_commands, commands), (answers, its_answers) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        # The browser reads from descriptor 3 and writes to 4.
        ["sh", "-c", f'exec "$@" 3</dev/fd/{its_commands} 4>/dev/fd/{its_answers}', "sh",
         executable, *_OPTIONS, f"--user-data-dir={profile}", *options],
        pass_fds=(its_commands, its_answers),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(its_commands)
    os.close(its_answers)
    try:
        browser = Browser(commands, answers)
        yield browser
        browser.close()
        process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[str]:
    """Serves a folder on this machine; yields its address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
