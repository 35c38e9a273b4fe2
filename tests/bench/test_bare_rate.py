"""The engine that a line's rate is a share of: in the very precision that was asked for, and its answers checked."""

from pathlib import Path

import numpy as np
import pytest

from bench.camera_rates import _bare_engine, _bare_tiles_per_s
from bench.proven import engine_in
from edge.errors import BenchError
from tests.small_bundle import TILE, bundle_in


def test_the_bare_engine_of_a_bundle_answers_as_the_proven_one(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, TILE, TILE, 3), np.uint8)
    engine, wrong = _bare_engine(bundle_in(tmp_path / "b"), "f32", tiles)
    assert all(rate > 0 for rate in _bare_tiles_per_s(engine, len(tiles)))
    assert wrong() is None
    for request in engine._requests:
        request.get_tensor("logit").data[:] += 50
    assert "its logits are off" in (wrong() or "")


def test_a_precision_that_falls_back_is_refused_with_what_to_do(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"], int8_gain=300.0)
    assert engine_in(bundle, "f32").engine.precision == "f32"
    with pytest.raises(BenchError, match=r"^int8 cannot be timed on this machine: .*; choose another --precision"):
        engine_in(bundle, "int8")
