"""Exports a retrained run as the next version of its bundle, and carries over what was calibrated on the line."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.bundle import Bundle, Calibration, Manifest, write_bundle
from heatline.edge.bundle.manifest import PRODUCT_TILES, Measure, ProductReference, Reference, product_tiles_of
from heatline.edge.calibration.recalibration import next_in_series
from heatline.edge.drift import OF_POSE
from heatline.edge.inspection.inspector import ANY_CAMERA
from heatline.export.gate import MAP_ALLOWED
from heatline.export.retrain.plan import Plan, Retraining
from heatline.export.run_to_bundle import export_run
from heatline.train.config import DenseRecipeConfig
from heatline.train.progress import tracked
from heatline.train.readers import LabelledFolder
from heatline.train.readers.labelled import digest_groups
from heatline.train.run import TrainedRun

VERSION_MARK, FOLDER_MARK = "+retrain", "-retrain"
LOGITS: tuple[Measure, ...] = ("score", "evidence")
"""What drift measures in logits of the model."""
NOT_CALIBRATED = "the model was trained again since the calibration"


def export_next(
    old: Bundle, run: TrainedRun, folder: LabelledFolder, target: Path, plan: Plan, say: Callable[[str], None]
) -> Bundle:
    """Write the bundle of a retrained run: the old one's name, its next version, the same precisions and settings.

    Args:
        folder: the training folder, without reviewed frames.
    """
    was, recipe = old.manifest, run.config.recipe
    finetuned = not isinstance(recipe, DenseRecipeConfig) or recipe.finetune_steps > 0
    with tempfile.TemporaryDirectory(prefix=".heatline-", dir=target.parent) as scratch:
        exported = export_run(
            run,
            Path(scratch) / "exported",
            name=was.name,
            version=next_in_series(was.version, VERSION_MARK),
            false_reject=was.calibration.false_reject_per_frame,
            smoothing_cells=was.grid.smoothing_px * min(was.map.hw) / was.grid.tile_px,
            precisions=was.precisions,
            allow=[precision for precision in was.precisions if was.fails(precision) is not None],
            allow_map=True,
            reference=old.references().get(ANY_CAMERA),
            screen=was.screening is not None,
            track=tracked("validation frames"),
            say=say,
        )
        files = {name: (exported.path / name).read_bytes() for name in exported.manifest.files}
        calibration, carried = carry_over(old, exported.manifest, finetuned=finetuned)
        references, pictures = carry_references(old, exported.manifest)
        kept = has_appearance_of_line(was) and has_same_features(was, exported.manifest, finetuned=finetuned)
        manifest = msgspec.structs.replace(
            exported.manifest,
            calibration=calibration,
            references=references,
            provenance=_provenance(old, exported.manifest, run, folder, plan, appearance_of_line=kept),
        )
        return write_bundle(target, manifest, {**files, **carried, **pictures})


def carry_over(old: Bundle, new: Manifest, *, finetuned: bool) -> tuple[Calibration, dict[str, bytes]]:
    """Return the new bundle's calibration, with appearance and reference of drift as calibrated on the line, and files.

    They hold for the new model too if the features of the frozen network are the same.
    """
    was, calibration = old.manifest, new.calibration
    if not has_same_features(was, new, finetuned=finetuned):
        return calibration, {}
    by_camera = {
        camera: msgspec.structs.replace(each, reference=_without_model(each.reference, new))
        for camera, each in was.calibration.plausible_by_camera.items()
    }
    calibration = msgspec.structs.replace(calibration, plausible_by_camera=by_camera)
    names = [product_tiles_of(camera) for camera in by_camera]
    if has_appearance_of_line(was):
        calibration = msgspec.structs.replace(
            calibration,
            plausible=was.calibration.plausible,
            reference=_without_model(was.calibration.reference, new) or calibration.reference,
        )
        names.append(PRODUCT_TILES)
    return calibration, {name: (old.path / name).read_bytes() for name in names if name in was.files}


def carry_references(old: Bundle, new: Manifest) -> tuple[dict[str, ProductReference], dict[str, bytes]]:
    """Return the references of the new bundle, the line's own before those of its training, and their files."""
    was = old.manifest.references
    if not _compares(new):
        return new.references, {}
    return {**new.references, **was}, {each.file: (old.path / each.file).read_bytes() for each in was.values()}


