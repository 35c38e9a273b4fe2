"""The page in a real browser, of a real line. An error in the console, a failed request or a server's error fails."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from selenium.webdriver import ActionChains

from heatline.edge.bundle import Bundle
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import BundleName, EvidenceState, Mark, Pose, StatusEvent, Stroke, VerdictEvent
from tests.edge.boards import board, board_bundle, moved
from tests.edge.lines import (
    RunningLine,
    running,
    small_frames,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.edge.secured import free_port, until
from tests.edge.status_only_line import a_status
from tests.edge.test_collecting import CAMERA, pictures
from tests.edge.test_collecting import Line as CollectingLine
from tests.edge.view_pages import line_with_marks, marked, page, picture, stored, verdict
from tests.small_bundle import dark_square, lenient_bundle
from tests.view.browser import BACKSPACE, DOWN, END, ENTER, ESCAPE, LEFT, PHONE, RIGHT, WIDE, Browser, served

LAST = ".strip button:last-child"
FRAMES_PER_S = 3
REVIEWED = 4
"""DEFECTs of the camera whose frames are reviewed."""


def open_review(browser: Browser) -> str:
    """Open the review by its key; return the picture that it shows first."""
    browser.press("v")
    return str(browser.until("document.querySelector('#review').dataset.picture"))


class View(NamedTuple):
    """A line that runs, and the address of its page."""

    run: RunningLine
    url: str


def click_zoomed(browser: Browser, x: int, y: int) -> None:
    """Click a place of a magnified picture of 300 x 230 px, after a drag, which must not point at a place."""
    browser.until("performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/frame.png'))")
    stage, place = "document.querySelector('#review .stage')", browser.find("#review .stage")
    browser.driver.execute_script(f"{stage}.scrollTo(0, 0)")
    ActionChains(browser.driver).move_to_element(place).click_and_hold().move_by_offset(-60, -40).release().perform()
    scale, width, height, left, top = browser.js(
        f"[{stage}.firstElementChild.clientWidth / 300, {stage}.clientWidth, {stage}.clientHeight, "
        f"{stage}.scrollLeft, {stage}.scrollTop]"
    )
    assert (scale == int(scale), scale * 300 > width, min(left, top) > 0) == (True, True, True), "magnified, scrolled"
    centre_x, centre_y = left + width // 2, top + height // 2
    ActionChains(browser.driver).move_to_element_with_offset(
        place, x * scale - centre_x, y * scale - centre_y
    ).click().perform()


def looped(folder: Path, **keys: Any) -> Mapping[str, Any]:
    """A camera that shows small frames again and again; every third one is a DEFECT."""
    pictures = write_pictures(folder / "pictures", small_frames(3 * REVIEWED))
    return {"kind": "folder", "path": str(pictures), "loop": True, "rate_fps": FRAMES_PER_S, **keys}


@pytest.fixture(scope="module")
def unopened(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[View]:
    """A line of one camera, for tests that only look."""
    folder, events = tmp_path_factory.mktemp("viewed"), free_port()
    line = write_line_with(folder, bundle.path, events.local, {"top": looped(folder)}, top="acting = false")
    with running(line, events.local) as run, served(line, free_port()) as url:
        run.until_inspected()
        yield View(run, url)


@pytest.fixture
def view(unopened: View, browser: Browser) -> View:
    """The line whose page is open in the browser."""
    browser.open(unopened.url)
    return unopened


def picture_id(event: VerdictEvent) -> str:
    return f"{event.boot_id[:8]}-{event.camera}-{event.frame_number}"


def next_defect(run: RunningLine) -> VerdictEvent:
    return run.until(lambda event: isinstance(event, VerdictEvent) and event.verdict == "DEFECT")


def newest_defect(browser: Browser) -> str:
    """Return the selector of a DEFECT whose picture the server still has."""
    found = browser.until("[...document.querySelectorAll('.strip [data-verdict=DEFECT]')].at(-1)?.dataset.id")
    return f'.strip [data-id="{found}"]'


def test_a_new_defect_arrives_with_its_picture_heatmap_and_outline(browser: Browser, view: View) -> None:
    browser.until(f"window.seen.verdicts[{picture_id(next_defect(view.run))!r}]")
    browser.until("window.seen.words.includes('DEFECT')")
    # One script looks at everything: at any moment the next frame, a GOOD one, takes this one's place.
    width, opaque, corner = browser.until(
        """(() => {
          if (!document.querySelector('.marks .region')) return null;
          const heat = document.querySelector('canvas.heat').getContext('2d');
          const alpha = (width, height) => heat.getImageData(0, 0, width, height).data.reduce(
            (most, value, i) => (i % 4 === 3 ? Math.max(most, value) : most), 0);
          return [document.querySelector('canvas.frame').width, alpha(300, 230), alpha(1, 1)];
        })()"""
    )
    assert (width, opaque > 200, corner) == (300, True, 0), "the heatmap covers the dark square and nothing else"
    assert browser.text(".legend .threshold").startswith("outlined from ")
    browser.until("document.querySelector('.facts .age')?.innerText.endsWith('s ago')")


def test_a_click_or_the_keyboard_alone_tells_why_and_the_heatmap_can_be_hidden(browser: Browser, view: View) -> None:
    opacity = "getComputedStyle(document.querySelector('canvas.heat')).opacity"
    before = browser.js(opacity)
    browser.press("h")
    assert browser.js(opacity) == "0"
    browser.press("h")
    assert browser.js(opacity) == before
    browser.driver.execute_script(f"document.querySelector('{newest_defect(browser)}').click()")
    browser.until("document.querySelector('#why .crop')?.naturalWidth")
    browser.until("[...document.querySelectorAll('#why .same-place img')].every((image) => image.naturalWidth > 0)")
    why = browser.text("#why")
    for words in ("DEFECT: top, frame", "Strongest evidence here: ", "Bundle's digest"):
        assert words in why
    assert browser.js("document.querySelectorAll('#why .marks .tile').length") == 1
    browser.press(ESCAPE)
    assert browser.js("document.querySelector('#why').hidden && document.activeElement.closest('.strip') !== null")
    browser.until("document.querySelectorAll('.strip button').length > 9")
    browser.driver.execute_script("document.querySelector('.strip [tabindex=\"0\"]').focus()")
    browser.press(END, LEFT, LEFT)
    chosen = browser.js("document.activeElement.dataset.id")
    browser.press(ENTER)
    browser.until(f"document.querySelector('.strip [aria-pressed=true]')?.dataset.id === {chosen!r}")
    title = browser.text("#why-title")
    browser.press(LEFT)
    browser.until(f"document.querySelector('#why-title').textContent !== {title!r}")


def test_a_dragged_threshold_counts_again_and_changes_nothing(browser: Browser, view: View) -> None:
    browser.until("document.querySelector('#scores .outcome').textContent.includes('now:')")
    before = browser.text("#scores .outcome")
    browser.drag_to_left_of("#scores .handle", "#scores .bars")
    assert browser.text("#scores .outcome") != before
    assert browser.text("#scores .lines").startswith("[thresholds]\nscore = ")
    tried = "Number(document.querySelector('#scores .handle').getAttribute('aria-valuenow'))"
    lowest = browser.js(tried)
    browser.press(RIGHT)
    assert browser.js(tried) > lowest
    later = next_defect(view.run)
    browser.find("#scores .reset").click()
    assert browser.js(tried) == pytest.approx(later.score_threshold, abs=0.01)


def test_a_tolerance_is_shown_and_tried(browser: Browser, bundle: Bundle, tmp_path: Path) -> None:
    """The square is some mm large, at 0.1 mm a px."""
    matrix, measured = [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 1]], "2026-01-01T00:00:00Z"
    scale = {"scale.size": [300, 230], "scale.homography": matrix, "scale.error_mm": 0.1, "scale.measured_at": measured}
    events = free_port()
    camera = looped(tmp_path, ignore_below_mm=100.5, **scale)
    line = write_line_with(tmp_path, bundle.path, events.local, {"top": camera})
    with running(line, events.local) as run, served(line, free_port()) as url, browser.showing(url):
        run.until(lambda event: isinstance(event, VerdictEvent) and event.tolerated)
        browser.until("document.querySelector('.strip [data-verdict=GOOD][data-tolerated=true]')")
        outcome = "document.querySelector('#scores .outcome')"
        browser.until(f"{outcome}.textContent.endsWith(', 0 would have been rejected (now: 0).')")
        limit = browser.find("#scores .below")
        assert limit.get_attribute("value") == "100.5"
        limit.clear()
        limit.send_keys("0.5")
        browser.until(f"Number({outcome}.querySelector('strong').textContent) > 0")
        written = '# in the [[cameras]] table of "top"\nignore_below_mm = 0.5\n[thresholds]'
        assert browser.text("#scores .lines").startswith(written)
        limit.send_keys("-")
        browser.until(f"{outcome}.textContent.startsWith('The tolerance is no number; expected more than 0 ')")


def test_a_phone_shows_all_without_scrolling_sideways_and_a_chosen_theme_is_remembered(
    browser: Browser, unopened: View
) -> None:
    browser.resize(PHONE)
    browser.open(unopened.url)
    browser.until("document.querySelector('#history canvas') && document.querySelector('#scores .outcome').innerText")
    assert browser.js("document.documentElement.scrollWidth") == PHONE[0]
    is_dark = "Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)) < 64"
    for theme in ("dark", "light"):
        browser.prefer(theme)
        assert browser.js(is_dark) == (theme == "dark")
    browser.driver.execute_script(f"document.querySelector('{newest_defect(browser)}').click()")
    browser.until("document.querySelector('#why .crop')?.naturalWidth")
    open_review(browser)
    for panel in ("#why", "#review"):
        assert browser.js(f"document.querySelector('{panel}').scrollWidth") <= PHONE[0]
    browser.find("#review .zoom").click()
    bottom, top = browser.js(
        "[['.stage', 'bottom'], ['.marking', 'top']].map(([part, side]) => "
        "document.querySelector(`#review ${part}`).getBoundingClientRect()[side])"
    )
    assert bottom <= top, "the magnified picture leaves the buttons free"
    choose = "const s = document.querySelector('#theme'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    browser.driver.execute_script(choose.format("dark"))
    browser.open(unopened.url)
    assert browser.js(is_dark)
    browser.driver.execute_script(choose.format("auto"))


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[tuple[str, list[Mark]]]:
    """The address of a page of stored DEFECTs, and the marks that their line journals."""
    memory, image = Memory(), small_frames(3)["003.png"]
    for number in range(1, REVIEWED + 1):
        event = marked(number, frame_hw=image.shape[:2])
        stored(tmp_path / "evidence", image, number=number, frame_hw=image.shape[:2])
        memory.add_verdict(event, live=True)
        memory.add_picture(picture(event, image))
    with (
        line_with_marks(tmp_path, memory) as (socket, marks),
        page(memory, store=EvidenceStore(tmp_path / "evidence"), line_socket=socket) as served_page,
    ):
        yield f"http://127.0.0.1:{served_page.port}/", marks


def test_marks_by_the_keyboard_and_a_click_are_journalled_and_empty_the_queue(
    reviewed: tuple[str, list[Mark]], browser: Browser
) -> None:
    url, marks = reviewed
    browser.open(url)
    open_review(browser)
    browser.until(f"document.querySelector('#review .number').textContent === '{REVIEWED}'")
    shown = [browser.js("document.querySelector('#review').dataset.picture")]

    def mark(*keys: str) -> None:
        browser.press(*keys)
        browser.until(f"document.querySelector('#review').dataset.picture !== {shown[-1]!r}")
        shown.append(browser.js("document.querySelector('#review').dataset.picture"))

    browser.find("#review .heatmap").click()
    assert browser.js("getComputedStyle(document.querySelector('#review canvas.heat')).opacity") == "0"
    browser.press("r")
    browser.until("document.querySelector('#reviewer').open")
    mark("Anna", ENTER)
    assert browser.js("location.hash") == "#review"
    mark("f")
    browser.press("m")
    picture = browser.find("#review .picture")
    x, y = picture.size["width"] // 4, -picture.size["height"] // 4
    ActionChains(browser.driver).move_to_element_with_offset(picture, x, y).click().perform()
    browser.until("document.querySelectorAll('#review .point').length === 1")
    browser.press("z")
    click_zoomed(browser, 60, 150)
    browser.until("document.querySelectorAll('#review .point').length === 2")
    mark(ENTER)
    browser.press("r")
    browser.until("!document.querySelector('#review .none').hidden")
    browser.until(
        "[...document.querySelectorAll('#review .own small')].every((each) => /^in the/.test(each.innerText))"
    )
    assert (browser.text("#review .number"), browser.text("#open-review b")) == ("0", "0")
    assert [(mark.kind, mark.by) for mark in marks] == [
        (kind, "Anna") for kind in ("right", "false_alarm", "missed", "right")
    ]
    assert [mark.picture for mark in marks] == shown
    (at_x, at_y), zoomed = marks[2].at_xy
    assert max(abs(at_x - 225), abs(at_y - 57)) <= 2, "of a frame of 300 x 230 px"
    assert max(abs(zoomed[0] - 60), abs(zoomed[1] - 150)) <= 1
    browser.press("u")
    browser.until("document.querySelector('#review .number').textContent === '1'")
    browser.press(ESCAPE)
    assert browser.js("document.querySelector('#review').hidden")
    sign = "document.querySelector('.strip [data-id=\"{}\"]').dataset.review"
    assert [browser.js(sign.format(each)) for each in shown] == ["✓", "✕", "+", ""]
    assert "missed defect by Anna" in browser.js(f"document.querySelector('.strip [data-id=\"{shown[2]}\"]').title")


def drag(browser: Browser, *shares: tuple[float, float]) -> None:
    """Drag the mouse over the picture in the review, along places in shares of its width and height."""
    place, actions = browser.find("#review .picture"), ActionChains(browser.driver, duration=0)
    for number, (x, y) in enumerate(shares):
        at = round((x - 0.5) * place.size["width"]), round((y - 0.5) * place.size["height"])
        actions.move_to_element_with_offset(place, *at)
        if number == 0:
            actions.click_and_hold()
    actions.release().perform()


def test_boxes_and_strokes_of_missed_defects_are_drawn_undone_journalled_and_shown_again(
    reviewed: tuple[str, list[Mark]], browser: Browser
) -> None:
    """By the mouse, and the last ones by the keyboard; px of a frame of 300 x 230 px, whose step is 5 px."""
    url, marks = reviewed
    browser.open(url)
    browser.driver.execute_script("localStorage.setItem('reviewer', 'Anna')")
    first = open_review(browser)

    def drawn(where: str = "#review") -> list[int]:
        parts = [f"document.querySelectorAll('{where} {part}').length" for part in (".point", ".box", ".stroke")]
        return [int(count) for count in browser.js(f"[{','.join(parts)}]")]

    browser.press("m", "2")
    drag(browser, (0.2, 0.3), (0.5, 0.4), (0.4, 0.6))
    drag(browser, (0.7, 0.7), (0.8, 0.8))
    drag(browser, (0.1, 0.1))
    assert drawn() == [0, 2, 0], "a click is no box"
    browser.find("#review .undo").click()
    browser.find("#review [data-tool=strokes]").click()
    browser.press("+", "+")
    assert browser.text("#review .brush output") == "9 px"
    drag(browser, (0.5, 0.8), (0.6, 0.8), (0.6, 0.9))
    drag(browser, *[(0.1 + 0.8 * number / 199, 0.1 + 0.05 * (number % 2)) for number in range(200)])
    drag(browser, (0.9, 0.5))
    assert drawn() == [0, 1, 3]
    browser.press(BACKSPACE, "2", " ", DOWN, DOWN, RIGHT, " ", "3", "-", " ", RIGHT, RIGHT, " ", "1", " ")
    assert drawn() == [1, 2, 3]
    browser.press(ENTER)
    browser.until("document.querySelector('#review .own small')?.innerText.startsWith('in the')")
    mouse, keys = marks[0].boxes_xywh
    short, long, last = marks[0].strokes
    assert (marks[0].at_xy, keys) == ([(165, 125)], (150, 115, 6, 11)), "where the cross came to"
    assert last == Stroke(((155, 125), (160, 125), (165, 125)), 7)
    assert (short.width_px, 32 <= len(long.points_xy) <= 64) == (9, True), "thinned out"
    places = *mouse, *short.points_xy[-1], *long.points_xy[-1]
    assert max(abs(is_ - to) for is_, to in zip(places, (60, 69, 61, 70, 180, 207, 270, 34), strict=True)) <= 3
    browser.open(f"{url}?again")
    browser.driver.execute_script(f"document.querySelector('.strip [data-id=\"{first}\"]').click()")
    browser.until("document.querySelectorAll('#why .drawn .box').length === 2")
    assert drawn("#why") == [1, 2, 3]


def test_a_mark_that_no_journal_stores_is_shown_as_failed(browser: Browser, view: View, expected: list[str]) -> None:
    expected += ["/api/marks"]
    browser.driver.execute_script("localStorage.setItem('reviewer', 'Anna')")
    cell = newest_defect(browser)
    browser.driver.execute_script(f"document.querySelector('{cell}').focus()")
    browser.press("r")
    browser.until(f"document.querySelector('{cell}').dataset.review === '!'")
    assert "There is no journal" in browser.text("#marks-notice")
    open_review(browser)
    browser.press("r")
    browser.until("document.querySelector('#review .own small:first-of-type')?.dataset.state === 'failed'")
    browser.until("document.querySelector('#review .notice').innerText.includes('There is no journal')")
    browser.press(ESCAPE)


def test_what_comes_late_does_not_look_current(browser: Browser, view: View) -> None:
    lost_s, age_s, words = browser.run(
        """
        const { Live } = await import("/static/live.js");
        const { Camera } = await import("/static/camera.js");
        let picture;
        let socket;
        window.WebSocket = class {
          static OPEN = 1;
          readyState = 1;
          constructor() { socket = this; }
          send() {}
        };
        const live = new Live({ state() {}, async picture(message) { picture = message; } });
        const say = (data) => socket.onmessage({ data });
        const lost = () => Math.round(live.lostFor);
        say(JSON.stringify({ type: "state", sent_ms: 50_000 }));
        const found = [lost()];
        say(JSON.stringify({ type: "picture", sent_ms: 50_000 - 8000, age_ms: 1000, heatmap: null }));
        found.push(lost());
        say(new Blob());
        say(JSON.stringify({ type: "state", sent_ms: 50_000 }));
        found.push(lost());
        // Frames come, and their pictures do not; or the picture is of another frame than the verdict.
        const camera = new Camera("other", () => {});
        const shown = document.querySelector(".camera").dataset.picture;
        const frame = await (await fetch(`/api/pictures/${shown}/frame.jpg`)).blob();
        const row = { verdict: "DEFECT", regions: 1, frame_score: 2, score_threshold: 1, id: "2" };
        camera.setVerdict(row);
        const event = { ...row, verdict: "GOOD", regions: [], frame_number: 1 };
        const sentAt = performance.now() - 9000;
        await camera.draw({ id: "1", event, heatmap: null, hw: [8, 8], sentAt, age_ms: 500 }, frame);
        const text = (age, part, state = "LIVE") => {
          camera.setState({ state, stale: false, newest_age_ms: age }, performance.now());
          camera.refresh(0);
          return camera.root.querySelector(part).textContent;
        };
        const words = [
          text(9000, ".lost"), text(100, ".lost"), text(0, ".verdict-detail"), text(0, ".word", "DEAD"),
        ];
        return [found, Math.round((performance.now() - picture.sentAt) / 1000), words];
        """
    )
    assert (lost_s, age_s) == ([0, 8, 0], 8)
    assert words[:2] == ["", "no picture for 9 s"]
    assert words[2] == "1 region; evidence 2.00, limit 1.00. The picture is of another frame: GOOD."
    assert words[3] == "CAMERA DEAD"


def test_a_stopped_line_says_so_and_names_that_are_markup_are_text(browser: Browser) -> None:
    memory, markup = Memory(cameras=["top", "side"]), "<img src=x onerror=document.title=1>"
    for camera in ("side", "top"):
        memory.add_verdict(verdict(1, camera=camera, picture=None), live=False)
    unjudged = verdict(2, kind="NO_VERDICT", reason="failed.wrong_size", detail=None, source=markup, picture="p")
    memory.add_picture(picture(unjudged, is_judged=False))
    memory.add_status(a_status(state="STOPPED", evidence=EvidenceState(skipped=40)))
    told = "document.querySelector('#handshake strong').textContent === 'NOT READY'"
    with page(memory) as served_page, browser.showing(f"http://127.0.0.1:{served_page.port}/", told):
        cameras = browser.js("[...document.querySelectorAll('.camera')].map((each) => each.dataset.camera)")
        assert cameras == ["top", "side"], "as in the line's file"
        browser.until("document.querySelector('.lost').textContent.startsWith('no frame since 2')")
        browser.find(LAST).click()
        browser.until("document.querySelector('#why .reason').textContent === 'No picture of it is stored.'")
        memory.add_verdict(unjudged, live=True)
        browser.until(f"document.querySelector('{LAST}').dataset.verdict === 'NO_VERDICT'")
        browser.find(LAST).click()
        browser.until(f"document.querySelector('#why .facts').innerText.includes({markup!r})")
        shown = browser.js("[...document.querySelectorAll('#why h3')].filter((each) => each.offsetParent)")
        assert [each.text for each in shown] == ["Event"], "no heading without content"
        assert browser.js("document.querySelectorAll('img[src=x]').length") == 0
        browser.press("v")
        none = "Nothing is left to review. 40 pictures could not be stored"
        browser.until(f"document.querySelector('#review .none').innerText.startsWith({none!r})")


@pytest.mark.long
def test_the_page_goes_on_after_a_restart_of_line_and_server(
    browser: Browser, expected: list[str], tmp_path: Path, bundle: Bundle, address: str
) -> None:
    expected += ["/live", "ERR_CONNECTION_REFUSED"]
    port = free_port()
    line = write_line_with(tmp_path, bundle.path, address, {"top": looped(tmp_path)})
    with running(line, address) as run, served(line, port) as url:
        run.until_inspected()
        browser.open(url)
        browser.until("document.querySelector('.word').textContent !== 'NO FRAME'")
    browser.until("document.querySelector('.word').textContent === 'NO CONNECTION'")
    browser.until("document.title === 'NO CONNECTION'")
    assert browser.text(".picture .lost").startswith("no connection for ")
    write_line_with(tmp_path, bundle.path, address, {"side": looped(tmp_path / "side")})
    with running(line, address) as run, served(line, port):
        event = next_defect(run)
        browser.until(f"window.seen.verdicts['{picture_id(event)}']")
        browser.until(f"document.querySelector('.camera')?.dataset.picture?.startsWith('{event.boot_id[:8]}')")
        browser.until("document.querySelector('.picture .lost').hidden")
        assert browser.js("[...document.querySelectorAll('.camera')].map((each) => each.dataset.camera)") == ["side"]
        browser.leave()


CHANGED = dark_square(moved(board(), 14, -9, 0.5), 200, 300)


def test_b_shows_the_reference_and_why_shows_it_beside_the_region(browser: Browser, tmp_path: Path) -> None:
    bundle = board_bundle(tmp_path / "boards.bundle", {"": Reference(board())})
    line = write_line(tmp_path, bundle.path, "tcp://127.0.0.1:1", {"top": 'path = "x"'})
    pose = Pose(x_px=14.0, y_px=-9.0, degrees=0.5, confidence=1.0, error_px=0.0)
    named = BundleName(name="boards", version="1", digest=bundle.digest)
    event = marked(1, bundle=named, pose=pose, product=None, frame_hw=CHANGED.shape[:2])
    memory = Memory()
    memory.add_verdict(event, live=True)
    memory.add_picture(picture(event, CHANGED))
    with page(memory, file=line) as served_page:
        browser.open(f"http://127.0.0.1:{served_page.port}/")
        browser.driver.execute_script(f"document.querySelector('{newest_defect(browser)}').click()")
        crops = "[...document.querySelectorAll('#why .crops img')]"
        browser.until(f"{crops}.length === 3 && {crops}.every((image) => image.naturalWidth > 0)")
        sizes = browser.js(f"{crops}.map((image) => [image.naturalWidth, image.naturalHeight, image.clientWidth])")
        assert sizes == [sizes[0]] * 3, "of equal scale"
        assert "9.0 px down, 0.50° clockwise" in browser.text("#why .facts")
        shown = "document.querySelector('#why .picture')"
        middle = f"{shown}.querySelector('canvas.%s').getContext('2d').getImageData(312, 212, 1, 1).data[0]"
        browser.press("b")
        browser.until(f"{shown}.querySelector('.reference').width > 0")
        browser.until(f"getComputedStyle({shown}.querySelector('.reference')).opacity === '1'")
        assert browser.js(middle % "frame") < 40 < 160 < browser.js(middle % "reference"), "the square, and the board"
        browser.press("b")
        browser.until(f"getComputedStyle({shown}.querySelector('.reference')).opacity === '0'")
        browser.leave()
        memory.add_picture(picture(marked(2, pose=pose, product=None, frame_hw=CHANGED.shape[:2]), CHANGED))
        assert served_page.get("/api/pictures/01234567-top-2").json["has_reference"] is False


KEPT = "document.querySelector('#collecting td[data-label={}]')?.innerText === '{}'"


def test_pictures_are_kept_by_a_key_or_a_button_and_counted_until_a_bundle_inspects(
    browser: Browser,
    tmp_path: Path,
    bundle: Bundle,
    address: str,
) -> None:
    line = CollectingLine(tmp_path, address, CAMERA | {"rate_fps": 4})
    with running(line.file, address) as run:
        line.newest()
        browser.open(f"http://127.0.0.1:{line.port}/")
        browser.until("!document.querySelector('#collecting').hidden")
        browser.until("document.querySelector('.camera .word').innerText === 'COLLECTING'")
        browser.until("document.querySelector('#collecting .missing').innerText.includes('25 more defective parts')")
        assert "20 more good parts, of another shift if you can" in browser.text("#collecting")
        browser.press("g")
        browser.until("document.querySelector('#reviewer').open")
        browser.press("Anna", ENTER)
        browser.until("document.querySelector('.strip [data-review=\"✓\"]')")
        browser.until(KEPT.format("good", 1))
        assert "19 more good parts" in browser.text("#collecting .missing")
        browser.press("u")
        browser.until(KEPT.format("unlabelled", 1))
        browser.resize(PHONE)
        browser.until("document.documentElement.scrollWidth <= innerWidth")
        button = browser.find(".keep [data-label=defective]")
        browser.driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", button)
        ActionChains(browser.driver).click(button).perform()
        browser.until(KEPT.format("defective", 1))
        browser.resize(WIDE)
        hidden = ".scores, .history, .legend, .open-review"
        assert browser.js(f"![...document.querySelectorAll({hidden!r})].some((each) => each.offsetParent)")
        browser.driver.execute_script("document.querySelector('.strip button:last-child').click()")
        browser.until("document.querySelector('#why .facts').innerText.includes('collects pictures')")
        assert browser.js("!document.querySelector('#why .facts').innerText.includes('undefined')")
        until(lambda: [len(each) for each in pictures(line.folder).values()] == [0, 1])
        assert [kind for kind, _, _ in line.marks()] == ["good", "withdrawn", "defective"]
        line.file.write_text(f'bundle = "{bundle.path}"\n{line.file.read_text()}')
        run.reload()
        browser.until("document.querySelector('#collecting').hidden")
        browser.until("/GOOD|DEFECT/.test(document.querySelector('.camera .word').innerText)")
        browser.leave()


def test_the_shadow_is_shown_beside_the_line_activated_and_taken_back(
    browser: Browser, tmp_path: Path, bundle: Bundle
) -> None:
    lenient_bundle(tmp_path / "new", bundle)
    events, keys = free_port(), f'[journal]\nfolder = "{tmp_path}"'
    line = write_line_with(tmp_path, bundle.path, events.local, {"top": looped(tmp_path)}, keys, top='shadow = "new"')
    with running(line, events.local) as run, served(line, free_port()) as url:
        run.until(lambda event: isinstance(event, StatusEvent) and event.shadow and event.shadow.judged > 3)
        browser.open(url)
        browser.driver.execute_script("localStorage.setItem('reviewer', 'Ada'); window.confirm = () => true")
        browser.until("document.querySelector('#shadow [data-differs=true]')")
        assert "lenient 1" in browser.text("#shadow tbody tr:last-child")
        browser.find("#shadow [data-differs=true]").click()
        browser.until("document.querySelector('#why .facts').innerText.includes(\"Shadow's verdict\\tGOOD\")")
        browser.until("!document.querySelector('#why .evidence').hidden")
        browser.press(ESCAPE)
        for name, button in (("lenient", ".activate"), ("darkness", ".back")):
            browser.until(f"document.querySelector('#shadow {button}:enabled:not([hidden])')")
            browser.driver.execute_script(f"document.querySelector('#shadow {button}').click()")
            browser.until(f"document.querySelector('#shadow tbody tr').innerText.includes({name!r})")
        browser.leave()
        changes = run.end().changes
    assert [(event.by, event.bundle.name) for event in changes] == [("Ada", "lenient"), ("Ada", "darkness")]
