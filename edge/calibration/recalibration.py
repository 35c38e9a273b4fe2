"""Sets a bundle's thresholds by good frames of the line that uses it, and writes the result as a new bundle."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatline.edge import __version__
from heatline.edge.bundle import Bundle, Calibration, Manifest, open_bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.manifest import SCHEMA, Measure, ProductReference, product_picture_of
from heatline.edge.bundle.manifest import Reference as DriftReference
from heatline.edge.calibration.thresholds import GoodFrame
from heatline.edge.colour import to_rgb
from heatline.edge.drift import MOST_FRAMES as MOST_SAMPLED
from heatline.edge.drift import OF_POSE, measure_picture
from heatline.edge.errors import BundleError, EngineError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.images import digest_picture, read_image, read_rgb
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, PendingFrame, one_ahead
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.picture_folders import good_pictures
from heatline.edge.reference.reference import MOST_FRAMES, Reference
from heatline.edge.util.sampling import evenly
from heatline.edge.util.text import format_count, list_some, utc_now

FEWEST_FRAMES = 3
"""Each frame is compared with a reference of the others, and of two that differ nobody knows which is good."""


class NewReference:
    """A reference of good frames. `files` lists those that it is made from: at most `MOST_FRAMES`, evenly chosen,
    without copies, which would only agree with each other. `digests` are those of `digest_picture`.

    Args:
        names: describes where the files, at least one, come from.
        camera: the camera that it holds for; empty: all cameras that have none of their own.
    Raises:
        InputError: a file cannot be read, or the frames differ in size, do not show the same part in nearly the same
            place, show nothing that can be aligned, or disagree about what a good part looks like.
    """

    def __init__(self, files: Sequence[Path], names: str, camera: str = "") -> None:
        self.camera = camera
        by_digest: dict[str, Path] = {}
        for at in evenly(len(files), MOST_FRAMES):
            by_digest.setdefault(digest_picture(files[at]), files[at])
        self.digests, self.files = list(by_digest), list(by_digest.values())
        self.made_of = f"{format_count(len(self.files), 'good frame')} of {names}"
        self._pictures = [read_rgb(file) for file in self.files]
        first = Reference.of(self._pictures[:1], str(self.files[0]))
        poses = {file: first.pose_of(rgb) for file, rgb in zip(self.files[1:], self._pictures[1:], strict=True)}
        unfit = {file: reason for file, (_, reason) in poses.items() if reason is not None}
        if unfit:
            file, reason = next(iter(unfit.items()))
            odd, other = (file, self.files[0]) if 2 * len(unfit) <= len(poses) else (self.files[0], file)
            raise InputError(
                f"{odd} does not fit {other}: {reason}; remove it, and name good frames of one size and one design "
                "in which the part lies nearly alike"
            )
        self.reference = Reference.of(self._pictures, self.made_of)

    def of(self, file: Path) -> Reference:
        """Return what a frame is compared with: on the line, a frame is new to the reference, so it has no part in it.
        Raise an InputError if the other frames disagree about what a good part looks like.
        """
        own = digest_picture(file)
        others = [rgb for digest, rgb in zip(self.digests, self._pictures, strict=True) if digest != own]
        return self.reference if len(others) == len(self.files) else Reference.of(others, self.made_of)

    def judged(
        self, inspector: Inspector, area: RegionOfInterest, track: Callable[[Sequence[Path]], Iterable[Path]] = iter
    ) -> dict[Path, Judgement]:
        """Inspect each frame, compared with a reference of the others. Fewer than `FEWEST_FRAMES` are compared with the
        reference itself, so no defect of theirs is seen. Raise an EngineError if the network gave no usable answer.
        """
        judged = {}
        for number, (file, rgb) in enumerate(zip(track(self.files), self._pictures, strict=True), start=1):
            try:
                reference = self.of(file) if len(self.files) >= FEWEST_FRAMES else self.reference
            except InputError:  # two of three disagree: which of them is defective shows without the other
                reference = self.reference
            frame = Frame(Stamp(self.camera, number, str(file)), rgb, "RGB8")
            judged[file] = inspector.finish(inspector.start(frame, area, reference=reference))
        return judged

    @cached_property
    def stated(self) -> ProductReference:
        """What the manifest says of it."""
        file = product_picture_of(self.camera)
        return ProductReference(file, self.reference.frame_hw, self.reference.frames, self.made_of)

    @property
    def content(self) -> dict[str, bytes]:
        """The content of its file, by name."""
        return {self.stated.file: self.reference.to_png()}


MOST_WITH_CELLS = 150
"""How many pictures show what the product's areas look like: the cells of more would fill the memory."""
REFERENCE_FRAMES = "reference_frames"
"""In the provenance: digests of the frames that made the current reference, by camera."""
NAMED = 3
"""How many of the highest-scoring frames are listed."""

