"""`heatline bench precisions`: each precision of a bundle in turns, and what its manifest says of it."""

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
    said: list[str] = []
    found = measure_precisions(bundle, batches=(1, 3), rounds=2, tiles_per_round=5, say=said.append)
    assert [(one.precision, one.batch) for one in found.speeds] == [("f32", 1), ("int8", 1), ("f32", 3), ("int8", 3)]
    for one in found.speeds:
        assert 0 < one.tiles_per_s.lowest <= one.tiles_per_s.median <= one.tiles_per_s.highest
        assert one.precision != "f32" or one.to_f32 == 1.0
    assert found.bytes_of_graph["int8"] == sum(
        (bundle.path / f"model_int8.{end}").stat().st_size for end in ("xml", "bin")
    )
    assert found.bytes_in_all > sum(found.bytes_of_graph.values())
    assert found.map_gate == bundle.manifest.map_gate
    assert len(said) == 2


def test_a_precision_that_falls_back_is_not_timed_as_if_it_had_not(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"], int8_gain=300.0)
    with pytest.raises(BenchError, match=r"int8 cannot be timed on this machine: f32 is used instead of int8"):
        measure_precisions(bundle, batches=(1,), rounds=1, tiles_per_round=1, say=lambda line: None)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_speeds_and_gate(tmp_path: Path, as_json: bool) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"])
    arguments = ["precisions", str(bundle.path), "--rounds", "1", "--tiles", "4", "--batch", "2"]
    out = tmp_path / "precisions.json"
    arguments += ["--out", str(out)] + (["--json"] if as_json else [])
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(out.read_text())["bench"] == "precisions"
    if as_json:
        printed = json.loads(done.stdout)
        assert {"machine", "speeds", "map_gate", "bytes_of_graph"} <= set(printed)
    else:
        assert "int8, batches of 2" in done.stdout
        assert "left out" in done.stdout
