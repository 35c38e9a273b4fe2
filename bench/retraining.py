"""Measures a retraining on real pictures: `python -m heatline.bench.retraining FOLDER RESULT.json`.

Half of the folder's groups train the first bundle. A quarter are the line's frames: the bundle judges them, and the
masks mark its errors, and some right verdicts, as people would. The last quarter is neither trained on nor marked;
both bundles judge it.
"""

import csv
import shutil
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import cv2
import msgspec
import numpy as np

from heatline.bench.machine import machine, without_flags
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.evidence.exported import ReviewRow
from heatline.edge.wire.events import BundleName, Times, Verdict, VerdictEvent
from heatline.export.retrain.decide import Rate
from heatline.export.retrain.frames import MarkedFrame
from heatline.export.retrain.judge import Judging, judge_frames
from heatline.export.retrain.retrain import Request, retrain
from heatline.export.retrain.select import UsableFrame
from heatline.export.run_to_bundle import export_run
from heatline.train.compose import compose
from heatline.train.discovery import discover
from heatline.train.fit import fit
from heatline.train.readers import LabelledImage
from heatline.train.run import load_run

RIGHT = 30
"""How many right verdicts of each kind are marked."""


class Errors(msgspec.Struct, frozen=True):
    """The errors of a bundle on the last quarter."""

    false_alarms: Rate
    missed: Rate


class RetrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the result's file."""

    data: str
    machine: dict[str, object]
    pictures: dict[str, int]
    """Number of pictures by their part."""
    marks: dict[str, int]
    """Number of marked frames by their kind."""
    better: bool
    reasons: list[str]
    held_out: dict[str, Errors]
    """Of the retraining's own comparison, by bundle."""
    unseen: dict[str, Errors]
    """Of the last quarter, by bundle."""
    first_training_s: float
    retraining_s: float
    """From the marks to the offered bundle."""
    steps_s: dict[str, float]


def measure(folder: Path, work: Path) -> RetrainingResult:
    """Train, mark, retrain and evaluate; all files go to `work`."""
    images = discover(folder).read().images
    parts = {name: [image for image in images if part_of(image) == name] for name in ("train", "line", "unseen")}
    own = work / "pictures"
    copy_part(folder, own, parts["train"])
    started = time.monotonic()
    run = fit(compose([f"data={own}", f"out={work / 'run'}"]), print)
    old = export_run(
        load_run(run.folder), work / "first.bundle", name="first", version="1", false_reject=0.01, precisions=["f32"]
    )
    first_s = time.monotonic() - started
    line = [frame_of(image) for image in parts["line"]]
    marked = mark(old, parts["line"], judge_frames(old, line, Judging()))
    started = time.monotonic()
    result = retrain(Request(old.path, marked, str(folder), Judging(), 1 / 3, out=work / "retrain"), print)
    retraining_s = time.monotonic() - started
    new = open_bundle(Path(result.bundle))
    compared = result.comparison
    return RetrainingResult(
        data=folder.name,
        machine=without_flags(machine()),
        pictures={name: len(part) for name, part in parts.items()},
        marks={kind: [each.review.kind for each in marked].count(kind) for kind in ("false_alarm", "missed", "right")},
        better=result.better,
        reasons=compared.reasons,
        held_out={
            "old": Errors(compared.old.false_alarms, compared.old.missed),
            "new": Errors(compared.new.false_alarms, compared.new.missed),
        },
        unseen={"old": errors_of(old, parts["unseen"]), "new": errors_of(new, parts["unseen"])},
        first_training_s=round(first_s, 1),
        retraining_s=round(retraining_s, 1),
        steps_s=result.seconds,
    )


def part_of(image: LabelledImage) -> str:
    """Return the part of a picture: a hash of its group, so that groups stay together."""
    return ("train", "train", "line", "unseen")[sha256(str(image.group).encode()).digest()[0] % 4]


def copy_part(folder: Path, target: Path, images: Sequence[LabelledImage]) -> None:
    """Link pictures and masks into a folder of their own, with labels.csv."""
    for name in ("images", "masks"):
        (target / name).mkdir(parents=True)
    with (target / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "label", "group"))
        for image in images:
            rows.writerow((image.path.name, "defective" if image.defective else "good", image.group))
            (target / "images" / image.path.name).symlink_to(image.path.resolve())
            mask = folder / "masks" / f"{image.path.stem}.png"
            if mask.exists():
                (target / "masks" / mask.name).symlink_to(mask.resolve())


def mark(bundle: Bundle, images: Sequence[LabelledImage], verdicts: Sequence[Verdict]) -> list[MarkedFrame]:
    """Mark all wrong verdicts, with a point in each missed defect, and some right ones."""
    marked: list[MarkedFrame] = []
    right = {"GOOD": 0, "DEFECT": 0}
    for number, (image, verdict) in enumerate(zip(images, verdicts, strict=True), start=1):
        if verdict == "NO_VERDICT":
            continue
        points: list[tuple[int, int]] = []
        if image.defective == (verdict == "DEFECT"):
            right[verdict] += 1
            if right[verdict] > RIGHT:
                continue
            kind = "right"
        else:
            kind = "missed" if image.defective else "false_alarm"
            points = points_in(image) if image.defective else []
        review = ReviewRow(
            truth="defective" if image.defective else "good",
            kind=kind,  # type: ignore[arg-type]
            missed_xy=points,
            by=["mask"],
        )
        marked.append(MarkedFrame(image.path, event_of(bundle, number, verdict, str(image.group)), review))
    return marked


def points_in(image: LabelledImage) -> list[tuple[int, int]]:
    """Return a point in each defect: that which lies farthest from its border, where people click."""
    rgb = image.pixels()
    mask = image.mask((rgb.shape[0], rgb.shape[1]))
    assert mask is not None, "the folder has masks"
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    points = []
    for defect in range(1, count):
        depth = cv2.distanceTransform((labels == defect).astype(np.uint8), cv2.DIST_L2, 3)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        points.append((int(x), int(y)))
    return points


def event_of(bundle: Bundle, number: int, verdict: Verdict, part: str) -> VerdictEvent:
    """Return a verdict event of the bundle's line."""
    manifest, calibration = bundle.manifest, bundle.manifest.calibration
    return VerdictEvent(
        boot_id="00000000",
        seq=number,
        camera="top",
        frame_id=number,
        frame_number=number,
        part_id=part,
        times=Times(captured_at_ns=0, captured_monotonic_ns=0),
        verdict=verdict,
        score_threshold=calibration.score_threshold,
        evidence_threshold=calibration.evidence_threshold,
        precision="f32",
        bundle=BundleName(name=manifest.name, version=manifest.version, digest=bundle.digest),
        previous_seq=0,
        latency_ms=0.0,
        acting=False,
    )


def frame_of(image: LabelledImage) -> UsableFrame:
    return UsableFrame(image.path, "", "defective" if image.defective else "good", "top", str(image.group))


def errors_of(bundle: Bundle, images: Sequence[LabelledImage]) -> Errors:
    """Count the errors of a bundle."""
    verdicts = judge_frames(bundle, [frame_of(image) for image in images], Judging())
    good = [verdict for image, verdict in zip(images, verdicts, strict=True) if not image.defective]
    defective = [verdict for image, verdict in zip(images, verdicts, strict=True) if image.defective]
    return Errors(Rate.measure(good.count("DEFECT"), len(good)), Rate.measure(defective.count("GOOD"), len(defective)))


def main() -> None:
    """Measure, and write the result."""
    folder, target = (Path(argument) for argument in sys.argv[1:3])
    work = target.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    result = measure(folder, work)
    target.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
