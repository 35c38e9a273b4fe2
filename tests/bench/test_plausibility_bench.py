"""`heatline bench plausibility` on small pictures."""

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from heatline.bench.changes import in_size
from heatline.bench.command import bench as command
from heatline.bench.plausibility import (
    FOREIGN,
    OTHER_PRODUCT,
    SHOWN_IN_PART,
    SPOILT,
    STILL_GOOD,
    PlausibilityResult,
    Refused,
    SetResult,
    measure,
    table,
)
from heatline.bench.recipes.sets import DataSet
from heatline.edge.errors import BenchError
from tests.train.blobs import draw_blobs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.long
def test_black_frames_frames_of_half_scale_and_another_product_are_refused(tmp_path: Path) -> None:
    """Both products have the same brightness; the other one's frames get the tested one's size."""
    for name, hw in (("blobs", (150, 180)), ("stripes", (150, 400))):
        draw_blobs(tmp_path / "data" / name, per_group=2, frame_hw=hw)
    stripes = np.where(np.arange(400) // 4 % 2, 40, -40)[:, None]
    for path in (tmp_path / "data" / "stripes" / "images").iterdir():
        picture = np.asarray(cv2.imread(str(path)), int) + stripes
        cv2.imwrite(str(path), picture.clip(0, 255).astype(np.uint8))
    sets = [DataSet(name=name, truth="masks", group="group") for name in ("blobs", "stripes")]
    (tmp_path / "sets.yaml").write_bytes(msgspec.yaml.encode(sets))
    places = {"--data": tmp_path / "data", "--sets": tmp_path / "sets.yaml", "--work": tmp_path / "work"}
    out = tmp_path / "found.json"
    arguments = [str(each) for pair in places.items() for each in pair]
    done = CliRunner().invoke(command, ["plausibility", *arguments, "--seed", "0", "--out", str(out)])
    if done.exception is not None:
        raise done.exception
    found = json.loads(out.read_text())
    assert [one["set"] for one in found["sets"]] == ["blobs", "stripes"]
    for one in found["sets"]:
        refused = {each["kind"]: each for each in (*one["spoilt"], *one["still_good"], one["defective"])}
        assert refused.keys() == {*SPOILT, OTHER_PRODUCT, *SHOWN_IN_PART, *STILL_GOOD, "defective"}
        assert refused["good"]["frames"] == one["frames"] - refused["defective"]["frames"] > 0
        for kind in ("black", "half scale", OTHER_PRODUCT, "20 % black", "30 % the last line repeated"):
            assert refused[kind]["refused"] == refused[kind]["frames"] > 0, kind
        assert refused["good"]["refused"] == 0
    table = out.with_suffix(".md").read_text().splitlines()
    assert table[0] == "| refused | blobs | stripes |"
    assert len(table) == 2 + 3 + len(SPOILT) + 1 + len(SHOWN_IN_PART) + len(STILL_GOOD) + 1 + 1


def test_a_data_set_of_one_group_is_refused_before_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_blobs(tmp_path / "data" / "blobs", per_group=1)
    monkeypatch.setattr("heatline.bench.plausibility.build_model", lambda *_: pytest.fail("a model was built"))
    one = DataSet(name="blobs", truth="masks", pattern="^[a-d](_)")
    with pytest.raises(BenchError, match="blobs has pictures of one group, expected two at least"):
        measure([one], tmp_path / "data", tmp_path, [0], 9, print)


def test_every_change_alters_the_picture_and_preserves_its_type() -> None:
    rgb = np.random.default_rng(0).integers(60, 200, (90, 120, 3), np.uint8)
    for kind, spoil in {**SPOILT, **FOREIGN, **STILL_GOOD}.items():
        found = spoil(rgb, np.random.default_rng(1))
        assert found.dtype == np.uint8, kind
        assert found.shape == ((45, 60, 3) if kind == "half scale" else rgb.shape), kind
        assert (kind == "good") == np.array_equal(found, rgb), kind


@pytest.mark.parametrize("height_width", [(20, 24), (40, 10), (61, 47)])
def test_a_picture_in_a_frame_of_another_size_keeps_its_scale(height_width: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (30, 24, 3), np.uint8)
    height, width = height_width
    found = in_size(rgb, height_width)
    assert found.shape == (height, width, 3)
    seen_h, seen_w = min(height, 30), min(width, 24)
    middle = [(side - seen) // 2 for side, seen in ((height, seen_h), (width, seen_w), (30, seen_h), (24, seen_w))]
    assert np.array_equal(
        found[middle[0] : middle[0] + seen_h, middle[1] : middle[1] + seen_w],
        rgb[middle[2] : middle[2] + seen_h, middle[3] : middle[3] + seen_w],
    )


def test_the_table_has_shares_and_the_number_of_frames() -> None:
    kinds = {kind: Refused(kind, 1, 8) for kind in (*SPOILT, OTHER_PRODUCT, *SHOWN_IN_PART, *STILL_GOOD)}
    one = SetResult(
        set="blobs",
        seeds=[0],
        groups=3,
        frames=9,
        spoilt=[kinds[kind] for kind in (*SPOILT, OTHER_PRODUCT, *SHOWN_IN_PART)],
        still_good=[kinds[kind] for kind in STILL_GOOD],
        defective=Refused("defective", 0, 0),
    )
    rows = table(PlausibilityResult("a model", [one])).splitlines()
    assert "| black | 12.5 % of 8 |" in rows
    assert rows[-2:] == ["| defective | - |", "| groups, frames | 3, 9 |"]
