"""From a camera and nothing else to the verdicts of a bundle, in the browser."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from heatline.edge.labels.collected import name_of
from heatline.edge.wire.events import ChangeEvent, VerdictEvent
from tests.command import heatline
from tests.edge.lines import running
from tests.edge.secured import answers, free_port, until
from tests.view.browser import ENTER, ESCAPE, Browser

BOARDS = 45
DRAW = Path(__file__).parents[2] / "examples" / "drawn_boards" / "draw.py"
TITLE = "document.querySelector('#large-title').innerText"
ENDED = "!document.querySelector('.train .start').hidden && document.querySelector('.train output').innerText"


@pytest.mark.long
def test_a_browser_leads_from_a_camera_to_the_verdicts_of_a_new_bundle(
    browser: Browser, tmp_path: Path, expected: list[str]
) -> None:
    """The camera shows drawn boards; the test looks up which are defective, as a person sees it."""
    drawn, folder = tmp_path / "drawn", tmp_path / "line1-pictures"
    subprocess.run([sys.executable, DRAW, drawn, "--count", str(BOARDS)], check=True)
    with (drawn / "labels.csv").open() as table:
        is_defective = {row["image"]: row["label"] == "defective" for row in csv.DictReader(table)}
    assert heatline("new", "line1", "--camera", drawn / "images", cwd=tmp_path).returncode == 0
    page, events, file = free_port(), free_port(), tmp_path / "line1.toml"
    text = file.read_text().replace("127.0.0.1:8420", page.local.removeprefix("tcp://"))
    text += f'\n[events]\nbind = "{events.local}"\n'
    file.write_text(text.replace("every = 0 ", "every = 1 "))
    with running(file, events.local) as run:
        while len([*folder.glob("unlabelled/*.png")]) < BOARDS:
            run.next_of(VerdictEvent)
        source_of = {name_of(event): event.source for event in run.end().verdicts}
    kept = [*folder.glob("unlabelled/*.png")]
    file.write_text(text)
    with running(file, events.local) as run:
        until(lambda: answers(page.number), "the page is served")
        browser.open(f"http://{page.local.removeprefix('tcp://')}/")
        browser.until("!document.querySelector('#collecting').hidden")
        browser.find(".to-label").click()
        browser.until("document.querySelectorAll('.cell').length > 20")
        browser.press(ENTER)
        for left in range(len(kept), 0, -1):
            name = browser.until(TITLE)
            browser.press("d" if is_defective[str(source_of[name])] else "g")
            browser.until(f"{left} === 1 || {TITLE} !== {name!r}")
        browser.press(ESCAPE)
        browser.until("document.querySelector('[data-filter=unlabelled] b').innerText === '0'")
        browser.driver.execute_script(
            "localStorage.setItem('reviewer', 'Ada'); prompt = () => '1'; document.querySelector('.start').click()"
        )
        until(lambda: browser.js(ENDED), within_s=480)
        browser.find(".train .use").click()
        change = run.next_of(ChangeEvent)
        assert (change.applied, change.by) == (True, "Ada")
        judged = run.until(lambda event: isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT")
        assert judged.bundle == change.bundle
        expected.append("favicon")  # the report is one file, and asks for no icon
        browser.driver.get(f"http://{page.local.removeprefix('tcp://')}/label/api/report/report.html")
        browser.leave()
