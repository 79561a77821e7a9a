"""A real Chromium without a window, driven by its DevTools protocol over a pair of pipes.

    with Browser(tmp_path) as browser:
        page = browser.page()
        page.open("http://127.0.0.1:9100/")
        page.js("document.title")

Each page has storage of its own. page.complaints: what its console and its policy had to say."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time

from harness import within

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
ARGUMENTS = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
             "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
             "--disable-extensions", "--no-proxy-server", "--password-store=basic", "--mute-audio",
             "--hide-scrollbars", "--disable-features=Translate,OptimizationHints,MediaRouter"]


def program():
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def why_not():
    """Why there is no browser in this run, or None. With one the tests of the page take minutes."""
    if not program():
        return "NO chromium FOUND (scripts/setup browser)"
    return None if os.environ.get("E2E_BROWSER") == "1" else "only scripts/test browser runs chromium"


class Browser:
    def __init__(self, directory):
        there, self._write = os.pipe()
        self._read, back = os.pipe()

        def place():
            # It reads commands from 3 and writes answers to 4. First out of the way of each other.
            high = [os.dup2(there, 103, inheritable=False), os.dup2(back, 104, inheritable=False)]
            os.dup2(high[0], 3, inheritable=True)
            os.dup2(high[1], 4, inheritable=True)

        arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        self.log_path = directory / "chromium.log"
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen(
                [program(), *arguments, f"--user-data-dir={directory / 'profile'}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False, preexec_fn=place,
                start_new_session=True, env=dict(os.environ, HOME=str(directory)))
        os.close(there)
        os.close(back)
        self._buffer, self._next, self.events = b"", 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Its zygotes and renderers are in its process group.
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        os.close(self._write)
        os.close(self._read)

    def _message(self, deadline):
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                return None
            data = os.read(self._read, 1 << 20)
            if not data:
                log = self.log_path.read_text(errors="replace")
                raise AssertionError(f"Chromium has ended: {log[-2000:]}")
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def command(self, method, session=None, **params):
        self._next += 1
        number, message = self._next, {"id": self._next, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + within(30)
        while True:
            answer = self._message(deadline)
            assert answer is not None, f"no answer to {method}"
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def collect(self, seconds=0.0):
        """Takes in events that have come, or come within this time."""
        deadline = time.monotonic() + seconds
        while (event := self._message(deadline)) is not None:
            self.events.append(event)

    def page(self, **kwargs):
        return Page(self, **kwargs)


class Page:
    def __init__(self, browser, width=1280, height=900, dark=False, scale=1):
        self.browser = browser
        ask = browser.command
        context = ask("Target.createBrowserContext")["browserContextId"]
        target = ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.command(f"{domain}.enable")
        self.resize(width, height, scale)
        self.scheme(dark)

    def command(self, method, **params):
        return self.browser.command(method, self.session, **params)

    def resize(self, width, height=900, scale=1):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=scale, mobile=width < 700)

    def scheme(self, dark):
        self.command("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, address):
        result = self.command("Page.navigate", url=address)
        assert not result.get("errorText"), f"{address}: {result['errorText']}"
        self.wait(f"document.readyState == 'complete' && location.href == {json.dumps(address)}")

    def js(self, expression):
        """The value of the expression, as JSON carries it."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True,
                              awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression, seconds=10):
        """Polls until the expression is true."""
        deadline = time.monotonic() + within(seconds)
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < deadline, (
                f"not within {within(seconds):g} s: {expression}; the page has "
                f"{self.js('document.body.innerText')!r}")
            time.sleep(0.05)

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    def key(self, key, text=None):
        params = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        if key in ("Enter", " "):
            text = "\r" if key == "Enter" else " "
        self.command("Input.dispatchKeyEvent", type="keyDown", **params, **({"text": text} if text else {}))
        self.command("Input.dispatchKeyEvent", type="keyUp", **params)

    def type(self, text):
        self.command("Input.insertText", text=text)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    @property
    def complaints(self):
        """[(kind, text)] of this page so far: exceptions, its console, its policy, and "network"."""
        self.browser.collect(0.05)
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(("exception", json.dumps(params["exceptionDetails"])))
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(("console", json.dumps(params["args"])))
            elif event["method"] == "Log.entryAdded":
                entry = params["entry"]
                found.append((entry["source"], f"{entry['text']} {entry.get('url', '')}"))
            elif event["method"] == "Audits.issueAdded":
                found.append(("issue", json.dumps(params["issue"])))
        return found

    def forget(self):
        """What has been complained of so far."""
        self.browser.events.clear()
