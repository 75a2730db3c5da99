"""A headless Chromium, driven by its DevTools protocol through two pipes: no library needed."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One page of a browser.

    Attributes:
      problems: What the console says of errors, such as those of the content security policy.
    """

    def __init__(self, writer, reader):
        self._writer, self._reader, self._number, self._session = writer, reader, 0, None
        self.problems = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Returns the result of a method of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _read(self):
        data = b""
        while not data.endswith(b"\0"):
            byte = self._reader.read(1)
            assert byte, "the browser has ended"
            data += byte
        return data[:-1]

    def _note(self, event):
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"])
        elif event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.problems.append(entry["text"])

    def open(self, address, *, width=900, height=700, dark=False):
        """Opens a page in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)

    def run(self, script):
        """Returns the value of a script, waited for if it is a promise."""
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script, seconds=30):
        """Waits until a script gives something true, and returns it."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def drop(self, *paths, x=100, y=200):
        """Drops files, as the mouse would."""
        data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, **how):
        """Returns the bytes of a picture of the page."""
        return base64.b64decode(self.call("Page.captureScreenshot", **how)["data"])


@contextlib.contextmanager
def chromium(profile):
    """Starts a browser with a camera that shows a test picture; yields its page.

    Args:
      profile: Empty folder of its own.
    """
    assert CHROMIUM
    from_us, to_us = os.pipe(), os.pipe()
    # The protocol's pipes are file descriptors 3 and 4.
    line = f'exec "$0" "$@" 3<&{from_us[0]} 4>&{to_us[1]}'
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-pipe",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen(
        ["bash", "-c", line, CHROMIUM, *options],
        pass_fds=(from_us[0], to_us[1]),
        stderr=subprocess.DEVNULL,
    ) as process:
        for end in (from_us[0], to_us[1]):
            os.close(end)
        with os.fdopen(from_us[1], "wb") as writer, os.fdopen(to_us[0], "rb") as reader:
            try:
                page = Page(writer, reader)
                yield page
                page._session = None
                page.call("Browser.close")
            finally:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
