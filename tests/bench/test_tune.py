"""`heatline bench tune`: what it tries, what it calls better, and what becomes of the line's settings.

How fast anything is, is not tested.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bench.commands.tune import tune as command
from bench.end_to_end.line import Told
from bench.spread import Spread
from bench.tune import search as searching
from bench.tune.answers import Answers
from bench.tune.candidates import candidates, spelled_out
from bench.tune.on_the_line import LEAST_FRAMES as LEAST_ON_THE_LINE
from bench.tune.on_the_line import OnTheLine, came_of, on_the_line
from bench.tune.search import Tried, look, opened, rank, search
from bench.tune.shown import good_picture, shown_by
from bench.tune.trial import LEAST_FRAMES, SETTLE_FRAMES, Paced, Rushed, paced, rushed
from bench.tune.tune import Comparison, Side, compare, is_better, measure_tune
from edge.bundle import Bundle
from edge.config import load_config
from edge.delivery.messages import BundleName, Times, VerdictEvent
from edge.engine_config import EngineConfig
from edge.errors import BenchError, BundleError, CameraError, ConfigError
from edge.frames import Frame, Stamp
from edge.tuned import Tuned, made_with, read_tuned, tuned_file, write_tuned
from tests.edge.lines import small_frames, write_line_with, write_pictures
from tests.small_bundle import TILE, bundle_in

CAMERA: Mapping[str, Any] = {"kind": "pattern", "draw_size": [300, 240], "rate_fps": 200}
SECONDS = 0.02
FEW = "\n[engine]\nkind = 'openvino'\nthreads = 1"
"""Leaves nothing to choose but the batch: that is soon tried."""


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> Path:
    return line_of(tmp_path, bundle, {"top": CAMERA})


def line_of(folder: Path, bundle: Bundle, cameras: Mapping[str, Mapping[str, Any]], tables: str = FEW) -> Path:
    return write_line_with(folder, bundle.path, "tcp://127.0.0.1:5999", cameras, tables)


def tuned(bundle: Bundle, line: Path, **keys: Any) -> Any:
    given: dict[str, Any] = {"precisions": (), "frame_hw": None, "rate_fps": None, "dry_run": False}
    return measure_tune(bundle.path, line, **{**given, "seconds": SECONDS, "turns": 2, "say": lambda _: None, **keys})


def prefer(monkeypatch: pytest.MonkeyPatch, engine: EngineConfig) -> None:
    """Have frames come as if it was this one that is best: the clock alone is not what it was."""
    rush = searching.rush

    def latency_ms(of: EngineConfig) -> float:
        return 1.0 if of == engine else 2.0 + of.batch

    def rushes(one: Tried, *rest: Any) -> None:
        rush(one, *rest)
        one.times_as_fast[:] = [9.0]

    def looks(one: Tried, *_: Any) -> None:
        one.latencies_ms.append(latency_ms(one.engine))

    def line_of(one: EngineConfig, *_: Any, **__: Any) -> OnTheLine:
        return OnTheLine([latency_ms(one)], 0, 9.0)

    monkeypatch.setattr(searching, "rush", rushes)
    monkeypatch.setattr(searching, "look", looks)
    monkeypatch.setattr("bench.tune.tune.on_the_line", line_of)


# What is tried.


def test_every_number_is_spelled_out_as_the_engines_take_it(bundle: Bundle) -> None:
    assert spelled_out(EngineConfig(), 4) == EngineConfig(threads=4, streams=4, batch=1)
    assert spelled_out(EngineConfig(threads=3, streams=1, batch=2), 4) == EngineConfig(threads=3, streams=1, batch=2)
    of_ort = spelled_out(EngineConfig(kind="onnxruntime", streams=3), 4)
    assert of_ort == EngineConfig(kind="onnxruntime", threads=4, batch=8)
    assert spelled_out(EngineConfig(device="GPU", threads=3), 4) == EngineConfig(device="GPU", batch=1)


@given(
    cores=st.integers(1, 64),
    most_tiles=st.integers(1, 500),
    own=st.sets(st.sampled_from(["kind", "device", "precision", "threads", "streams", "batch"])),
)
def test_what_the_lines_file_sets_stays_and_no_candidate_comes_twice(
    cores: int, most_tiles: int, own: set[str]
) -> None:
    fixed = EngineConfig(precision="int8", threads=1, streams=1, batch=1)
    found = candidates(
        fixed, own, cores=cores, precisions=["f32", "int8"], devices=["CPU", "GPU"], most_tiles=most_tiles
    )
    assert found
    assert len(set(found)) == len(found)
    for each in found:
        assert each.batch <= most_tiles
        if each.kind == "openvino" and each.device == "CPU":
            assert 1 <= each.streams <= each.threads <= cores
            assert all(getattr(each, key) == getattr(fixed, key) for key in own)
        assert each == spelled_out(each, cores)
    if not own:
        assert {(each.kind, each.device, each.precision) for each in found} == {
            ("openvino", "CPU", "f32"),
            ("openvino", "CPU", "int8"),
            ("openvino", "GPU", "f32"),
            ("openvino", "GPU", "int8"),
            ("onnxruntime", "CPU", "f32"),
        } or most_tiles < 1


def test_one_core_leaves_little_to_choose() -> None:
    found = candidates(EngineConfig(), (), cores=1, precisions=["f32"], devices=["CPU"], most_tiles=9)
    assert {(each.threads, each.streams) for each in found if each.kind == "openvino"} == {(1, 1)}


# What cameras show.


def test_sizes_and_rates_are_the_files_or_those_that_are_asked_for(tmp_path: Path, bundle: Bundle) -> None:
    cameras = {"a": {**CAMERA, "rate_fps": 5}, "b": {"kind": "genicam", "address": "x", "size": [64, 48]}}
    config = load_config(line_of(tmp_path, bundle, cameras))
    with pytest.raises(BenchError, match=r"how many frames a second camera b shows; say it with --fps"):
        shown_by(config, bundle, frame_hw=None, rate_fps=None)
    found = shown_by(config, bundle, frame_hw=None, rate_fps=7.0)
    assert [str(one) for one in found] == ["a 300x240 at 7/s", "b 64x48 at 7/s"]
    found = shown_by(config, bundle, frame_hw=(100, 200), rate_fps=7.0)
    assert [str(one) for one in found] == ["a 200x100 at 7/s", "b 200x100 at 7/s"]


def test_a_camera_of_which_nothing_tells_the_size_is_opened(tmp_path: Path, bundle: Bundle) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    config = load_config(line_of(tmp_path, bundle, {"top": {"kind": "folder", "path": "frames", "rate_fps": 3}}))
    (found,) = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    assert str(found) == "top 300x230 at 3/s"
    np.testing.assert_array_equal(found.picture, small_frames(1)["001.png"])


def test_a_camera_that_cannot_be_opened_or_is_triggered_is_a_sentence(tmp_path: Path, bundle: Bundle) -> None:
    config = load_config(line_of(tmp_path, bundle, {"top": {"kind": "folder", "path": "nowhere", "rate_fps": 3}}))
    with pytest.raises(CameraError, match="nowhere"):
        shown_by(config, bundle, frame_hw=None, rate_fps=None)
    waits = {"kind": "genicam", "trigger": "hardware", "rate_fps": 3}
    config = load_config(line_of(tmp_path, bundle, {"top": waits}))
    with pytest.raises(BenchError, match="shows nothing until it is triggered"):
        shown_by(config, bundle, frame_hw=None, rate_fps=None)


def test_where_to_look_counts_in_the_cameras_own_size(tmp_path: Path, bundle: Bundle) -> None:
    area = {**CAMERA, "size": [300, 240], "look_at": [[[0, 0], [100, 0], [100, 100]]]}
    config = load_config(line_of(tmp_path, bundle, {"top": area}))
    assert shown_by(config, bundle, frame_hw=(240, 300), rate_fps=None)
    with pytest.raises(BenchError, match="leave --size out"):
        shown_by(config, bundle, frame_hw=(480, 640), rate_fps=None)


def test_a_picture_is_made_of_the_golden_tile_that_looks_best(bundle: Bundle) -> None:
    picture, golden = good_picture(bundle, (500, 300)), bundle.golden()
    assert picture.shape == (500, 300, 3)
    best = golden.tiles[golden.logit.argmin()]
    pitch = TILE - bundle.manifest.grid.overlap_px
    np.testing.assert_array_equal(picture[:pitch, :pitch], best[:pitch, :pitch])
    np.testing.assert_array_equal(picture[pitch : 2 * pitch, :pitch], best[:pitch, :pitch])


# Trials.


@pytest.mark.parametrize("engine", [EngineConfig(threads=1), EngineConfig(kind="onnxruntime", threads=1, batch=3)])
def test_frames_go_the_whole_way_and_the_first_ones_do_not_count(
    line: Path, bundle: Bundle, engine: EngineConfig
) -> None:
    config = load_config(line)
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    with opened(Tried(engine=engine), config) as setup:
        assert setup is not None
        seen = paced(setup, shown, 0.0)
        assert len(seen.latencies_ms) + seen.lost == LEAST_FRAMES
        assert len(paced(setup, shown, 0.1).latencies_ms) <= 20
        assert all(latency_ms > 0 for latency_ms in seen.latencies_ms)
        fast = rushed(setup, shown, 0.01)
        assert fast.times_as_fast > 0
        pending = setup.inspector.start(Frame(Stamp("top", 1, number=1), shown[0].picture, "RGB8"))
        expected = setup.inspector.finish(pending).score
        assert seen.scores
        for camera, score in [*seen.scores, *fast.scores]:
            assert (camera, score) == ("top", pytest.approx(expected, rel=1e-5))
    assert SETTLE_FRAMES > 0


def test_several_cameras_share_the_engine(tmp_path: Path, bundle: Bundle) -> None:
    cameras = {"a": CAMERA, "b": {**CAMERA, "rate_fps": 50, "draw_size": [64, 64]}}
    config = load_config(line_of(tmp_path, bundle, cameras))
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    with opened(Tried(engine=EngineConfig(threads=1)), config) as setup:
        assert setup is not None
        seen = paced(setup, shown, 0.1)
        assert len(seen.latencies_ms) + seen.lost == 20 + 5
        assert {camera for camera, _ in rushed(setup, shown, 0.01).scores} == {"a", "b"}


def test_settings_that_answer_otherwise_are_found_out(bundle: Bundle) -> None:
    answers = Answers(bundle)
    answers.check(EngineConfig(), [("top", 1.0), ("side", 7.0)])
    answers.check(EngineConfig(batch=8), [("top", 1.0 + 1e-6), ("side", 7.0)])
    answers.check(EngineConfig(batch=8), [])
    with pytest.raises(BenchError, match=r"the frame's score is 1\.1000, with others in f32 1\.0000"):
        answers.check(EngineConfig(batch=4), [("top", 1.0), ("top", 1.1)])
    with pytest.raises(BenchError):
        answers.check(EngineConfig(batch=4), [("side", float("nan"))])


def test_those_that_skip_work_as_fast_as_they_go_are_found_out(line: Path, bundle: Bundle) -> None:
    config, answers = load_config(line), Answers(bundle)
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    answers.check(EngineConfig(), [("top", 1e6)])
    with pytest.raises(BenchError, match="the frame's score is"):
        search([Tried(engine=EngineConfig(threads=1))], config, shown, answers, seconds=SECONDS, say=lambda _: None)


def test_frames_lost_in_any_round_count_and_what_is_too_slow_is_shown_none_at_the_rate(
    line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(line)
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    fast, lost = [9.0], iter([2, 0, 1])
    monkeypatch.setattr(searching, "rushed", lambda *_: Rushed(fast[0], []))
    monkeypatch.setattr(searching, "paced", lambda *_: Paced([3.0], next(lost), []))
    with opened(Tried(engine=EngineConfig(threads=1)), config) as setup:
        assert setup is not None
        one = Tried(engine=EngineConfig(threads=1))
        for _ in range(3):
            look(one, setup, shown, SECONDS, Answers(bundle))
        assert (one.lost, len(one.latencies_ms), one.sustains) == (3, 3, False)
        slow = Tried(engine=EngineConfig(threads=1))
        fast[0] = 1.1
        look(slow, setup, shown, SECONDS, Answers(bundle))
        assert (slow.latencies_ms, slow.times_as_fast) == ([], [1.1])


def test_the_whole_service_runs_as_the_line_does_with_one_setting(tmp_path: Path, bundle: Bundle) -> None:
    cameras = {"a": {**CAMERA, "rate_fps": 50}, "b": {**CAMERA, "rate_fps": 25, "draw_size": [64, 80]}}
    area = {"size": [300, 240], "look_at": [[[0, 0], [200, 0], [200, 200]]]}
    line = line_of(tmp_path, bundle, {**cameras, "a": {**cameras["a"], **area}}, f"{FEW}\n[tiles]\noverlap_px = 8")
    config, answers = load_config(line), Answers(bundle)
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    engine = EngineConfig(threads=1, streams=1, batch=2)
    with opened(Tried(engine=engine), config) as setup:
        assert setup is not None
        answers.check(engine, rushed(setup, shown, 0.01).scores)
    seen = on_the_line(engine, config, bundle, shown, answers, seconds=0.0)
    in_all = LEAST_ON_THE_LINE * (1 + 50 / 25)
    assert len(seen.latencies_ms) + seen.lost == pytest.approx(in_all, abs=3)
    assert all(latency_ms > 0 for latency_ms in seen.latencies_ms)
    assert seen.inspected_fps == pytest.approx(len(seen.latencies_ms) * 25 / LEAST_ON_THE_LINE)


def test_a_service_that_answers_otherwise_than_the_search_is_found_out(line: Path, bundle: Bundle) -> None:
    config, answers = load_config(line), Answers(bundle)
    shown = shown_by(config, bundle, frame_hw=None, rate_fps=None)
    answers.check(EngineConfig(), [("top", 1e6)])
    with pytest.raises(BenchError, match=r"the frame's score is .*, with others in f32 1000000"):
        on_the_line(EngineConfig(threads=1), config, bundle, shown, answers, seconds=0.0)


MS = 1_000_000


def told(camera: str, number: int, due_ms: float, *, late_ms: float, ms: float, reason: str | None = None) -> Told:
    """A frame that was stamped so late, and told of so long after it was due."""
    event = VerdictEvent(
        boot_id="0" * 32, seq=number, camera=camera, frame_id=number, frame_number=number, reason=reason,
        times=Times(captured_at_ns=0, captured_monotonic_ns=round((due_ms + late_ms) * MS)), latency_ms=1.0,
        verdict="GOOD" if reason is None else "NO_VERDICT", score_threshold=0.0, evidence_threshold=0.0,
        precision="f32", bundle=BundleName(name="b", version="1", digest="0" * 64), acting=True,
    )  # fmt: skip
    return Told(event, round((due_ms + ms) * MS))


def test_a_latency_counts_from_when_the_frame_was_due_at_its_cameras_rate_and_not_from_a_late_stamp() -> None:
    starved = [told("a", number, 100.0 * number, late_ms=0.0 if number < 3 else 60.0, ms=70.0) for number in range(9)]
    other = [told("b", number, 50.0 * number, late_ms=0.0, ms=20.0) for number in range(18)]
    # A frame due before the time has its stamp within, and one due within has it after.
    seen = came_of([*starved, *other], {"a": 10.0, "b": 20.0}, 310 * MS, 750 * MS, not_heard=0)
    assert seen.latencies_ms == pytest.approx([70.0] * 4 + [20.0] * 8)
    assert (seen.lost, seen.inspected_fps) == (0, pytest.approx(12 / 0.44))


def test_frames_that_were_lost_or_not_heard_of_are_counted() -> None:
    of = [told("a", number, 100.0 * number, late_ms=0.0, ms=5.0) for number in range(4)]
    of.append(told("a", 4, 400.0, late_ms=0.0, ms=5.0, reason="dropped.overload"))
    seen = came_of(of, {"a": 10.0}, 150 * MS, 500 * MS, not_heard=2)
    assert (len(seen.latencies_ms), seen.lost) == (2, 3)


# Ranks and gains.


def seen(engine: EngineConfig, latency_ms: float, fastest: float, lost: int = 0) -> Tried:
    return Tried(engine=engine, latencies_ms=[latency_ms] * 4, times_as_fast=[fastest], lost=lost)


def test_the_best_sustains_the_rate_with_headroom_then_is_soonest_then_has_fewer_threads() -> None:
    soonest = seen(EngineConfig(threads=4), 10.0, 2.0)
    alike = seen(EngineConfig(threads=2), 10.2, 1.5)
    later = seen(EngineConfig(threads=1), 12.0, 3.0)
    lossy = seen(EngineConfig(threads=1, batch=2), 1.0, 3.0, lost=1)
    without_headroom = seen(EngineConfig(threads=1, batch=4), 1.0, 1.1)
    slow = seen(EngineConfig(threads=1, batch=8), 1.0, 0.5)
    everything = [slow, later, without_headroom, soonest, lossy, alike]
    assert rank(everything) == [alike, soonest, later, lossy, without_headroom, slow]
    assert rank([slow, without_headroom])[0] is without_headroom


def sides(before: tuple[float, bool], after: tuple[float, bool], *, earlier_in: int, more_in: int = 0) -> Comparison:
    def side(p90_ms: float, sustains: bool) -> Side:
        same = Spread.of([p90_ms])
        return Side(
            engine=EngineConfig(), latency_p50_ms=same, latency_p90_ms=same, inspected_fps=same, lost=0,
            sustains=sustains,
        )  # fmt: skip

    ratio = Spread.of([after[0] / before[0]])
    return Comparison(
        present=side(*before), chosen=side(*after), latency_p50=ratio, latency_p90=ratio,
        inspected_fps=Spread.of([before[0] / after[0]]), turns=5, earlier_in=earlier_in, more_in=more_in,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("comparison", "better", "words"),
    [
        (
            sides((40, True), (30, True), earlier_in=5),
            True,
            "p90 of the latency was lower in 5 of 5 turns, at the median 25% lower",
        ),
        (sides((40, True), (30, True), earlier_in=4), False, "it takes all 5 and 2% to be more than chance"),
        (sides((40, True), (39.9, True), earlier_in=5), False, "more than chance"),
        (sides((40, False), (50, True), earlier_in=0), True, "they keep up with the asked rate"),
        (sides((40, True), (30, False), earlier_in=5), False, "did not keep up"),
        (sides((40, False), (30, False), earlier_in=0, more_in=5), True, "more frames were inspected in 5"),
        (sides((40, False), (30, False), earlier_in=5, more_in=4), False, "more frames were inspected in 4"),
    ],
)
def test_a_gain_is_one_that_is_more_than_chance(comparison: Comparison, better: bool, words: str) -> None:
    found = is_better(comparison)
    assert found[0] is better
    assert words in found[1]


def test_of_the_fewest_frames_of_a_turn_the_slowest_one_does_not_decide(
    line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = [10.0] * LEAST_ON_THE_LINE
    turns = iter([steady, [*steady[1:], 900.0]])
    monkeypatch.setattr("bench.tune.tune.on_the_line", lambda *_, **__: OnTheLine(next(turns), 0, 9.0))
    config, before, after = load_config(line), EngineConfig(threads=1), EngineConfig(threads=2)
    found = compare(before, after, config, bundle, [], Answers(bundle), seconds=1.0, turns=1, say=lambda _: None)
    assert found.latency_p90.median == 1.0


# All of it.


def test_the_best_is_written_and_the_line_uses_it(line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    best = EngineConfig(threads=1, streams=1, batch=2)
    prefer(monkeypatch, best)
    found = tuned(bundle, line)
    assert found.chosen == best
    assert found.written_to == str(tuned_file(line))
    now = load_config(line).engine_for(bundle.digest)
    assert (now.settings, now.tuned_by) == (best, found.written_to)
    (written,) = read_tuned(tuned_file(line))
    assert written.frames == ["top 300x240 at 200/s"]
    assert {key: getattr(written, key) for key in made_with(best)} == made_with(best)
    assert found.comparison is not None
    assert found.comparison.earlier_in == found.comparison.turns
    again = tuned(bundle, line)
    assert (again.present, again.chosen, again.comparison, again.written_to) == (best, best, None, None)
    assert again.present_by == found.written_to


def test_a_dry_run_writes_nothing(line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=2))
    found = tuned(bundle, line, dry_run=True)
    assert (found.chosen.batch, found.written_to) == (2, None)
    assert not tuned_file(line).exists()


def test_without_a_gain_the_present_settings_stay(line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=2))
    monkeypatch.setattr("bench.tune.tune.is_better", lambda _: (False, "it was chance"))
    found = tuned(bundle, line)
    assert (found.chosen, found.why, found.written_to) == (found.present, "it was chance", None)
    assert not tuned_file(line).exists()


def test_a_file_for_another_machine_is_replaced_even_by_what_is_in_force(
    line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=1))
    engine = EngineConfig(threads=1, streams=1, batch=8)
    stale = {"bundle": bundle.digest, "engine": engine, **made_with(engine), "processor": "another one"}
    write_tuned(line, Tuned(**stale))
    found = tuned(bundle, line)
    assert found.present.batch == 1
    assert found.chosen == found.present
    assert found.written_to is not None
    assert load_config(line).engine_for(bundle.digest).settings == found.chosen


def test_what_the_lines_file_sets_is_not_tuned(tmp_path: Path, bundle: Bundle) -> None:
    line = line_of(tmp_path, bundle, {"top": CAMERA}, f"{FEW}\nbatch = 3")
    found = tuned(bundle, line, dry_run=True)
    assert {(one.engine.kind, one.engine.threads, one.engine.batch) for one in found.tried} == {("openvino", 1, 3)}


@pytest.mark.long
def test_all_precisions_that_passed_are_tried_unless_some_are_named_or_the_lines_file_sets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = bundle_in(tmp_path / "both", ("f32", "int8"))
    prefer(monkeypatch, EngineConfig(precision="int8", threads=1, streams=1, batch=2))
    line = line_of(tmp_path, both, {"top": CAMERA})
    found = tuned(both, line, dry_run=True)
    assert {one.engine.precision for one in found.tried} == {"f32", "int8"}
    assert found.chosen.precision == "int8"
    kept = tuned(both, line, dry_run=True, precisions=("f32",))
    assert {one.engine.precision for one in kept.tried} == {"f32"}
    asked = tuned(both, line, dry_run=True, precisions=("f32", "int8", "bf16"))
    tried = {one.engine.precision for one in asked.tried if one.times_as_fast}
    assert tried == {"f32", "int8"}
    (left_out,) = [one for one in asked.tried if one.engine.precision == "bf16"]
    assert left_out.left_out == "the bundle has none: its regions are elsewhere"
    sets = line_of(tmp_path, both, {"top": CAMERA}, '\n[engine]\nprecision = "f32"')
    assert {one.engine.precision for one in tuned(both, sets, dry_run=True).tried} == {"f32"}
    with pytest.raises(BenchError, match="take it out to have the precision chosen, or leave --precision out"):
        tuned(both, sets, precisions=("int8",))


def test_a_precision_that_fails_its_golden_tiles_here_is_left_out(tmp_path: Path) -> None:
    far_off = bundle_in(tmp_path / "far", ("f32", "int8"), int8_gain=300.0)
    found = tuned(far_off, line_of(tmp_path, far_off, {"top": CAMERA}), dry_run=True)
    of_int8 = [one for one in found.tried if one.engine.precision == "int8"]
    assert of_int8
    assert all("int8 is off by" in str(one.left_out) for one in of_int8)
    assert found.chosen.precision == "f32"


def test_a_bundle_of_a_product_is_tuned_as_that_product_and_another_one_beside_the_lines(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bundle_in(tmp_path / "other", ("f32",))
    products = f'\n[[products]]\nname = "a"\n[[products]]\nname = "b"\nbundle = "{other.path}"{FEW}'
    line = write_line_with(
        tmp_path, bundle.path, "tcp://127.0.0.1:5999", {"top": CAMERA}, products, top='product = "a"'
    )
    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=2))
    for each in (bundle, other):
        tuned(each, line)
    config = load_config(line)
    assert {each.bundle for each in read_tuned(tuned_file(line))} == {bundle.digest, other.digest}
    assert all(config.engine_for(each.digest).tuned_by for each in (bundle, other))


def test_none_that_can_be_used_is_none_to_choose(line: Path, bundle: Bundle) -> None:
    gone = Tried(engine=EngineConfig(device="GPU.9"))
    shown = shown_by(load_config(line), bundle, frame_hw=None, rate_fps=None)
    assert search([gone], load_config(line), shown, Answers(bundle), seconds=SECONDS, say=lambda _: None) is None
    assert "OpenVINO finds" in str(gone.left_out)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--seconds", str(SECONDS)])


def test_the_command_prints_a_table_and_a_result_that_names_the_machine(
    line: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=2))
    shown = run(bundle.path, line, "--dry-run", "--out", tmp_path / "tune.json")
    assert shown.exit_code == 0, shown.output
    for words in ("300x240 at 200/s", "openvino in f32, 1 thread", "present", "in the whole service", "written to"):
        assert words in shown.output
    report = json.loads((tmp_path / "tune.json").read_text())
    assert report["bench"] == "tune"
    assert report["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert report["digest"] == bundle.digest
    assert report["written_to"] is None


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda line: line.unlink(), ConfigError, "cannot be read"),
        (lambda line: tuned_file(line).write_text("nonsense"), ConfigError, "line.tuned.toml is not valid TOML"),
        (lambda line: line.write_text(line.read_text().replace("allow_unsigned = true", "")), BundleError, "signed"),
    ],
)
def test_what_the_line_would_not_start_with_is_the_same_sentence_here(
    line: Path, bundle: Bundle, spoil: Callable[[Path], object], kind: type[Exception], words: str
) -> None:
    spoil(line)
    result = run(bundle.path, line)
    assert isinstance(result.exception, kind)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_file_that_cannot_be_written_is_a_sentence(
    line: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    prefer(monkeypatch, EngineConfig(threads=1, streams=1, batch=2))
    monkeypatch.setattr("bench.tune.tune.write_tuned", full)
    with pytest.raises(BenchError, match=r"line\.tuned\.toml cannot be written \(No space left on device\)"):
        tuned(bundle, line)


def test_it_needs_no_extra() -> None:
    imports = "import sys, bench.commands.tune, bench.tune.tune; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded & {"torch", "timm", "lightning", "onnx", "nncf", "pytest", "train", "export"} == set()


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Any:
    """Opening cameras quiets theirs."""
    logger = logging.getLogger("edge.cameras")
    before = logger.level
    yield
    logger.setLevel(before)
