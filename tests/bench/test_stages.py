"""`heatline bench stages`: each stage does what the line does, is found out where it does not, and says what it moved.

How fast anything is, is not tested.
"""

import json
import os
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.commands.frame_size import FrameSize
from bench.commands.stages import stages as command
from bench.processes import cpu_ns, page_faults
from bench.spread import Spread
from bench.stages.array_allocations import counted_arrays
from bench.stages.cost import Recorder
from bench.stages.encode import Encode
from bench.stages.grab import Grab
from bench.stages.infer import BareEngine, require_answers
from bench.stages.journal import GROUP, Journal
from bench.stages.judge import Judge
from bench.stages.prepared import Prepared, prepare
from bench.stages.publish import Publish
from bench.stages.stage import Moved, Stage
from bench.stages.stages import STACKED, STAGES, StagesBench, measure_stages, steps, to_facts
from bench.stages.stitch import Stitch
from bench.stages.tile import Tile
from bench.stages.tile_counts import TileCost, hw_of, spread_of_cost
from bench.stages.whole import Whole
from edge.bundle import Bundle
from edge.bundle.proven_engine import open_proven_engine
from edge.delivery.journal.errors import JournalFullError
from edge.delivery.journal.journal import Journal as OpenJournal
from edge.delivery.messages import to_frames
from edge.errors import BenchError
from edge.geometry import TileGrid
from edge.inference import infer
from tests import oracles
from tests.small_bundle import CELLS, TILE

ROOT = Path(__file__).parents[2]
HW = (210, 500)
"""Lower than a tile, so that some of each tile is padding; three tiles."""
OVERLAP, CELL_PX = 2, 4
EXTRAS = ["torch", "timm", "lightning", "hydra", "torchmetrics", "optuna", "onnx", "onnxscript", "nncf", "pytest"]


@pytest.fixture(scope="module")
def prepared(bundle: Bundle) -> Prepared:
    return prepare(bundle, open_proven_engine(bundle), HW)


# What each stage does.


def test_a_prepared_frame_has_the_defects_and_the_good_verdict_that_it_says(prepared: Prepared) -> None:
    assert prepared.size == "500x210"
    assert len(prepared.logits) == len(oracles.tiles_of(prepared.picture, TILE, OVERLAP)) == 3
    good, defective = prepared.judgement(prepared.good), prepared.judgement(prepared.defective)
    assert (good.verdict, good.regions) == ("GOOD", [])
    assert defective.verdict == "DEFECT"
    assert len(defective.regions) >= 1
    assert sum(prepared.logits >= prepared.defective.inspector.thresholds.score) == 1, "a tenth of three, one at least"


def test_the_tiles_that_are_cut_are_those_of_the_frame(prepared: Prepared) -> None:
    stage = Tile(prepared)
    stage.run()
    cut = [tile for _, _, tile in oracles.tiles_of(prepared.picture, TILE, OVERLAP)]
    assert len(stage.inputs) == len(os.sched_getaffinity(0)) + 1
    last = {number % len(stage.inputs): tile for number, tile in enumerate(cut)}
    for place, tile in last.items():
        assert np.array_equal(stage.inputs[place, 0], tile)


def test_the_heatmap_and_the_regions_are_those_of_the_whole_way(prepared: Prepared) -> None:
    expected = prepared.judgement(prepared.defective)
    stitch = Stitch(prepared)
    stitch.run()
    assert stitch.heatmap is not None
    assert np.array_equal(stitch.heatmap, expected.heatmap)
    judge = Judge(prepared, defects=True)
    judge.run()
    assert judge.judgement is not None
    assert judge.judgement.regions == expected.regions


def test_the_bare_engine_answers_for_tiles_of_the_frame_and_for_no_others(prepared: Prepared) -> None:
    tiles = np.stack([tile for _, _, tile in oracles.tiles_of(prepared.picture, TILE, OVERLAP)])
    logits = infer(prepared.engine, tiles)[0]
    bare = BareEngine(prepared)
    infer(prepared.engine, np.full((8, TILE, TILE, 3), 255, np.uint8))
    bare.infer(6)
    assert all(np.isclose(one, logits).any() for one in bare.logits)
    require_answers(bare.logits, prepared, frames=2)
    with pytest.raises(BenchError, match="answered 6 tiles of 3"):
        require_answers(bare.logits, prepared)
    with pytest.raises(BenchError, match="otherwise than it had for the same tiles"):
        require_answers([*bare.logits[:2], logits[0] + 1], prepared)


