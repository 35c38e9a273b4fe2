"""Golden tiles: reading them, refusing wrong claims, and running them before a bundle is used."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle, GoldenTiles, check_golden, open_bundle
from heatline.edge.bundle.store import GOLDEN
from heatline.edge.errors import BundleError
from heatline.edge.inference import Engine
from tests.small_bundle import copy_of, golden_tiles, manifest, put, refusal

RIGHT = golden_tiles()


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, which the test damages."""
    return copy_of(bundle, tmp_path / "b")


# Storage.


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **({"tiles": RIGHT.tiles, "logit": RIGHT.logit, "map": RIGHT.map} | arrays))
    return buffer.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def rounding(*by: float, dtype: Any = np.float32) -> bytes:
    return npz(map_rounding=np.array(by, dtype))


@pytest.mark.parametrize("order", ["C", "F"])
def test_golden_tiles_are_read_in_every_form_that_numpy_writes(folder: Path, order: Any) -> None:
    data = npz(tiles=np.asarray(RIGHT.tiles, order=order), map=np.asarray(RIGHT.map, order=order))
    came = open_bundle(put(folder, {GOLDEN: data})).golden()
    assert came.map_rounding is None
    for name in ("tiles", "logit", "map"):
        np.testing.assert_array_equal(getattr(came, name), getattr(RIGHT, name))


def test_map_rounding_is_read_as_it_was_written(folder: Path) -> None:
    came = open_bundle(put(folder, {GOLDEN: rounding(0, 0.5, 0, 1.5)})).golden()
    assert came.map_rounding is not None
    assert came.map_rounding.tolist() == [0, 0.5, 0, 1.5]
    assert came.rounding == pytest.approx(1.5 / np.abs(RIGHT.map).max())


REFUSED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "holds no golden tiles"),
    (lambda: npy(RIGHT.tiles), "holds no golden tiles"),  # an array, not an archive
    (lambda: npz(map=np.array([{}])), "holds no golden tiles"),  # a pickle
    (lambda: npz(tiles=RIGHT.tiles[:, :7]), "has tiles of shape"),
    (lambda: npz(map=RIGHT.map[:, :7, :7]), "has map of shape"),
    (lambda: RIGHT.to_bytes()[:-100], "holds no golden tiles"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_golden_tiles_with_wrong_claims_are_refused(folder: Path, data: Callable[[], bytes], message: str) -> None:
    sentence = refusal(put(folder, {GOLDEN: data()}))
    assert message in sentence
    assert GOLDEN in sentence


@given(place=st.integers(0, 10**9), value=st.integers(1, 255), length=st.integers(1, 40))
def test_damaged_golden_tiles_are_refused_or_complete(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, length: int
) -> None:
    few = GoldenTiles(RIGHT.tiles[:1], RIGHT.logit[:1], RIGHT.map[:1])
    data = bytearray(few.to_bytes())
    first = place % len(data)
    data[first : first + length] = bytes(byte ^ value for byte in data[first : first + length])
    path = tmp_path_factory.mktemp("golden") / GOLDEN
    path.write_bytes(data)
    try:
        came = GoldenTiles.load(path, manifest())
    except BundleError:
        return
    for name in ("tiles", "logit", "map"):
        np.testing.assert_array_equal(getattr(came, name), getattr(few, name))


# An engine's answers on this machine.


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Engine:
    made: Engine = request.getfixturevalue(request.param)
    return made


def test_correct_golden_tiles_pass(bundle: Bundle, engine: Engine) -> None:
    off = check_golden(bundle.golden(), engine, bundle.manifest)
    assert set(off) == {"logit", "map"}
    assert all(0 <= share <= 1e-4 for share in off.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: dataclasses.replace(g, logit=g.logit * np.float32(1.01)), "in logit"),
        (lambda g: dataclasses.replace(g, map=g.map + np.float32(0.5)), "in map"),
        (lambda g: dataclasses.replace(g, map=g.map[:, ::-1]), "in map"),  # upside down
        (lambda g: dataclasses.replace(g, map=g.map.swapaxes(1, 2)), "in map"),  # transposed
        (
            lambda g: dataclasses.replace(g, tiles=np.roll(g.tiles, 1, axis=0)),
            "in logit",
        ),  # each answer is that of the previous tile
        (lambda g: dataclasses.replace(g, tiles=g.tiles // 2), "in logit"),  # tiles of another exposure
        (lambda g: dataclasses.replace(g, logit=np.full_like(g.logit, np.nan)), "in logit"),
        (lambda g: dataclasses.replace(g, logit=np.append(g.logit[:3], 0).astype(np.float32)), "in logit"),  # the last
    ],
)
def test_a_bundle_with_other_answers_on_this_machine_is_refused(
    bundle: Bundle, engine: Engine, change: Callable[[GoldenTiles], GoldenTiles], message: str
) -> None:
    with pytest.raises(BundleError, match="must not be used here") as caught:
        check_golden(change(golden_tiles()), engine, bundle.manifest)
    assert message in str(caught.value)
    assert engine.name in str(caught.value)


def test_a_logit_that_contradicts_the_manifests_pooling_is_refused(bundle: Bundle, engine: Engine) -> None:
    other = msgspec.structs.replace(bundle.manifest.map, identity="top-mean(map, 16) == logit")
    with pytest.raises(BundleError, match=r"in top-mean\(map, 16\) - logit on the golden tiles, .* must not be used"):
        check_golden(bundle.golden(), engine, msgspec.structs.replace(bundle.manifest, map=other))


def test_a_difference_that_the_manifest_allows_passes(bundle: Bundle, openvino: Engine) -> None:
    generous = msgspec.structs.replace(bundle.manifest, tolerances={"f32": 0.05})
    golden = dataclasses.replace(RIGHT, logit=RIGHT.logit * np.float32(1.01))
    assert 0.005 < check_golden(golden, openvino, generous)["logit"] < 0.02
