"""A headless Chromium, driven over the DevTools protocol through two pipes: nothing but Python's own library is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

SECONDS_MAX = 30  # for one answer of the browser
KEYS = {  # key: (code of the key, number of the key, text it makes)
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "Space": ("Space", 32, " "),
}
SHIFT = 8


class Failed(Exception):
    """What was expected of the page did not happen."""


class Browser:
    """The process and its one connection. Events are handed out while an answer is awaited, so there are no threads."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp(prefix="russet-page-")
        from_us, self.to_browser = os.pipe()
        self.from_browser, to_us = os.pipe()
        options = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.folder}",
            # It meets our own page only, and containers offer it no sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
            "--mute-audio",
        ]
        # The browser reads from its file 3 and writes to its file 4.
        script = f'program="$1"; shift; exec "$program" "$@" 3<&{from_us} 4>&{to_us}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *options],
            pass_fds=(from_us, to_us),
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self.rest = b""
        self.number = 0
        self.pages = {}

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def send(self, method, params, session=None):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        return self.number

    def call(self, method, params, session=None, seconds=SECONDS_MAX):
        number = self.send(method, params, session)
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline, method)
            if message.get("id") == number:
                if "error" in message:
                    raise Failed(f"{method}: {message['error']['message']}")
                return message["result"]
            page = self.pages.get(message.get("sessionId"))
            if page and "method" in message:
                page.happened(message["method"], message["params"])

    def receive(self, deadline, what):
        while b"\0" not in self.rest:
            if not select.select([self.from_browser], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failed(f"the browser did not answer {what} in time")
            received = os.read(self.from_browser, 1 << 16)
            if not received:
                raise Failed(f"the browser ended: {self.process.wait()}")
            self.rest += received
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def page(self):
        """An empty page with storage of its own."""
        storage = self.call("Target.createBrowserContext", {})["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": storage})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session, storage)
        self.pages[session] = page
        for domain in ["Page", "Runtime", "Log"]:
            page.call(f"{domain}.enable")
        return page


class Page:
    def __init__(self, browser, session, storage):
        self.browser = browser
        self.session = session
        self.storage = storage
        self.complaints = []  # what the console shows as an error
        self.requests = []  # bodies of requests for answers
        self.intercept = None  # (request) -> (method, parameters) of the Fetch domain, or None to let it pass

    def call(self, method, **params):
        return self.browser.call(method, params, self.session)

    def close(self):
        self.browser.call("Target.disposeBrowserContext", {"browserContextId": self.storage})

    def happened(self, event, params):
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            # A failed request is said on the page; here are the policy's refusals and the like.
            if entry["source"] != "network":
                self.complaints.append(entry["text"])
        elif event == "Fetch.requestPaused":
            self.paused(params)

    def paused(self, params):
        request = params["request"]
        if request["url"].endswith("/chat/completions"):
            self.requests.append(json.loads(request["postData"]))
        action = self.intercept and self.intercept(request)
        method, more = action or ("Fetch.continueRequest", {})
        self.browser.send(method, {"requestId": params["requestId"], **more}, self.session)

    def watch(self):
        """From here on requests are seen, and may be answered by `intercept`."""
        self.call("Fetch.enable", patterns=[{"urlPattern": "*"}])

    def js(self, expression, seconds=SECONDS_MAX):
        """The value of an expression, awaited."""
        params = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.browser.call("Runtime.evaluate", params, self.session, seconds)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise Failed(details.get("exception", {}).get("description", details["text"]) + f"\n in {expression}")
        return result["result"].get("value")

    def wait(self, condition, what, seconds=20):
        """Until the condition holds: looked at after each frame, in the page. Its value."""
        value = self.js(
            f"""new Promise((resolve) => {{
                const until = performance.now() + {seconds * 1000};
                const look = () => {{
                    const value = ({condition});
                    if (value || performance.now() > until) resolve(value || null);
                    else setTimeout(look, 10);
                }};
                look();
            }})""",
            seconds + SECONDS_MAX,
        )
        if value is None:
            shown = self.js("document.body.innerText.slice(-600)")
            raise Failed(f"{what}: not within {seconds} s; the page ends with\n{shown}")
        return value

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.loaded()

    def reload(self):
        self.js("window.before_reload = true")
        self.call("Page.reload")
        self.loaded()

    def loaded(self):
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                ready = "!window.before_reload && document.readyState === 'complete' && !!document.querySelector('#model option, #notice:not([hidden]), #ask[open]')"
                if self.js(ready):
                    return
            except Failed:
                pass  # The page that was asked is gone.
        raise Failed("the page did not load")

    def press(self, key, modifiers=0):
        code, number, text = KEYS[key]
        event = {"key": " " if key == "Space" else key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        text = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        """As a mouse does, where the element stands: what covers it gets the click."""
        at = self.js(
            f"""(() => {{
                const node = document.querySelector({json.dumps(selector)});
                node.scrollIntoView({{ block: "nearest" }});
                const box = node.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.js("new Promise(requestAnimationFrame)")

    def prefers(self, **features):
        """Media features, as `scheme="dark"` for prefers-color-scheme."""
        names = {"scheme": "prefers-color-scheme", "motion": "prefers-reduced-motion"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": names[name], "value": value} for name, value in features.items()])

    def screenshot(self, file):
        with open(file, "wb") as out:
            out.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
