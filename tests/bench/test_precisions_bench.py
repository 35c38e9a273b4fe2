"""`heatline bench precisions`: each precision of a bundle in turns, and none that is not used on this machine."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.command import bench as command
from bench.precisions import measure_precisions
from edge.errors import BenchError
from tests.small_bundle import bundle_in


def test_each_precision_is_timed_at_each_batch_size_beside_f32(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"])
    found = measure_precisions(bundle, batches=(1, 3), rounds=2, tiles_per_round=5, say=lambda line: None)
    assert [(one.precision, one.batch) for one in found.speeds] == [("f32", 1), ("int8", 1), ("f32", 3), ("int8", 3)]
    for one in found.speeds:
        assert 0 < one.tiles_per_s.lowest <= one.tiles_per_s.median <= one.tiles_per_s.highest
        assert one.precision != "f32" or one.to_f32 == 1.0
    assert found.bytes_of_graph["int8"] == sum(
        (bundle.path / f"model_int8.{end}").stat().st_size for end in ("xml", "bin")
    )
    assert found.bytes_in_all > sum(found.bytes_of_graph.values())
    assert found.map_gate == bundle.manifest.map_gate


def test_the_command_keeps_its_result_and_times_no_precision_that_falls_back(tmp_path: Path) -> None:
    def run(bundle: Path) -> dict[str, object]:
        out = tmp_path / "precisions.json"
        arguments = ["precisions", str(bundle), "--rounds", "1", "--tiles", "4", "--batch", "2", "--out", str(out)]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert "int8, batches of 2" in done.stdout
        kept: dict[str, object] = json.loads(out.read_text())
        return kept

    assert run(bundle_in(tmp_path / "b", ["f32", "int8"]).path)["bench"] == "precisions"
    with pytest.raises(BenchError, match=r"int8 cannot be timed on this machine: f32 is used instead of int8"):
        run(bundle_in(tmp_path / "far", ["f32", "int8"], int8_gain=300.0).path)
