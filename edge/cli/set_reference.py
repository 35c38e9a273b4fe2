"""`heatline bundle set-reference`: makes the picture that frames are compared with from good frames."""

import re
from collections.abc import Mapping
from pathlib import Path

import click

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.calibration.recalibration import (
    FEWEST_FRAMES,
    NAMED,
    GoodPictures,
    NewReference,
    recalibrated_manifest,
    without_poses,
)
from heatline.edge.cli.bundle_formatting import describe_product_reference
from heatline.edge.cli.new_bundle import (
    THRESHOLDS_STAY,
    NewBundle,
    cameras_with_own,
    new_bundle_options,
    progress,
    warn_of_own_references,
)
from heatline.edge.cli.output import json_option, print_report, print_warnings
from heatline.edge.errors import BundleError, InputError
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.util.text import format_count, is_are, list_some

FEW = {
    1: "a defect in a single frame cannot be seen, and the line would call it good; name at least 3 frames",
    2: "of 2 frames nobody can tell which is defective; name at least 3",
}


@click.command(
    "set-reference", epilog="Example: heatline bundle set-reference boards.bundle good/ --to boards-4711.bundle"
)
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("good", metavar="GOOD_FRAMES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--camera", default="", help="Camera that the reference holds for. Default: all without one of their own."
)
@new_bundle_options
@json_option
def set_reference(
    bundle_path: Path,
    good: tuple[Path, ...],
    camera: str,
    target: Path | None,
    version: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a copy of BUNDLE that compares frames with a reference made from GOOD_FRAMES, without training.

    Use this for another line, another design, or a changed product. GOOD_FRAMES are pictures of different good parts,
    or folders of them; at most 12 are used. A frame that the model rejects when it is compared with the others is left
    out. BUNDLE does not change. The new bundle is not signed.
    """
    parent = open_bundle(bundle_path)
    was = parent.manifest
    if was.tensors.difference is None:
        raise BundleError(
            f"{bundle_path} compares frames with no reference; expected a bundle whose training found a fixed pose, or "
            "had reference=on"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", camera):
        raise click.UsageError(f"--camera {camera!r} is not a camera name; expected up to 64 letters, digits, - and _")
    new = NewBundle.beside(bundle_path, was.version, target, version, dry_run, "ref")
    pictures = GoodPictures(good)
    made = NewReference(pictures.files, pictures.names, camera)
    engine = open_verified_engine(parent, "openvino", "f32").engine
    own_bounds = parent.plausibility_by_camera().get(camera)
    inspector = Inspector(
        was,
        engine,
        plausibility=parent.plausibility(),
        plausibility_by_camera={} if own_bounds is None else {camera: own_bounds[1]},
    )
    judged = made.judged(inspector, WHOLE_FRAME if own_bounds is None else own_bounds[0], progress("good frames"))
    warnings = []
    few = len(judged) < FEWEST_FRAMES
    rejected = {
        file: found for file, found in judged.items() if not few and (found.misaligned or found.verdict == "DEFECT")
    }
    if rejected:
        warnings.append(_refuse_most(rejected, len(judged), was.calibration.score_threshold))
        made = NewReference([file for file in judged if file not in rejected], pictures.names, camera)
    warnings += [words for frames, words in FEW.items() if frames == len(made.files)]
    warnings += made.warnings()
    unlike = {file: why for file, found in judged.items() if not found.misaligned and (why := found.reject_reason)}
    for file, why in list(unlike.items())[:1]:
        warnings.append(
            f"{len(unlike)} of {format_count(len(judged), 'frame')} {is_are(len(unlike))} unlike the product that "
            f"{bundle_path} knows, as {file}: {why}; a line gives such frames no verdict until heatline "
            "calibrate has run"
        )
    warnings.append(THRESHOLDS_STAY)
    own = cameras_with_own(was)
    warnings += [] if camera else warn_of_own_references(own)
    manifest = recalibrated_manifest(
        parent,
        without_poses(was.calibration, camera, own),
        new.version,
        engine,
        {"camera": camera or None, "left_out": [file.name for file in rejected]},
        made,
        records="references",
    )
    written = new.write(parent, manifest, made.content)
    report = {
        "written": None if written is None else str(written.path),
        "digest": None if written is None else written.digest,
        "version": new.version,
        "camera": camera or None,
        "reference": made.stated,
        "left_out": [str(file) for file in rejected],
        "warnings": warnings,
    }
    print_warnings(warnings)
    facts = {
        "version": f"{new.version}, from {was.version}",
        "signed by": "nobody, as this is a new bundle: heatline bundle sign",
        "frames of " + (f"camera {camera}" if camera else "cameras without a reference of their own"): "are "
        f"compared with {describe_product_reference(made.stated)}",
        "left out": list_some([str(file) for file in rejected], NAMED) or "none",
    }
    print_report(report, as_json, new.title, facts)


def _refuse_most(rejected: Mapping[Path, Judgement], frames: int, threshold: float) -> str:
    """Describe the frames that are left out.

    Raises:
        InputError: they are not the minority.
    """
    file, worst = next(iter(rejected.items()))
    why = worst.misaligned or f"score {worst.score:.2f}, threshold {threshold:.2f}"
    found = f"{len(rejected)} of {frames} frames {is_are(len(rejected))} rejected when compared with the others"
    if 2 * len(rejected) >= frames:
        raise InputError(
            f"{found}, first {file} ({why}): name good frames only; or if all are good, set thresholds and reference "
            "together with heatline calibrate"
        )
    names = list_some([str(each) for each in rejected], NAMED)
    return f"{found} and left out, as probably defective or of another design: {names} ({why})"
