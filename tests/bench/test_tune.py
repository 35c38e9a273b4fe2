"""`heatline bench tune`: its candidates, its comparison, and the settings that it writes for the line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import heatline.bench.tune as tuning
from heatline.bench.command import tune as command
from heatline.bench.end_to_end.rates import Window
from heatline.bench.result_file import read_result
from heatline.bench.spread import Latency
from heatline.bench.tune import Trial, Tried, Tune, candidates, compare, is_better, measure_tune, rank, spelled_out
from heatline.edge.bundle import Bundle
from heatline.edge.config import load_config
from heatline.edge.config.engine import EngineConfig
from heatline.edge.errors import BenchError
from tests.edge.lines import write_line_with

CAMERA: Mapping[str, Any] = {"kind": "pattern", "draw_size": [300, 240], "rate_fps": 200}
SECONDS = 0.02
FEW_CANDIDATES = "\n[engine]\nkind = 'openvino'\nthreads = 1"
"""Leaves only batch and precision open, so that few settings are tried."""
BEST = EngineConfig(threads=1, streams=1, batch=2)


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> Path:
    return write_line_with(tmp_path, bundle.path, "tcp://127.0.0.1:5999", {"top": CAMERA}, FEW_CANDIDATES)


def tuned(bundle: Bundle, line: Path, **keys: Any) -> Tune:
    given: dict[str, Any] = {"precisions": (), "frame_hw": None, "rate_fps": None, "rounds": 2}
    return measure_tune(bundle.path, line, **{**given, "seconds": SECONDS, "report_line": lambda _: None, **keys})


def window(p90_ms: float, lost: int = 0, inspected: int = 9) -> Window:
    return Window(
        rate_fps=10.0, seconds=1.0, not_kept_up=None, frames=9, inspected=inspected, failed={}, unreported=0, late=0,
        dropped={"overload": lost} if lost else {}, jitter_periods=0.0, cpu_cores={}, pss_mb=300.0,
        latency=Latency(p50=p90_ms, p90=p90_ms, p95=p90_ms, p99=p90_ms, most=p90_ms),
    )  # fmt: skip


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[[EngineConfig], None]:
    """Return a function that makes one setting the fastest; only the clock differs from a real search."""
    best: list[EngineConfig] = []
    times_as_fast = Trial.times_as_fast

    def latency_ms(engine: EngineConfig) -> float:
        return 1.0 if engine == best[-1] else 2.0 + engine.batch

    def fast(trial: Trial, seconds: float) -> float:
        times_as_fast(trial, seconds)  # checks the answers
        return 9.0

    def alone_ms(trial: Trial, _seconds: float) -> list[float]:
        engine = trial._setup.verified.engine
        settings = (engine.precision, engine.batch)
        return [1.0 if settings == (best[-1].precision, best[-1].batch) else 2.0 + engine.batch]

    monkeypatch.setattr(Trial, "times_as_fast", fast)
    monkeypatch.setattr(Trial, "alone_ms", alone_ms)
    monkeypatch.setattr(tuning, "on_the_line", lambda one, *_, **__: window(latency_ms(one)))
    return best.append


KEYS = st.sets(st.sampled_from(["kind", "device", "precision", "threads", "streams", "batch"]))


@given(cores=st.integers(1, 64), most_tiles=st.integers(1, 500), own=KEYS)
def test_candidates_respect_the_lines_settings_and_are_unique(cores: int, most_tiles: int, own: set[str]) -> None:
    fixed = EngineConfig(precision="int8", threads=1, streams=1, batch=1)
    options: dict[str, Any] = {"precisions": ["f32", "int8"], "devices": ["CPU", "GPU"], "most_tiles": most_tiles}
    found = candidates(fixed, own, cores=cores, **options)
    assert found
    assert len(set(found)) == len(found)
    for each in found:
        assert each.batch <= most_tiles
        assert each == spelled_out(each, cores)
        if each.kind == "openvino" and each.device == "CPU":
            assert 1 <= each.streams <= each.threads <= cores
            assert all(getattr(each, key) == getattr(fixed, key) for key in own)
    if not own:
        assert {(each.kind, each.device, each.precision) for each in found} == {
            ("openvino", "CPU", "f32"), ("openvino", "CPU", "int8"), ("openvino", "GPU", "f32"),
            ("openvino", "GPU", "int8"), ("onnxruntime", "CPU", "f32"),
        }  # fmt: skip


def test_rank_is_by_headroom_then_latency_then_number_of_threads() -> None:
    def tried(latency_ms: float, fastest: float, **engine: int) -> Tried:
        settings = EngineConfig(**engine)  # type: ignore[arg-type]
        return Tried(engine=settings, latencies_ms=[latency_ms] * 4, times_as_fast=[fastest])

    fastest, similar, slower = tried(10.0, 2.0, threads=4), tried(10.2, 1.5, threads=2), tried(12.0, 3.0, threads=1)
    without_headroom, slow = tried(1.0, 1.1, threads=1, batch=4), tried(1.0, 0.5, threads=1, batch=8)
    all_tried = [slow, slower, without_headroom, fastest, similar]
    assert rank(all_tried) == [similar, fastest, slower, without_headroom, slow]


@pytest.mark.parametrize(
    ("before", "after", "worse_rounds", "better", "words"),
    [
        (window(40), window(30), 0, True, "better in 5 of 5 rounds, at the median by 25 %"),
        (window(40), window(30), 1, False, "in 4 of 5 rounds, at the median by 25 %; it takes all 5 and 2 % to be"),
        (window(40), window(39.9), 0, False, "than chance"),
        (window(40, lost=9), window(50), 0, True, "only they keep up with the rate"),
        (window(40), window(30, lost=9), 0, False, "only the present ones keep up"),
        (window(40, lost=9, inspected=10), window(50, lost=9, inspected=12), 0, True, "better in 5"),
    ],
    ids=range(6),
)
def test_settings_are_better_only_beyond_chance(
    before: Window, after: Window, worse_rounds: int, better: bool, words: str
) -> None:
    rounds = iter([before] * worse_rounds + [after] * 5)
    present, chosen = EngineConfig(batch=1), EngineConfig(batch=2)
    found = compare(present, chosen, lambda one, _: before if one == present else next(rounds), 0.0, 5, lambda _: None)
    assert is_better(found)[0] is better
    assert words in is_better(found)[1]


Prefer = Callable[[EngineConfig], None]


def test_the_best_settings_are_printed_and_the_line_uses_them(line: Path, bundle: Bundle, prefer: Prefer) -> None:
    prefer(BEST)
    out = line.with_name("tune.json")
    arguments = [bundle.path, line, "--seconds", SECONDS, "--out", out]
    shown = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert "openvino in f32, 1 thread" in shown.output
    found = msgspec.convert(read_result(out), Tune)
    assert (found.chosen, found.frames) == (str(BEST), ["top 300x240 at 200/s"])
    assert found.comparison.better_in == len(found.comparison.chosen)
    line.write_text(line.read_text().replace(FEW_CANDIDATES, found.table))
    assert load_config(line).engine == BEST
    again = tuned(bundle, line)
    assert (again.present, again.chosen, again.comparison) == (str(BEST), str(BEST), None)


def test_an_unknown_rate_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    cameras = {"b": {"kind": "genicam", "address": "x", "size": [64, 48]}}
    of_unknown_rate = write_line_with(tmp_path, bundle.path, "tcp://127.0.0.1:5999", cameras)
    with pytest.raises(BenchError, match="the rate of camera b is unknown; give it with --fps"):
        tuned(bundle, of_unknown_rate)