def _compares(manifest: Manifest) -> bool:
    return manifest.tensors.difference is not None


def _without_model(reference: Reference | None, new: Manifest) -> Reference | None:
    """Return a reference without measures in logits of the old model, and without poses if the new one finds none."""
    if reference is None:
        return None
    left_out = LOGITS if _compares(new) or "turn" not in reference.measures else (*LOGITS, *OF_POSE)
    return msgspec.structs.replace(
        reference,
        measures={name: values for name, values in reference.measures.items() if name not in left_out},
        unwatched={**reference.unwatched, **dict.fromkeys(left_out, NOT_CALIBRATED)},
    )


def describe_calibrations(old: Manifest, new: Manifest, bundle: Path) -> list[str]:
    """Describe which calibrations of the line must be done again, and whether its references are of use."""
    notes = []
    if is_calibrated(old):
        notes.append(
            f"the old thresholds come from {old.calibration.frames} frames by heatline calibrate, and belong to the "
            f"old model; those of the new one come from its cross-validation: run heatline calibrate {bundle} again"
        )
    if lost := sorted(old.calibration.plausible_by_camera.keys() - new.calibration.plausible_by_camera.keys()):
        notes.append(
            f"the bounds of camera {', '.join(lost)} belong to the features of the old model; run heatline cameras "
            f"calibrate again"
        )
    if _compares(old) and not _compares(new):
        notes.append(
            "the old model compares frames with a reference and the new one, whose training says why, does not: the "
            "new bundle has none"
        )
    return notes


def is_calibrated(manifest: Manifest) -> bool:
    """Return whether `heatline calibrate` set the thresholds."""
    return any("false_reject" in record for record in manifest.provenance.get("calibrations", []))


def has_appearance_of_line(manifest: Manifest) -> bool:
    """Return whether the plausible appearance is that of the line: by `heatline calibrate`, or carried over since."""
    return is_calibrated(manifest) or manifest.provenance.get("retraining", {}).get("appearance_of_line", False)


def has_same_features(old: Manifest, new: Manifest, *, finetuned: bool) -> bool:
    """Return whether both graphs compute the same features of a tile, and the old bundle knows as much of them."""
    old_areas, new_areas = (each.calibration.plausible and each.calibration.plausible.areas for each in (old, new))
    return (
        not finetuned
        and (not (new_areas and new_areas.cell) or bool(old_areas and old_areas.cell))
        and new.tensors.features is not None
        and old.tensors.features == new.tensors.features
        and old.model.source == new.model.source
        and old.provenance.get("weights") == new.provenance.get("weights")
    )


def failed_map_checks(manifest: Manifest) -> list[str]:
    """Return a sentence about each check that the map fails."""
    warnings = [] if manifest.map_checks is None else manifest.map_checks.warnings
    return [each.removesuffix(MAP_ALLOWED) for each in warnings if each.endswith(MAP_ALLOWED)]


def _provenance(
    old: Bundle, new: Manifest, run: TrainedRun, folder: LabelledFolder, plan: Plan, *, appearance_of_line: bool
) -> dict[str, Any]:
    """Return the new provenance. As in the first bundle, its groups and digests are those of the training folder."""
    own = {str(image.group) for image in folder.images}
    data = dict(new.provenance["data"])
    data["groups"] = {part: [group for group in groups if group in own] for part, groups in data["groups"].items()}
    data["digests"] = digest_groups(image for image in folder.images if image.group in data["groups"]["train"])
    was = old.manifest
    record = Retraining(
        parent={"name": was.name, "version": was.version, "digest": old.digest},
        trained=sorted(row.digest for _, row in plan.trained),
        groups=sorted(plan.groups),
        held_out=sorted(plan.held_out),
        appearance_of_line=appearance_of_line,
    )
    return {**new.provenance, "data": data, "retraining": msgspec.to_builtins(record)}