Track = Callable[[Sequence[Path]], Iterable[Path]]


class GoodPictures:
    """The pictures of one shift. `files` lists them, those of a folder by name; `names` describes where they come from,
    without paths.

    Args:
        paths: files, and folders of which `good_pictures` are taken, with its errors.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [file for path in paths for file in (good_pictures(path) if os.path.isdir(path) else [path])]
        self.names = list_some([path.resolve().name for path in paths], NAMED)

    def run(
        self,
        inspector: Inspector,
        track: Track = iter,
        area: RegionOfInterest | None = None,
        reference_of: Callable[[Path], Reference] | None = None,
    ) -> tuple[list[GoodFrame], list[Appearance], list[dict[Measure, float]]]:
        """Inspect every picture as the line does; while one is judged, the engine infers the next.

        Args:
            area: the region of interest, for the statistics too; None: the whole picture.
            reference_of: what each picture is compared with; None: with the inspector's references.
        Returns: for each picture, the values that set thresholds, and its appearance; and of some evenly spread ones,
            what drift is measured against.
        Raises:
            InputError: a picture cannot be read, or pictures are misaligned, so a line would not judge them.
            GeometryError: no pixel of a picture lies in the region of interest.
            EngineError: the network gave no usable answer to a picture.
        """
        misaligned: list[tuple[Path, str]] = []
        frames: list[GoodFrame] = []
        appearances: list[Appearance] = []
        samples: list[dict[Measure, float]] = []
        sampled, with_cells = evenly(len(self.files), MOST_SAMPLED), evenly(len(self.files), MOST_WITH_CELLS)

        def start() -> Iterator[PendingFrame]:
            for number, file in enumerate(track(self.files)):
                image, pixel_format = read_image(file)
                started = inspector.start(
                    Frame(Stamp("calibrate", number + 1, str(file)), image, pixel_format),
                    area or WHOLE_FRAME,
                    statistics_of_area=area is not None,
                    reference=None if reference_of is None else reference_of(file),
                )
                pose, reason = started.alignment or (None, None)
                if reason is not None:
                    misaligned.append((file, reason))
                if number in sampled:
                    rgb = to_rgb(image, pixel_format)
                    part = rgb if area is None else rgb[area.box((rgb.shape[0], rgb.shape[1]))]
                    samples.append(measure_picture(part, pose))
                yield started

        for pending in one_ahead(start()):
            try:
                judgement = inspector.finish(pending)
            except EngineError as error:
                raise EngineError(f"{pending.frame.stamp.source}: {error}") from error
            if pending.features is not None and not np.isfinite(pending.features).all():
                raise EngineError(
                    f"{pending.frame.stamp.source}: the network answered with features that are not finite"
                )
            frames.append(GoodFrame.of(pending.logits, judgement.heatmap))
            appearances.append(pending.appearance.thinned(keep_cells=len(appearances) in with_cells))
        if misaligned:
            raise InputError(
                f"{len(misaligned)} of {format_count(len(self.files), 'picture')} cannot be compared with the "
                f"reference, first {misaligned[0][0]}: {misaligned[0][1]}; leave them out, or make another reference "
                "with heatline bundle set-reference"
            )
        return frames, appearances, samples


def find_known(digests: object, files: Iterable[Path]) -> list[Path]:
    """Return the files of some digests, as a bundle's provenance may have them; an InputError: one cannot be read."""
    return [file for file in files if digest_picture(file) in digests] if isinstance(digests, list) else []


