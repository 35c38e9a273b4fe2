"""Golden tiles: reading them, refusing wrong claims, and running them before a bundle is used."""

import dataclasses
import io
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle, GoldenTiles, check_golden, open_bundle
from heatline.edge.bundle.golden import MOST_TILES
from heatline.edge.bundle.store import GOLDEN
from heatline.edge.errors import BundleError
from heatline.edge.inference import Engine
from tests.small_bundle import CELLS, TILE, copy_of, golden_tiles, manifest, put, refusal

RIGHT = golden_tiles()
MEGABYTE = 2**20


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


def header(shape: tuple[int, ...], descr: str, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """The header of an .npy file."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text


Member = bytes | tuple[bytes, int]
"""Bytes, and the number of zeros after them. The zeros are made during packing, as they may be gigabytes."""
LOGIT, MAP, TILES = npy(RIGHT.logit), npy(RIGHT.map), npy(RIGHT.tiles)


def archive(members: Mapping[str, Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of the correct members, except these."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, member in ({"tiles": TILES, "logit": LOGIT, "map": MAP} | dict(members)).items():
            data, zeros = (member, 0) if isinstance(member, bytes) else member
            with packed.open(f"{name}.npy", "w") as file:
                file.write(data)
                for _ in range(0, zeros, MEGABYTE):
                    file.write(bytes(MEGABYTE))
    return buffer.getvalue()


TWO_GB = 2**31 // (TILE * TILE * 3) + 1
"""The smallest number of tiles of more than 2 GB."""
TOO_MUCH: Mapping[str, tuple[Mapping[str, Member], str]] = {
    "claim": ({"tiles": header((TWO_GB, TILE, TILE, 3), "|u1")}, "claims 14,267 tiles"),
    "bomb": ({"logit": (LOGIT, 160 * MEGABYTE)}, "has not the 16 bytes"),
    "bomb-in-a-header": (
        {"tiles": (header((4,), "|u1", b"\x02\x00", 2**28), 160 * MEGABYTE)},
        "version 2.0 of the array format",
    ),
}
REFUSED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "holds no golden tiles"),
    (lambda: npy(RIGHT.tiles), "holds no golden tiles"),  # an array, not an archive
    (lambda: npz(map=np.array([{}])), "holds no golden tiles"),  # a pickle
    (lambda: npz(tiles=RIGHT.tiles[:0], logit=RIGHT.logit[:0], map=RIGHT.map[:0]), "has tiles of shape"),  # none
    (lambda: npz(tiles=RIGHT.tiles[:, :7]), "has tiles of shape"),
    (lambda: npz(tiles=RIGHT.tiles.astype(np.float32)), "type float32"),
    (lambda: npz(logit=RIGHT.logit[:3]), "has logit of shape"),  # one answer is missing
    (lambda: npz(logit=RIGHT.logit.astype(np.float64)), "type float64"),
    (lambda: npz(map=RIGHT.map[:, :7, :7]), "has map of shape"),
    (lambda: npz(tiles=np.array(1)), "tiles"),  # a scalar
    (lambda: rounding(0, 0, 0), "has map_rounding of shape (3,)"),  # the value of one tile is missing
    (lambda: rounding(0, 0, 0, 0, dtype=np.float64), "type float64"),
    (lambda: rounding(*[1e6] * 4), "1.0e+06 logits, expected 0 to 0.5 of"),  # any map would pass
    (lambda: rounding(0, -1, 0, 0), "of -1.0e+00 to 0.0e+00 logits"),
    (lambda: rounding(0, 0, np.nan, 0), "map_rounding of nan to nan logits"),
    (lambda: archive({"tiles": header((2**62, TILE, TILE, 3), "|u1")}), "claims 4,611,686,"),
    (lambda: archive({"tiles": header((4, 2**31), "|u1")}), "has tiles of shape (4, 2147483648)"),
    (lambda: archive({"map": header((4, 2**15, 2**14), "<f4")}), "has map of shape"),
    (lambda: archive({"tiles": header((-4, TILE, TILE, 3), "|u1")}), "holds no golden tiles"),
    (lambda: archive({"map": header((4, CELLS, CELLS), "<f4")}), "has not the 3,136 bytes"),  # no data follows
    (lambda: archive({"map": MAP + bytes(10**6)}), "has not the 3,136 bytes"),  # too much data follows
    (lambda: archive({"map": header((4, CELLS, CELLS), ">f4")}), "type >f4"),
    (lambda: archive({"tiles": b"\x93NUMPY\x09\x09" + bytes(99)}), "holds no golden tiles"),
    (lambda: archive({}, zipfile.ZIP_LZMA), "expected stored or deflated"),
    (lambda: archive({}) + bytes(42_000_000), "bytes large, expected at most"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_golden_tiles_with_wrong_claims_are_refused(folder: Path, data: Callable[[], bytes], message: str) -> None:
    sentence = refusal(put(folder, {GOLDEN: data()}))
    assert message in sentence
    assert GOLDEN in sentence


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from heatline.edge.bundle import open_bundle
from heatline.edge.errors import BundleError
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 100_000_000, taken + 100_000_000))
for folder in sys.argv[1:]:
    try:
        open_bundle(Path(folder))
    except BundleError as error:
        print(error)
"""


def test_a_claim_of_gigabytes_is_refused_without_allocating_memory(bundle: Bundle, tmp_path: Path) -> None:
    folders = [
        put(copy_of(bundle, tmp_path / name), {GOLDEN: archive(members)}) for name, (members, _) in TOO_MUCH.items()
    ]
    result = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, *folders], capture_output=True, text=True, check=False, timeout=60
    )
    sentences = result.stdout.splitlines()
    assert len(sentences) == len(TOO_MUCH), result.stderr
    assert all(message in sentence for sentence, (_, message) in zip(sentences, TOO_MUCH.values(), strict=True))


def test_more_golden_tiles_than_any_bundle_needs_are_refused(tmp_path: Path) -> None:
    count = MOST_TILES + 1
    shapes = {
        "tiles": ((count, TILE, TILE, 3), "|u1"),
        "logit": ((count,), "<f4"),
        "map": ((count, CELLS, CELLS), "<f4"),
    }
    (tmp_path / GOLDEN).write_bytes(archive({name: header(*claim) for name, claim in shapes.items()}))
    with pytest.raises(BundleError, match="claims 257 tiles, expected at most 256"):
        GoldenTiles.load(tmp_path / GOLDEN, manifest())


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
