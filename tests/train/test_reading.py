"""A bundle's training folder is read again as the training read it, wherever it lies."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import msgspec
import pytest

from heatline.edge.bundle import Bundle, write_bundle
from heatline.train.compose import compose
from heatline.train.evaluation.evaluate import evaluate_model
from heatline.train.readers import LabelledImage
from heatline.train.readers.labelled import digest_groups
from heatline.train.run import describe_reading, read_as, read_data
from tests.train.blobs import draw_blobs, write_labels
from tests.train.placed_squares import grouped
from tests.train.test_near_duplicates import again, scene


def with_boards(folder: Path) -> Path:
    draw_blobs(folder)
    rows = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(rows.replace("image,label,group", "image,label,board"))
    return folder


def with_names_only(folder: Path) -> Path:
    (draw_blobs(folder) / "labels.csv").unlink()
    return folder


def with_a_scene_twice(folder: Path) -> Path:
    (draw_blobs(folder) / "labels.csv").unlink()
    for number, picture in enumerate(sorted((folder / "images").iterdir())):
        name = f"{chr(ord('p') + number)}.png"
        if (mask := folder / "masks" / picture.name).exists():
            mask.rename(mask.with_name(name))
        picture.rename(picture.with_name(name))
    cv2.imwrite(str(folder / "images" / "a.png"), scene(1, (300, 400)))
    cv2.imwrite(str(folder / "images" / "b.png"), again(scene(1, (300, 400))))
    return folder


def partly_masked(folder: Path) -> Path:
    for mask in sorted((draw_blobs(folder) / "masks").iterdir())[1:]:
        mask.unlink()
    return folder


def good_only(folder: Path) -> Path:
    draw_blobs(folder, per_group=0)
    return folder


def facts(images: Sequence[LabelledImage]) -> list[tuple[str, str | None, bool, bool]]:
    return [(image.name, image.group, image.defective, image.labels_only) for image in images]


@pytest.mark.parametrize("key", ["discover=true", "recipe=heatline"])
@pytest.mark.parametrize("drawn", [with_boards, with_names_only, with_a_scene_twice, partly_masked, good_only])
def test_the_provenance_of_a_bundle_is_enough_to_read_a_folder_as_the_run_does(
    tmp_path: Path, drawn: Callable[[Path], Path], key: str
) -> None:
    data = drawn(tmp_path / "data")
    config = compose([f"data={data}", key])
    own = read_data(config)
    stored = msgspec.json.decode(msgspec.json.encode(describe_reading(config, own.truth)))
    moved = shutil.copytree(data, tmp_path / "elsewhere" / "data")
    read = read_as(stored, moved, own.truth)
    assert facts(read.images) == facts(own.images)


def test_evaluation_knows_the_discovered_groups_that_trained_a_bundle(tmp_path: Path, bundle: Bundle) -> None:
    """Its run got only a folder; the groups are boards."""
    data = grouped(tmp_path / "data")
    rows = [line.split(",") for line in (data / "labels.csv").read_text().split()[1:]]
    write_labels(data, [(image, label, group) for image, label, group in rows], "board")
    config = compose([f"data={data}", "discover=true"])
    trained_on = [image for image in read_data(config).images if image.group in ("a", "b")]
    provenance = {
        "data": {"data": "data", "groups": {"train": ["a", "b"], "test": ["c"]}, "digests": digest_groups(trained_on)}
        | {"read": describe_reading(config, "masks")}
    }
    trained = write_bundle(
        tmp_path / "trained",
        msgspec.structs.replace(bundle.manifest, provenance=provenance),
        {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files},
    )
    assert evaluate_model(trained.path, data).subject.groups == ["c"]
    everything = evaluate_model(trained.path, data, part="all")
    assert everything.warnings[0].startswith("The model was trained on the groups of at least 4 of the 6 frames")
