"""Debian's chromium, driven by Selenium; whatever goes wrong in a page is collected."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.lines import line_started
from tests.edge.secured import Port, until
from tests.needs import need

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
)  # fmt: skip
WIDE, PHONE = (1440, 900), (360, 740)
PICTURE = "document.querySelector('.camera[data-picture]')"

WATCH = """
// Which verdicts and words were on the page.
window.seen = { verdicts: {}, words: [] };
new MutationObserver((changes) => {
  for (const { target, addedNodes } of changes) {
    if (target.classList?.contains("word")) window.seen.words.push(target.textContent);
    for (const node of addedNodes) if (node.dataset?.id) window.seen.verdicts[node.dataset.id] = true;
  }
}).observe(document, { subtree: true, childList: true });
"""


class Browser:
    """A browser with a page of the live view."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})

    def open(self, url: str, shows: str = PICTURE) -> None:
        """Open the page, and wait until it shows a picture, or until another expression is true in it."""
        self.driver.get(url)
        self.until(shows)

    def leave(self) -> None:
        """Close the page, so that it misses nothing when its server ends."""
        self.driver.get("about:blank")

    @contextlib.contextmanager
    def showing(self, url: str, shows: str = PICTURE) -> Iterator[None]:
        """Open the page as `open` does, and leave it at the end."""
        self.open(url, shows)
        yield
        self.leave()

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.driver.execute_script(f"return {expression}")

    def run(self, body: str) -> Any:
        """Run the body of an asynchronous function in the page, and return what it returns."""
        script = f"const done = arguments[0]; (async () => {{ {body} }})().then(done, (error) => done(String(error)));"
        return self.driver.execute_async_script(script)

    def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        give_up = time.monotonic() + WITHIN_SECONDS
        while not (value := self.js(expression)):
            assert time.monotonic() < give_up, f"never true: {expression}\n{self.js('document.body.innerText')}"
            time.sleep(0.1)  # each look costs three programs some ms
        return value

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def drag_to_left_of(self, selector: str, goal: str) -> None:
        """Drag an element with the mouse to the left end of another one."""
        handle = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", handle)
        goal_x = self.js(f"document.querySelector({json.dumps(goal)}).getBoundingClientRect().left")
        from_x = handle.rect["x"] + handle.rect["width"] / 2
        ActionChains(self.driver).click_and_hold(handle).move_by_offset(int(goal_x - from_x), 0).release().perform()

    def resize(self, width_height: tuple[int, int]) -> None:
        """Set the size of the page; a narrow one is a phone's, with touch."""
        width, height = width_height
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, theme: str) -> None:
        """Set what the system prefers: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def problems(self, expected: Sequence[str] = ()) -> list[str]:
        """Return errors of the console, failed requests and answers that are errors, since the last call. `expected`:
        parts of messages that a test causes on purpose."""
        found = [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            found += problem_of(message["method"], message["params"])
        return [each for each in found if not any(part in each for part in expected)]


def problem_of(method: str, params: dict[str, Any]) -> list[str]:
    match method:
        case "Network.responseReceived" if params["response"]["status"] >= 400:
            return [f"{params['response']['status']} {params['response']['url']}"]
        # A page that is left cancels its requests.
        case "Network.loadingFailed" if not params.get("canceled") and params["errorText"] != "net::ERR_ABORTED":
            return [f"{params['errorText']} {params.get('type')}"]
        case "Network.webSocketFrameError":
            return [params["errorMessage"]]
    return []


@contextlib.contextmanager
def started_browser() -> Iterator[Browser]:
    """Start a browser; skip the test where none is installed."""
    driver = need("chromium-driver", "chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = need("chromium")
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.set_script_timeout(WITHIN_SECONDS)
        yield Browser(chrome)
    finally:
        chrome.quit()


ENTER, ESCAPE, LEFT, RIGHT, END = Keys.ENTER, Keys.ESCAPE, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.END
DOWN, BACKSPACE = Keys.ARROW_DOWN, Keys.BACKSPACE


@contextlib.contextmanager
def served(line: Path, port: Port, *command: str | Path) -> Iterator[str]:
    """Serve the page of a line, or of what another command takes; errors of the server fail the test."""
    place = port.local.removeprefix("tcp://")
    with line_started(line, command=(HEATLINE, *(command or ("view",)), "--listen", place)) as server:
        until(lambda: "open http" in server.log(), "the page is served")
        yield f"http://{place}/"
        server.terminate()
        assert server.wait(WITHIN_SECONDS) == 0
        wrong = [text for text in server.log().splitlines() if text.startswith(("Traceback", "ERROR"))]
        assert not wrong, server.log()
