"""`heatline bench startup` times starts of the real service, and detects starts that skip a phase."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import heatline.bench.startup as measuring
from heatline.bench.startup import (
    AFTER_READY,
    BEFORE_FIRST_STATUS,
    DESCRIPTIONS,
    PHASES,
    LineFile,
    Start,
    measure_startup,
    starts_in_all,
)
from heatline.edge.bundle import Bundle
from heatline.edge.config import load_config
from heatline.edge.errors import BenchError

HW = (240, 300)
PHASES = [BEFORE_FIRST_STATUS, *PHASES, AFTER_READY]


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle) -> LineFile:
    return LineFile(tmp_path, bundle, "f32", HW)


def test_the_line_inspects_the_drawn_frame_without_a_plausibility_check(line: LineFile) -> None:
    assert load_config(line.path).thresholds.check_plausibility is False


def test_the_phases_of_a_start_add_up_to_its_total_times(line: LineFile) -> None:
    start = line.start(None)
    assert list(start.phases_s) == PHASES
    assert all(taken_s > 0 for taken_s in start.phases_s.values())
    assert sum(start.phases_s.values()) == pytest.approx(start.first_verdict_s)
    assert sum(start.phases_s.values()) - start.phases_s[AFTER_READY] == pytest.approx(start.ready_s)
    assert start.cpu_ready_s > 0


@pytest.mark.long
def test_starts_are_measured_under_every_condition(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    drops: list[None] = []
    monkeypatch.setattr(measuring, "_drop_files_from_memory", lambda: drops.append(None))
    finished_starts: list[None] = []
    found = measure_startup(bundle, "f32", frame_hw=HW, repetitions=1, done=lambda: finished_starts.append(None))
    assert list(found.conditions) == list(DESCRIPTIONS)
    assert len(drops) == 3, "once as a test, and before each of two cold starts"
    assert len(finished_starts) == starts_in_all(1)
    assert all(list(starts.phases_s) == PHASES for starts in found.conditions.values())
    assert found.conditions["warm"].ready_to_warm.median == 1


Use = Callable[[Path], object]


@pytest.mark.parametrize(
    ("use", "wrong_use"),
    [
        (lambda cache: (cache / "graph.blob").read_bytes(), None),
        (lambda cache: None, "left alone"),
        (lambda cache: (cache / "another.blob").write_bytes(b"compiled again"), "refilled"),
    ],
)
def test_a_start_that_does_not_use_the_cache_is_an_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use, wrong_use: str | None
) -> None:
    made_start = Start(
        ready_s=2.0, first_verdict_s=3.0, cpu_ready_s=1.0, phases_s=dict.fromkeys(PHASES, 3.0 / len(PHASES))
    )  # fmt: skip

    def start(self: LineFile, cache: Path | None) -> Start:
        """Replaces a start of the service: fills the cache first, and then uses it by `use`."""
        self.log.write_text("")
        if cache is not None and not list(cache.iterdir()):
            (cache / "graph.blob").write_bytes(b"compiled")
            return made_start
        if cache is not None:
            use(cache)
        return msgspec.structs.replace(made_start, ready_s=made_start.ready_s if cache is None else 1.0)

    monkeypatch.setattr(measuring, "DROP_CACHES", tmp_path)  # files stay in memory, which other processes share
    monkeypatch.setattr(LineFile, "start", start)
    monkeypatch.setattr(measuring, "require_engine_in", lambda *_: None)
    if wrong_use is None:
        found = measure_startup(bundle, "f32", frame_hw=HW, repetitions=2)
        assert found.conditions["cached"].ready_to_warm.median == 0.5
        assert found.why_not_cold is not None
    else:
        with pytest.raises(BenchError, match=f"a start that was to be cached was {wrong_use}, expected taken from"):
            measure_startup(bundle, "f32", frame_hw=HW, repetitions=2)
