"""A line's file edited to nonsense and reloaded: what was in force stays, and a `change` event says why."""

from collections.abc import Callable
from pathlib import Path

from edge.bundle import Bundle
from edge.delivery.messages import StatusEvent
from tests.edge.lines import assert_every_frame_has_its_event, running, write_line_with

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 40, "waiting_frames": 8, "on_overload": "block"}


def test_whatever_nonsense_is_reloaded_the_old_one_stays_in_force_and_an_event_says_why(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": CAMERA}, 'heatmaps = "never"')
    good = line.read_text()
    nonsense: list[tuple[Callable[[], object], str]] = [
        (lambda: line.write_text(good[: len(good) // 2] + "[[["), "is not valid TOML"),
        (lambda: line.write_bytes(bytes(range(256))), "is not valid TOML"),
        (lambda: line.write_text(""), "missing required field `bundle`"),
        (lambda: line.write_text(good + "\n[thresholds]\nscore = nan"), "$.thresholds.score"),
        (lambda: line.write_text(good + "\nspeed = 3"), "unknown field `speed`"),
        (lambda: line.write_text(good + "\n[tiles]\noverlap_px = 224"), "overlap_px"),
        (lambda: line.write_text(good.replace(str(bundle.path), "/nowhere")), "is no bundle"),
        (lambda: line.write_text(good.replace("allow_unsigned = true", "")), "signed"),
        (lambda: line.write_text(good.replace(address, "tcp://127.0.0.1:1")), "restart the line"),
        (lambda: line.write_text(good.replace('"top"', '"side"')), "restart the line"),
        (line.unlink, "cannot be read"),
    ]
    with running(line, address) as run:
        before = run.until_inspected()
        for edit, why in nonsense:
            edit()
            refused = run.reload()
            assert (refused.change, refused.in_force) == ("reload", False)
            assert why in str(refused.detail)
            after = run.until_inspected()
            assert (after.bundle, after.score_threshold, after.acting) == (
                before.bundle,
                before.score_threshold,
                before.acting,
            )
            assert refused.bundle == before.bundle
        told = run.until(lambda event: isinstance(event, StatusEvent)).last_change
        assert (told.in_force, told.detail, told.at_ns) == (False, refused.detail, refused.at_ns)
        line.write_text(f"{good}\n[thresholds]\nscore = 7.5")
        assert run.reload().in_force
        while run.until_inspected().score_threshold != 7.5:
            pass
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    assert [event.in_force for event in heard.changes] == [False] * len(nonsense) + [True]
    assert set(heard.last.ledger["top"].dropped) <= {"stopped"}, "frames that still waited at the end"
    assert heard.last.ledger["top"].failed == {}