def test_the_bare_engine_takes_whole_batches_and_a_part_of_one(bundle: Bundle) -> None:
    prepared = prepare(bundle, open_proven_engine(bundle, batch=2), HW)
    bare = BareEngine(prepared)
    bare.infer(6)
    bare.infer(5)
    require_answers([*bare.logits, bare.logits[0]], prepared, frames=2)
    assert bare.moved == Moved(5 * TILE * TILE * 3, 5 * 4 * (1 + CELLS * CELLS))


def test_an_event_tells_regions_and_shows_the_heatmap(prepared: Prepared) -> None:
    message = prepared.message("always")
    assert message.png is not None
    shown = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert shown is not None
    assert shown.shape == prepared.heatmap.shape
    # Where the evidence is highest, it is brightest.
    assert shown.flat[prepared.heatmap.argmax()] == shown.max()
    assert prepared.message("never").png is None


# What it moves, and whether it is found out.


def expected_bytes(name: str, prepared: Prepared) -> Moved | None:
    """Counted by hand; None where it depends on what a JSON says."""
    height, width = HW
    tiles = len(oracles.starts(height, TILE, OVERLAP)) * len(oracles.starts(width, TILE, OVERLAP))
    cells = -(-height // CELL_PX) * -(-width // CELL_PX)
    answers = tiles * 4 + tiles * CELLS * CELLS * 4
    return {
        "grab": Moved(height * width, height * width * 3),
        "tile": Moved(tiles * height * TILE * 3, tiles * TILE * TILE * 3),
        "infer": Moved(tiles * TILE * TILE * 3, answers),
        "stitch": Moved(tiles * CELLS * CELLS * 4, cells * 4),
        "judge (good)": Moved(answers, 0),
        "judge (defects)": Moved(answers + cells * 4, 0),
    }.get(name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_moves_what_is_counted_by_hand_and_a_run_that_did_not_happen_is_found_out(
    prepared: Prepared, name: str, tmp_path: Path
) -> None:
    with closing(STAGES[name](prepared, tmp_path)) as stage:
        assert str(stage) == name
        for _ in range(3):
            assert stage.timed() > 0
            moved = stage.moved()
            by_hand = expected_bytes(name, prepared)
            if by_hand is not None:
                assert moved == by_hand
            elif name.startswith("publish"):
                assert moved.read == moved.written > 0
            elif "heatmap)" in name and "no heatmap" not in name:
                assert moved.written > stage.frames * len(prepared.message("always").png or b"")
            stage.check()
        with pytest.raises(BenchError):
            stage.check()
        stage.run()
        stage.check()


def test_encoding_reads_the_heatmap_alone_and_writes_the_parts(prepared: Prepared) -> None:
    stage = Encode(prepared, heatmap=True)
    stage.run()
    assert stage.moved() == Moved(prepared.heatmap.nbytes, sum(map(len, stage.parts)))
    assert stage.parts[0] == b"verdict.bench.DEFECT"


def test_the_journal_holds_every_event_of_a_group_on_the_disk(prepared: Prepared, tmp_path: Path) -> None:
    with closing(Journal(prepared, tmp_path, heatmap=True, group=True)) as stage:
        stage.run()
        stage.run()
        kept = stage.stored()
        assert [record.seq for record in kept] == list(range(2 + GROUP, 2 + 2 * GROUP)), "one tells of the begin"
        assert {record.heatmap for record in kept} == {prepared.message("always").png}
        stage.check()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_keep_what_it_is_given_is_a_sentence(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise JournalFullError("the disk is full")

    with closing(Journal(prepared, tmp_path, heatmap=True, group=True)) as stage:
        monkeypatch.setattr(OpenJournal, "append", full)
        stage.run()
        with pytest.raises(BenchError, match="the journal takes no events: the disk is full; name another --folder"):
            stage.check()


def test_a_message_is_heard_by_another_process_byte_by_byte(prepared: Prepared) -> None:
    with closing(Publish(prepared, heatmap=True)) as stage:
        assert stage.helpers[0] not in (0, os.getpid())
        stage.run()
        assert stage.heard is not None
        assert stage.sent is not None
        parts = to_frames(stage.sent)
        assert stage.heard.bytes == sum(map(len, parts))
        assert stage.heard.crc == zlib.crc32(b"".join(parts))
        stage.check()
    assert not Path(f"/proc/{stage.helpers[0]}").exists()


def test_the_camera_is_another_process_that_ends_with_its_stage() -> None:
    with closing(Grab((48, 64))) as stage:
        stage.run()
        stage.check()
        assert cpu_ns(stage.helpers[0]) > 0
        assert page_faults(stage.helpers[0]) > 0
    assert not Path(f"/proc/{stage.helpers[0]}").exists()
    assert cpu_ns(stage.helpers[0]) == page_faults(stage.helpers[0]) == 0


# What it costs.


def test_arrays_are_counted_that_are_gone_again_at_once_and_none_beside_them() -> None:
    before = np.zeros(1000)
    with counted_arrays() as found:
        assert (found.count, found.bytes) == (0, 0)
        kept = np.empty(1000, np.float32)
        np.negative(np.zeros(500))
        before.resize(2000, refcheck=False)  # was not made while they are counted
    assert (found.count, found.bytes) == (3, 4000 + 4000 + 4000)
    np.empty(1000)
    assert found.count == 3
    kept[:] = 1
    kept.resize(3000, refcheck=False)
    assert kept.sum() == 1000


SPIN_NS = 20_000_000


def spin(cpu_ns: int) -> None:
    began_ns = time.thread_time_ns()
    while time.thread_time_ns() - began_ns < cpu_ns:
        pass


class Made(Stage):
    """A stage that is known by heart."""

    name = "made"

    def __init__(self, frames: int = 1) -> None:
        self.frames, self.checked, self.runs = frames, 0, 0

    def run(self) -> None:
        self.runs += 1
        np.empty((2, 250))

    def timed(self) -> float:
        self.run()
        return 0.001 * self.runs * self.frames

    def check(self) -> None:
        self.checked += 1

    def moved(self) -> Moved:
        return Moved(1, 2)


def test_a_cost_is_of_all_rounds_but_not_of_settling_and_per_frame() -> None:
    stage, rounds = Made(), []
    recorder = Recorder(stage, lambda: rounds.append(stage.runs))
    recorder.settle()
    for frames in (3, 2):
        recorder(frames)
    assert (rounds, stage.checked) == ([3, 6, 8], 3)
    cost = recorder.cost()
    assert cost.ms == pytest.approx(Spread(6.25, 5.0, 7.5))
    assert cost.p99_ms == pytest.approx(np.percentile([4, 5, 6, 7, 8], 99))
    assert (cost.bytes_read, cost.bytes_written) == (1, 2)
    assert (cost.allocations, cost.allocated_bytes) == (1, 4000)
    assert 4000 <= cost.peak_bytes < 8000
    assert cost.page_faults >= 0
    assert cost.cpu_ms > 0


def test_what_threads_do_after_a_run_is_waited_for_and_is_of_its_cost() -> None:
    class Spinning(Made):
        """Leaves a thread behind that takes so much processor time, however long that lasts."""

        name = "spinning"

        def run(self) -> None:
            super().run()
            self.thread = threading.Thread(target=spin, args=(SPIN_NS,))
            self.thread.start()

        def check(self) -> None:
            assert not self.thread.is_alive()

    recorder = Recorder(Spinning(), lambda: None)
    for _ in range(3):
        recorder(2)
    spinning = float(np.median([one.cpu_s for one in recorder.rounds]))
    assert spinning >= SPIN_NS / 1e9


def test_a_stage_that_does_several_frames_at_once_costs_a_share_of_a_run() -> None:
    stage = Made(frames=4)
    recorder = Recorder(stage, lambda: None)
    for _ in range(2):
        recorder(9)
    assert stage.runs == 4, "two whole runs of four frames a round"
    assert recorder.cost().ms == pytest.approx(Spread(2.5, 1.5, 3.5))
    assert recorder.cost().allocated_bytes == 1000


def test_with_a_numpy_that_is_not_known_arrays_are_not_known_and_all_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "3.0.0")
    monkeypatch.delitem(sys.modules, "bench.stages.array_allocations", raising=False)
    recorder = Recorder(Made(), lambda: None)
    recorder(1)
    cost = recorder.cost()
    assert (cost.allocations, cost.allocated_bytes) == (None, None)
    assert cost.peak_bytes >= 2000
    assert cost.ms.median > 0


def test_an_engine_whose_inputs_were_used_by_others_is_filled_anew(prepared: Prepared) -> None:
    bare = BareEngine(prepared)
    bare.infer(6)
    infer(prepared.engine, np.full((8, TILE, TILE, 3), 255, np.uint8))
    bare.refill()
    bare.infer(6)
    require_answers(bare.logits, prepared, frames=2)


def test_a_whole_way_that_ends_otherwise_is_found_out(prepared: Prepared) -> None:
    stage = Whole(prepared, defects=True)
    stage.run()
    stage.expected = prepared.judgement(prepared.good)
    with pytest.raises(BenchError, match="that the frame is judged as it was before"):
        stage.check()


# All of it.


@given(tiles=st.integers(1, 600), tile_px=st.integers(2, 300), data=st.data())
def test_a_frame_is_made_that_has_so_many_tiles(tiles: int, tile_px: int, data: st.DataObject) -> None:
    overlap_px = data.draw(st.integers(0, tile_px - 1))
    height, width = hw_of(tiles, tile_px, overlap_px)
    assert height <= width
    found = len(oracles.starts(height, tile_px, overlap_px)) * len(oracles.starts(width, tile_px, overlap_px))
    assert found == tiles == len(TileGrid((height, width), tile_px, overlap_px))


def test_the_dearest_tile_is_held_against_the_cheapest() -> None:
    def cost(ms: float) -> TileCost:
        one = Spread(ms, ms, ms)
        return TileCost(tiles=1, size="1x1", frames=2, whole_ms_per_tile=one, bare_ms_per_tile=one, over_bare=one)

    assert spread_of_cost([cost(2.0), cost(2.2), cost(2.1)]) == pytest.approx(0.1)
    assert spread_of_cost([cost(2.0)]) is None


@pytest.fixture(scope="module")
def found(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> StagesBench:
    """Of one small size, and frames of two and of six tiles; every step is told."""
    told: list[None] = []
    sizes, counts = [HW, HW], [2, 6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.stages.tile_counts.TILES_PER_RUN", 15)
        found = measure_stages(
            bundle,
            "f32",
            sizes=sizes,
            tile_counts=counts,
            rounds=1,
            frames=2,
            folder=tmp_path_factory.mktemp("journals"),
            say=lambda line: None,
            done=lambda: told.append(None),
        )
    assert len(told) == steps(sizes, counts, rounds=1)
    return found


@pytest.mark.long
def test_every_stage_is_measured_once_a_size(found: StagesBench) -> None:
    assert [f"{row.stage} ({row.variant})" if row.variant else row.stage for row in found.rows] == list(STAGES)
    assert {(row.size, row.tiles) for row in found.rows} == {("500x210", 3)}
    assert len([row for row in found.rows if row.stacked]) == len(STACKED) == 8
    for row in found.rows:
        assert row.ms.median > 0
        assert row.bytes_read + row.bytes_written > 0
        assert row.peak_bytes >= 0


def test_the_picture_of_a_frame_adds_up(found: StagesBench) -> None:
    times = {(row.stage, row.variant): row.ms.median for row in found.rows}
    assert [way.variant for way in found.whole] == ["good", "defects"]
    for way in found.whole:
        parts = [times["tile", ""], times["infer", ""], times["stitch", ""], times["judge", way.variant]]
        assert way.stages_ms == pytest.approx(sum(parts))
        assert way.stages_ms + way.hand_offs_ms.median == pytest.approx(way.ms.median)
        assert (way.regions > 0) == (way.variant == "defects")


def test_what_a_tile_costs_is_measured_beside_the_bare_engine(found: StagesBench) -> None:
    assert [(one.tiles, one.size) for one in found.cost_per_tile] == [(2, "446x224"), (6, "668x446")]
    assert [one.frames for one in found.cost_per_tile] == [8, 6]
    for one in found.cost_per_tile:
        assert one.over_bare.median == pytest.approx(one.whole_ms_per_tile.median / one.bare_ms_per_tile.median)
    assert found.cost_per_tile_spread is not None
    assert {"500x210: grab", "500x210: whole (defects)", "6 tiles a frame"} <= to_facts(found).keys()


@pytest.mark.long
def test_the_command_needs_no_extra(bundle: Bundle, tmp_path: Path) -> None:
    """Where torch and the others are not there, as on a line PC."""
    out = tmp_path / "stages.json"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
        "from bench.commands.stages import stages; stages(prog_name='stages')"
    )
    arguments = [str(bundle.path), "--size", "300x250", "--tiles", "0", "--rounds", "1", "--frames", "1"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments, "--folder", str(tmp_path), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "300x250: judge (good)" in done.stdout
    report = json.loads(out.read_bytes())
    assert report["bench"] == "stages"
    assert report["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert report["cost_per_tile"] == []
    assert report["journal_on"] != "unknown"


@pytest.mark.parametrize("size", ["300", "0x4", "300x", "9000x10", "-3x4", "axb"])
def test_a_size_that_is_none_is_a_sentence(size: str, bundle: Bundle) -> None:
    done = CliRunner().invoke(command, [str(bundle.path), "--size", size])
    assert done.exit_code == 2
    assert f"{size} is no size" in done.stderr
    assert FrameSize().convert("640x480", None, None) == (480, 640)
