"""The page that labels pictures, in a real browser. An error in the console, or an answer that is one, fails."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains

from heatline.edge.labels.folder import LabelFolder
from heatline.edge.util.text import encode_json
from tests.edge.secured import free_port
from tests.edge.test_labels import fill_with_pictures, post, state
from tests.view.browser import DOWN, END, ENTER, ESCAPE, PHONE, RIGHT, Browser, served

STORED = "document.querySelector('.cell') && !document.querySelector('[aria-label*=\"not stored\"]')"
CELLS = "[...document.querySelectorAll('.cell')]"
NAMES = f"{CELLS}.sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((cell) => cell.dataset.name)"
NOTICE = "document.querySelector('#notice').innerText"


HOLD = """
const [held] = arguments, asked = window.fetch;
const released = new Promise((resolve) => (window.release = resolve));
window.asking = 0;
window.fetch = async (url, options) => {
  window.asking++;
  if (url.includes(held)) await released;
  return asked(url, options).finally(() => window.asking--);
};
"""
"""Holds the requests of its argument until `release`, and counts those that are not answered."""


def choose(browser: Browser, name: str) -> None:
    browser.find(f"[data-filter={name}]").click()


def opened(browser: Browser) -> str:
    """Wait until the large picture can be drawn on; return its name."""
    browser.until("document.querySelector('#large [data-tool]:enabled')")
    return browser.text("#large-title")


def test_one_key_labels_boxes_and_strokes_show_where_and_each_step_is_taken_back(
    browser: Browser, tmp_path: Path
) -> None:
    folder = fill_with_pictures(tmp_path / "pictures", *(f"{number}.png" for number in range(1, 5)))
    with served(folder, free_port(), "label") as url, browser.showing(url, STORED):
        browser.press(RIGHT, "g", "d", "d")  # the first arrow makes the second picture the current one
        browser.until(STORED)
        expected = {"1.png": "unlabelled", "2.png": "good", "3.png": "defective", "4.png": "defective"}
        assert {name: label for name, (label, _) in state(folder).items()} == expected
        counts = browser.js(
            "[...document.querySelectorAll('[data-filter] b')].slice(0, 4).map((each) => each.innerText)"
        )
        assert counts == ["4", "1", "1", "2"]
        browser.driver.execute_script(HOLD, "api/label")
        browser.press("z", "z", ENTER)
        assert opened(browser) == "3.png"
        browser.press("2", " ")
        browser.driver.execute_script("window.release()")
        browser.until("document.querySelector('#large .about').innerText === 'Unlabelled.' && window.asking === 0")
        browser.press(DOWN, DOWN, RIGHT, " ", "3", " ", RIGHT, " ")
        picture = browser.find("#large .picture")
        ActionChains(browser.driver).move_to_element(picture).click_and_hold().move_by_offset(40, 0).release().perform()
        browser.until("document.querySelector('#large .about').innerText === 'Defective.'")
        drawn = LabelFolder(folder)
        areas: Any = drawn.places_of(drawn.pictures()["3.png"])[0]
        assert (areas["boxes_xywh"], len(areas["strokes"])) == ([[30, 20, 2, 3]], 2)
        browser.press("z", ESCAPE)
        browser.until("document.querySelectorAll('#large .drawn .stroke').length === 1")
        browser.press("g")
        browser.until("document.querySelector('#large-title').innerText === '4.png'")
        browser.press("z")
        assert opened(browser) == "3.png"
        browser.until("document.querySelectorAll('#large .drawn .stroke').length === 1")
        browser.press(ESCAPE)
        browser.until(STORED)
        assert state(folder)["3.png"] == ("defective", True)
        browser.open(url, STORED)
        browser.resize(PHONE)
        browser.find('.cell[data-name="3.png"]').click()
        opened(browser)
        browser.until("document.querySelectorAll('#large .drawn .stroke').length === 1")
        browser.find("#large [data-label=unlabelled]").click()
        browser.until("document.querySelector('#large-title').innerText === '4.png'")
        browser.until(STORED)
        assert state(folder)["3.png"] == ("unlabelled", False)


def test_what_somebody_else_labelled_meanwhile_is_told_and_not_overwritten(
    browser: Browser, expected: list[str], tmp_path: Path
) -> None:
    expected += ["/label/api/label"]
    port = free_port()
    folder = fill_with_pictures(tmp_path / "pictures", "1.png", "2.png")
    with served(folder, port, "label") as url, browser.showing(url, STORED):
        assert post(port.number, "2.png", "good", ["unlabelled", 0]).status == 200
        browser.until("document.querySelector('[data-name=\"2.png\"]').dataset.label === 'good'")
        browser.driver.execute_script(HOLD, "/pictures?")
        browser.press("d")  # after its answer, what the page knows is known
        browser.until(STORED)
        assert post(port.number, "1.png", "good", ["defective", 0]).status == 200
        browser.press("z")
        browser.until(
            "document.querySelector('#notice').innerText.startsWith('Somebody else changed 1.png: it is good')"
        )
        assert state(folder)["1.png"][0] == "good"
        browser.driver.execute_script("window.release()")
        browser.until("document.querySelector('[data-name=\"1.png\"]').dataset.label === 'good'")


def test_a_label_that_the_server_did_not_store_is_not_shown_as_if_it_were(
    browser: Browser, expected: list[str], tmp_path: Path
) -> None:
    expected += ["ERR_CONNECTION_REFUSED"]
    port = free_port()
    folder = fill_with_pictures(tmp_path / "pictures", "1.png")
    with served(folder, port, "label") as url:
        browser.open(url, STORED)
    browser.until("document.querySelector('.state').innerText.startsWith('No connection')")
    browser.press("g")
    browser.until(f"{NOTICE}.endsWith('this is not stored.')")
    browser.until("document.querySelector('.cell').dataset.label === 'unlabelled'")
    with served(folder, port, "label"):
        browser.until("document.querySelector('.state').innerText === ''")
        browser.press("g")
        browser.until("document.querySelector('.cell').dataset.label === 'good'")
        browser.until(STORED)
        assert state(folder)["1.png"][0] == "good"
        browser.leave()


def test_doubtful_labels_come_first_and_near_duplicates_together(browser: Browser, tmp_path: Path) -> None:
    folder = fill_with_pictures(tmp_path / "pictures", *(f"{name}.png" for name in "abcd"))
    (folder / "copy of b.png").write_bytes((folder / "b.png").read_bytes())
    labels = LabelFolder(folder)
    for name, label in (("a.png", "good"), ("c.png", "good"), ("d.png", "defective")):
        labels.relabel(name, label, ("unlabelled", 0))  # type: ignore[arg-type]
    scores = {"good/a.png": -4.0, "good/c.png": 3.0, "defective/d.png": 0.5, "gone.png": 9.0}
    frames = [{"image": image, "score": score} for image, score in scores.items()]
    (tmp_path / "report").mkdir()
    content = {"frames": frames, "calibration": {"score_threshold": 1.0}}
    (tmp_path / "report" / "evaluation.json").write_bytes(encode_json(content))
    with served(folder, free_port(), "label", "--run", tmp_path) as url, browser.showing(url, STORED):
        choose(browser, "doubtful")
        browser.until(f"{NAMES}.join() === 'c.png,d.png,a.png'")
        assert browser.text("[data-filter=doubtful]") == "Doubtful 2"
        browser.press("d")
        browser.until(f"{NAMES}.join() === 'd.png,c.png,a.png'")
        choose(browser, "alike")
        browser.until(f"{NAMES}.join() === 'b.png,copy of b.png' || {NAMES}.join() === 'copy of b.png,b.png'")


@pytest.mark.parametrize("count", [1000, pytest.param(5000, marks=pytest.mark.long)])
def test_thousands_of_pictures_scroll_with_few_nodes(browser: Browser, tmp_path: Path, count: int) -> None:
    folder = fill_with_pictures(tmp_path / "pictures", "0.png")
    for number in range(1, count):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    with served(folder, free_port(), "label") as url, browser.showing(url, STORED):
        assert browser.text("[data-filter=all]") == f"All {count:,}"
        most = browser.run(
            """
            const grid = document.querySelector("#grid");
            let most = 0;
            for (let at = 0; at < 20; at++) {
              grid.scrollTop = (at / 19) * grid.scrollHeight;
              await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
              most = Math.max(most, document.querySelectorAll("*").length);
            }
            return most;
            """
        )
        assert most < 1000
        browser.press(END, "g")
        browser.until(f"document.querySelector('[data-name=\"{count - 1}.png\"]').dataset.label === 'good'")
        browser.until(f"{CELLS}.every(({{ firstElementChild: image }}) => image.naturalWidth > 0)")
        browser.until(STORED)
        assert (folder / "good" / f"{count - 1}.png").exists()
