"""`heatline cameras calibrate`: sets what the frames of one camera must look like."""

from pathlib import Path

import click
import msgspec

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import CameraPlausible
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.calibration.recalibration import (
    GoodPictures,
    files_of_frames,
    find_copies,
    recalibrated_manifest,
    record_of_camera,
)
from heatline.edge.cli.bundle_formatting import count_frames, describe_plausible, describe_reference
from heatline.edge.cli.new_bundle import (
    THRESHOLDS_STAY,
    NewBundle,
    keep_reference_option,
    new_bundle_options,
    new_reference,
    progress,
    warn_of_no_reference,
    warn_of_outliers,
    warn_of_wider_bounds,
)
from heatline.edge.cli.output import json_option, print_report, print_warnings
from heatline.edge.config import LineConfig, load_config
from heatline.edge.drift import fit_reference
from heatline.edge.errors import ConfigError
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inspection.inspector import ANY_CAMERA, Inspector, product_references


class Report(msgspec.Struct, frozen=True):
    """The command's output."""

    written: str | None
    """The new bundle; None: a dry run."""
    digest: str | None
    version: str
    camera: str
    plausible: CameraPlausible
    frames_are: str
    warnings: list[str]


@click.command("calibrate", epilog="Example: heatline cameras calibrate line.toml top good --to boards-line1.bundle")
@click.argument("line", type=click.Path(path_type=Path))
@click.argument("camera")
@click.argument("good", metavar="GOOD_FRAMES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--product", help="Product whose bundle and region of interest to use. Default: the line's first.")
@keep_reference_option
@new_bundle_options
@json_option
def calibrate_camera(
    line: Path,
    camera: str,
    good: tuple[Path, ...],
    product: str | None,
    keep_reference: bool,
    target: Path | None,
    version: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set what frames of CAMERA must look like from GOOD_FRAMES, pictures or folders of them, and write a new bundle.

    Use this if the cameras of LINE differ in light, distance or view. Only the camera's region of interest counts.
    A camera with a reference of its own gets a new one. Thresholds do not change. The new bundle is not signed.
    """
    config = load_config(line)
    config = config.of_product(config.product if product is None else product)
    area = _area(line, config, camera)
    pictures = GoodPictures(good)
    parent = open_bundle(config.bundle)
    new = NewBundle.beside(config.bundle, parent.manifest.version, target, version, dry_run)
    settings = config.engine_for(parent.digest).settings
    verified = open_verified_engine(parent, settings.kind, settings.precision, device=settings.device)
    known_references = parent.references()
    shared = camera not in known_references and ANY_CAMERA in known_references
    made = new_reference(pictures, parent, camera, keep=keep_reference or shared)
    references = product_references(parent, [camera]) if made is None else {camera: made.reference}
    inspector = Inspector(
        parent.manifest,
        verified.engine,
        overlap_px=config.tiles.overlap_px,
        references={ANY_CAMERA: references.get(camera) or references[ANY_CAMERA]} if references else None,
    )
    reference_of = None if made is None else made.of
    frames, appearances, samples = pictures.run(inspector, progress(f"frames of {camera}"), area, reference_of)
    warnings = warn_of_outliers(pictures, appearances, {copy for _, copy in find_copies(pictures.files)})
    warnings += [] if made is None else [*made.warnings(), THRESHOLDS_STAY]
    if verified.fell_back is not None:
        warnings.append(verified.fell_back)
    known = fit_plausibility(appearances)
    everywhere = parent.plausibility()
    warnings += [] if everywhere is None else warn_of_wider_bounds(everywhere, known)
    reference, picture = fit_reference(
        samples, [frame.highest_logit for frame in frames], [frame.median_evidence for frame in frames]
    )
    warnings += warn_of_no_reference(reference, len(frames))
    plausible = CameraPlausible(
        known.plausible,
        [list(polygon) for polygon in area.roi],
        [list(polygon) for polygon in area.exclude],
        reference,
    )
    was, frames_are = parent.manifest.calibration, f"good frames of {pictures.names}"
    calibration = msgspec.structs.replace(was, plausible_by_camera={**was.plausible_by_camera, camera: plausible})
    record = record_of_camera(camera, plausible, frames_are)
    manifest = recalibrated_manifest(parent, calibration, new.version, verified.engine, record, made)
    replaced = files_of_frames(known.tiles, picture, camera) | ({} if made is None else made.content)
    written = new.write(parent, manifest, replaced)
    report = Report(
        written=None if written is None else str(written.path),
        digest=None if written is None else written.digest,
        version=new.version,
        camera=camera,
        plausible=plausible,
        frames_are=frames_are,
        warnings=warnings,
    )
    print_warnings(warnings)
    facts = {
        "version": f"{new.version}, from {parent.manifest.version}",
        "signed by": "nobody, as this is a new bundle: heatline bundle sign",
        f"a frame of camera {camera} must be": describe_plausible(known.plausible),
        "drift is watched by": describe_reference(reference),
        "set by": f"{count_frames(len(appearances), frames_are)}, in {verified.engine.precision}",
    }
    print_report(report, as_json, new.title, facts)


def _area(line: Path, config: LineConfig, name: str) -> RegionOfInterest:
    """Return the region of interest of a camera.

    Raises:
        ConfigError: the line has no camera of that name.
    """
    areas = {camera.name: camera.region_of_interest for camera in config.cameras}
    if name not in areas:
        raise ConfigError(f"{line} has no camera {name!r}; it has {', '.join(areas)}")
    return areas[name]