def find_copies(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Find files with the same bytes. Return pairs of indices: the first such file, and its copy. Raise an InputError
    if a file cannot be read. No camera takes the same picture twice, so a copy is no further evidence.
    """
    first_by_digest: dict[str, int] = {}
    firsts = [first_by_digest.setdefault(digest_picture(file), index) for index, file in enumerate(files)]
    return [(first, index) for index, first in enumerate(firsts) if first != index]


def recalibrated_manifest(
    parent: Bundle,
    calibration: Calibration,
    version: str,
    engine: Engine,
    details: Mapping[str, Any],
    reference: NewReference | None = None,
    records: str = "calibrations",
) -> Manifest:
    """Return the manifest of the new bundle: the parent's with a new calibration, version and date, and one more record
    in its provenance.

    Args:
        details: further keys of the record, for a calibration of thresholds from `record_of_thresholds`.
        reference: what frames are compared with from now on; None: what the parent says.
        records: the list in the provenance that gets the record.
    """
    was = parent.manifest
    record: dict[str, Any] = {
        "parent": {
            "name": was.name,
            "version": was.version,
            "digest": parent.digest,
            "created_at": was.created_at,
            "made_by": was.made_by,
        },
        "engine": engine.name,
        "precision": engine.precision,
        **({} if reference is None else {"reference": msgspec.to_builtins(reference.stated)}),
        **details,
    }
    before = was.provenance.get(records, [])
    references, made_of = was.references, was.provenance.get(REFERENCE_FRAMES, {})
    if reference is not None:
        references = {**references, reference.camera: reference.stated}
        made_of = {**made_of, reference.camera: reference.digests}
    return msgspec.structs.replace(
        was,
        schema=SCHEMA,
        version=version,
        created_at=utc_now(),
        made_by=f"heatline {__version__}",
        calibration=calibration,
        references=references,
        provenance={
            **was.provenance,
            records: [*(before if isinstance(before, list) else [before]), record],
            **({REFERENCE_FRAMES: made_of} if made_of else {}),
        },
    )


def record_of_thresholds(calibration: Calibration) -> dict[str, Any]:
    """Return the record of a calibration of thresholds and of the appearance of all frames."""
    return {
        "false_reject": calibration.false_reject_per_frame,
        "evidence_quantile": calibration.evidence_quantile,
        "strong_evidence": calibration.strong_evidence,
        "plausible": None if calibration.plausible is None else msgspec.to_builtins(calibration.plausible),
        "frames": calibration.frames,
        "frames_are": calibration.frames_are,
        "held_out_rejected": calibration.held_out_rejected,
        "false_reject_at_most": calibration.false_reject_at_most,
    }


def without_poses(calibration: Calibration, camera: str, others: Collection[str]) -> Calibration:
    """Return a calibration without what drift knows of poses: they were measured against another reference.

    Args:
        camera: whose reference is new; empty: of all cameras.
        others: cameras with a reference of their own, which an empty camera leaves as they are.
    """

    def cut(drift: DriftReference | None) -> DriftReference | None:
        if drift is None or "turn" not in drift.measures:
            return drift
        kept = {measure: values for measure, values in drift.measures.items() if measure not in OF_POSE}
        why = "the reference is newer than what drift is measured against; calibrate again"
        return msgspec.structs.replace(drift, measures=kept, unwatched=drift.unwatched | dict.fromkeys(OF_POSE, why))

    return msgspec.structs.replace(
        calibration,
        reference=calibration.reference if camera else cut(calibration.reference),
        plausible_by_camera={
            name: msgspec.structs.replace(own, reference=cut(own.reference))
            if name == camera or (not camera and name not in others)
            else own
            for name, own in calibration.plausible_by_camera.items()
        },
    )


def write_recalibrated(
    target: Path, parent: Bundle, manifest: Manifest, replaced: Mapping[str, bytes | None]
) -> Bundle:
    """Write the new bundle, with the parent's files except those that are `replaced`; None: it does not have the file.
    Raise a BundleError if the folder exists or cannot be written, or a file of the parent was changed.
    """
    if open_bundle(parent.path).digest != parent.digest:
        raise BundleError(f"{parent.path} was changed while good frames were run; copy the bundle again")
    kept = {name: (parent.path / name).read_bytes() for name in parent.manifest.files if name not in replaced}
    return write_bundle(target, manifest, kept | {name: new for name, new in replaced.items() if new is not None})


def next_in_series(text: str, mark: str) -> str:
    """Return the next name of a series: with mark "+cal", "1" is followed by "1+cal1" and "1+cal2".

    >>> next_in_series("1", "+cal"), next_in_series("1+cal9", "+cal")
    ('1+cal1', '1+cal10')
    """
    found = re.fullmatch(rf"(.*){re.escape(mark)}([0-9]+)", text, flags=re.DOTALL)
    return f"{found[1]}{mark}{int(found[2]) + 1}" if found else f"{text}{mark}1"
