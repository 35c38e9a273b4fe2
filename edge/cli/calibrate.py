"""`heatline calibrate`, `cameras calibrate` and `bundle set-reference`: a new bundle from good frames."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from msgspec.structs import replace
from rich.progress import track

from heatline.edge.bundle import Bundle, Manifest, open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import (
    PRODUCT_TILES,
    SCREENING_TILES,
    CameraPlausible,
    Map,
    Reference,
    product_tiles_of,
)
from heatline.edge.bundle.plausibility import Plausibility, find_outliers, fit_plausibility
from heatline.edge.bundle.store import open_screening, require_new_folder
from heatline.edge.calibration.recalibration import (
    FEWEST_FRAMES,
    NAMED,
    REFERENCE_FRAMES,
    GoodPictures,
    NewReference,
    find_copies,
    find_known,
    next_in_series,
    recalibrated_manifest,
    record_of_thresholds,
    without_poses,
    write_recalibrated,
)
from heatline.edge.calibration.thresholds import GoodFrame, describe_support
from heatline.edge.calibration.thresholds import calibrate as calibrate_by_share
from heatline.edge.cli.bundle_formatting import (
    calibration_facts,
    count_frames,
    describe_plausible,
    describe_product_reference,
    describe_reference,
)
from heatline.edge.cli.output import (
    CommandGroup,
    FiniteRange,
    engine_option,
    json_option,
    precision_option,
    print_report,
    print_warnings,
    progress_console,
)
from heatline.edge.cli.scale import scale
from heatline.edge.config import load_config
from heatline.edge.drift import FEWEST_FRAMES as FEWEST_OF_DRIFT
from heatline.edge.drift import fit_reference
from heatline.edge.errors import BundleError, ConfigError, InputError
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inspection.inspector import ANY_CAMERA, Inspector, Settings, product_references
from heatline.edge.inspection.screening import describe_unscreened
from heatline.edge.util.text import format_count, is_are

SUFFIX = ".bundle"
THRESHOLDS_STAY = (
    "the thresholds come from frames that were compared with another reference; set them again with heatline calibrate"
)
FEW = "of 1 or 2 frames nobody can tell which is defective, and the line would call its defect good; name at least 3"

good_argument = click.argument(
    "good", metavar="GOOD_FRAMES...", nargs=-1, required=True, type=click.Path(path_type=Path)
)


def new_bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--to` and `--dry-run`."""
    command = click.option("--dry-run", is_flag=True, help="Print the result, but write nothing.")(command)
    beside = "Folder of the new bundle. Default: beside the old."
    return click.option("--to", "target", type=click.Path(path_type=Path), help=beside)(command)


class NewBundle(NamedTuple):
    """A copy of a bundle with another calibration or reference: where it is written, and as which version."""

    parent: Bundle
    target: Path
    version: str
    dry_run: bool

    @classmethod
    def of(cls, parent: Bundle, path: Path, target: Path | None, dry_run: bool, mark: str = "cal") -> "NewBundle":
        """Choose folder and version, and check before any frame is run that the bundle can be written.

        Args:
            path: of the old bundle, as on the command line.
            mark: says in both names how the bundle was made.
        """
        if target is None:
            beside = path if path.name not in ("", "..") else path.resolve()
            suffix = SUFFIX if beside.name.endswith(SUFFIX) else ""
            target = beside.with_name(next_in_series(beside.name.removesuffix(suffix), f"-{mark}") + suffix)
        if not dry_run:
            if path.resolve() in target.resolve().parents:
                raise BundleError(f"{target} lies in {path}, which must not change; name another folder with --to")
            require_new_folder(target)
        return cls(parent, target, next_in_series(parent.manifest.version, f"+{mark}"), dry_run)

    def finish(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes | None],
        as_json: bool,
        report: Mapping[str, object],
        facts: Mapping[str, object],
        warnings: Sequence[str],
    ) -> None:
        """Write the bundle, unless this is a dry run, and print what was done.

        Args:
            files: those that the parent does not have, or has with another content.
        """
        written = None if self.dry_run else write_recalibrated(self.target, self.parent, manifest, files)
        digest = None if written is None else written.digest
        done = {"written": written and str(written.path), "digest": digest, "version": self.version}
        print_warnings(warnings)
        about = {
            "version": f"{self.version}, from {self.parent.manifest.version}",
            "digest": digest or "none, this is a dry run",
            "signed by": "nobody, as this is a new bundle: heatline bundle sign",
        }
        title = f"{self.target} {'would be' if self.dry_run else 'is'} written"
        print_report({**done, **report, "warnings": warnings}, as_json, title, {**about, **facts})


class _Calibrate(CommandGroup):
    """A group whose command `thresholds` need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_named = not args or args[0] in (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if is_named else ["thresholds", *args])


@click.group(cls=_Calibrate, commands=[scale], epilog="Example: heatline calibrate boards.bundle good/early good/late")
def calibrate() -> None:
    """Set a bundle's thresholds from good frames, or measure a camera's scale.

    `heatline calibrate BUNDLE` is `heatline calibrate thresholds BUNDLE`.
    """


@calibrate.command(epilog="Example: heatline calibrate boards.bundle good/early good/late --to boards-line1.bundle")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@good_argument
@click.option(
    "--false-reject",
    type=FiniteRange(0, 1, max_open=True),
    default=0.01,
    show_default=True,
    help="Wanted share of good frames that are rejected.",
)
@click.option(
    "--keep-reference",
    is_flag=True,
    help="Compare frames with the bundle's reference. Default: with a new one, made from GOOD_FRAMES.",
)
@new_bundle_options
@engine_option
@precision_option
@json_option
def thresholds(
    bundle_path: Path,
    good: tuple[Path, ...],
    false_reject: float,
    keep_reference: bool,
    target: Path | None,
    dry_run: bool,
    kind: EngineKind,
    precision: Precision,
    as_json: bool,
) -> None:
    """Write a copy of BUNDLE with thresholds set from GOOD_FRAMES, and a reference if it compares frames with one.

    GOOD_FRAMES are pictures of good parts, or folders of them.
    Prints which false-reject rate the frames can show, and which frames to check. BUNDLE does not change. The new
    bundle is not signed.
    """
    pictures = GoodPictures(good)
    warnings = _warn_of_copies(pictures.files)
    parent = open_bundle(bundle_path)
    was, before = parent.manifest, parent.manifest.calibration
    known = was.provenance
    trained = find_known(known.get("data", {}).get("digests"), pictures.files)
    made_of = find_known(known.get(REFERENCE_FRAMES, {}).get(ANY_CAMERA), pictures.files) if keep_reference else []
    warnings += _warn_of_known(
        trained,
        "the model was trained on",
        ", and probably on others of the same parts, of which the bundle knows one picture each: it scores them lower "
        "than new parts, so the thresholds may be too low and the bounds do not hold; calibrate on other frames",
    )
    warnings += _warn_of_known(
        made_of,
        "the reference was made from",
        ": they differ less from it than new parts do, so the thresholds may be too low and the bounds do not hold; "
        "calibrate on other frames, or without --keep-reference",
    )
    new = NewBundle.of(parent, bundle_path, target, dry_run)
    verified = open_verified_engine(parent, kind, precision)
    made, references, kept = None, product_references(parent), before
    if not keep_reference and was.tensors.difference is not None:
        made = NewReference(pictures.files, pictures.names)
        if (count := len(made.files)) < FEWEST_FRAMES:
            raise InputError(
                f"{format_count(count, 'different good frame')} came, and a new reference needs {FEWEST_FRAMES}, "
                "as each is compared with one of the others; name more, or keep the old one with --keep-reference"
            )
        own = was.references.keys() - {ANY_CAMERA}
        warnings += _warn_of_own_references(own)
        references, kept = {ANY_CAMERA: made.reference}, without_poses(before, ANY_CAMERA, own)
    inspector = Inspector(was, verified.engine, references=references)

    frames, plausibility, reference, learned = _learn(pictures, inspector, "good frames", made)
    warnings += learned
    screening, of_screening = was.screening, dict[str, bytes | None]()
    if screening is not None:
        with contextlib.closing(open_screening(parent)) as engine:
            small = Inspector(Settings(was.grid, Map("", screening.map_hw), before), engine, references=references)
            _, seen, _, _ = _learn(pictures, small, "good frames, by the screening stage", made)
        screening = replace(screening, plausible=seen.plausible)
        of_screening[SCREENING_TILES] = seen.tiles.to_bytes() if seen.tiles else None
        if reference is not None and before.reference is not None and "cleared" in before.reference.measures:
            measures = reference.measures | {"cleared": before.reference.measures["cleared"]}
            reference = replace(reference, measures=measures)
    calibration = calibrate_by_share(
        frames,
        false_reject,
        f"good frames of {pictures.names}",
        top_cells=was.map.top_cells,
        lowest_defect=before.coldest_defect,
    )
    if trained or made_of:  # their scores show nothing of new frames
        calibration = replace(calibration, held_out_rejected=None, false_reject_at_most=None)
    calibration = replace(
        calibration,
        plausible=plausibility.plausible,
        plausible_by_camera=kept.plausible_by_camera,
        reference=reference,
    )
    rejected = sum(frame.highest_logit >= before.score_threshold for frame in frames)
    warnings += [few] if (few := describe_support(calibration)) is not None else []
    if screening is not None and calibration.score_threshold < screening.score_threshold:
        warnings.append(describe_unscreened(calibration.score_threshold, screening))
    by_score = sorted(zip(pictures.files, frames, strict=True), key=lambda one: -one[1].highest_logit)[:NAMED]
    hottest = [{"file": str(file), "highest_logit": frame.highest_logit} for file, frame in by_score]
    highest = ", ".join(f"{file} {frame.highest_logit:.2f}" for file, frame in by_score)
    compared_with = {name: each.made_of for name, each in references.items()}
    facts = calibration_facts(calibration)
    facts["score threshold"] += f", was {before.score_threshold:.2f}"
    facts["evidence threshold"] += f", was {before.evidence_threshold:.2f}"
    facts["false rejects"] += f"; by the old threshold {rejected} of {len(frames)}"
    manifest = recalibrated_manifest(
        parent, calibration, new.version, verified.engine, record_of_thresholds(calibration), made
    )
    new.finish(
        replace(manifest, screening=screening),
        {
            **of_screening,
            PRODUCT_TILES: plausibility.tiles.to_bytes() if plausibility.tiles else None,
            **(made.content if made else {}),
        },
        as_json,
        {
            "engine": kind,
            "precision": verified.engine.precision,
            "fell_back": verified.fell_back,
            "calibration": calibration,
            "compared_with": compared_with,
            "good_frames": {"frames": len(frames), "rejected": calibration.held_out_rejected, "hottest": hottest},
            "before": {
                "version": was.version,
                "digest": parent.digest,
                "score_threshold": before.score_threshold,
                "evidence_threshold": before.evidence_threshold,
                "rejected": rejected,
            },
        },
        {
            "compared with": ", ".join(compared_with.values()) or None,
            "computed by": f"{kind} in {verified.engine.precision}",
            **facts,
            "highest scores": f"{highest}; check that they are truly good",
            "fell back": verified.fell_back,
        },
        warnings,
    )


@click.command("calibrate", epilog="Example: heatline cameras calibrate line.toml top good --to boards-line1.bundle")
@click.argument("line", type=click.Path(path_type=Path))
@click.argument("camera")
@good_argument
@click.option("--product", help="Product whose bundle and region of interest to use. Default: the line's first.")
@new_bundle_options
@json_option
def calibrate_camera(
    line: Path,
    camera: str,
    good: tuple[Path, ...],
    product: str | None,
    target: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set what frames of CAMERA must look like from GOOD_FRAMES, pictures or folders of them, and write a new bundle.

    Use this if the cameras of LINE differ in light, distance or view. Only the camera's region of interest counts.
    Thresholds and references do not change. The new bundle is not signed.
    """
    config = load_config(line)
    config = config.of_product(config.product if product is None else product)
    areas = {each.name: each.region_of_interest for each in config.cameras}
    if camera not in areas:
        raise ConfigError(f"{line} has no camera {camera!r}; it has {', '.join(areas)}")
    area = areas[camera]
    pictures = GoodPictures(good)
    bundle = config.require_bundle()
    parent = open_bundle(bundle)
    was = parent.manifest.calibration
    new = NewBundle.of(parent, bundle, target, dry_run)
    settings = config.engine
    verified = open_verified_engine(parent, settings.kind, settings.precision, device=settings.device)
    references = product_references(parent, [camera])
    inspector = Inspector(
        parent.manifest,
        verified.engine,
        overlap_px=config.tiles.overlap_px,
        references={ANY_CAMERA: references.get(camera) or references[ANY_CAMERA]} if references else None,
    )
    frames, known, reference, warnings = _learn(pictures, inspector, f"frames of {camera}", None, area)
    warnings += [] if verified.fell_back is None else [verified.fell_back]
    roi, exclude = ([list(polygon) for polygon in polygons] for polygons in (area.roi, area.exclude))
    plausible = CameraPlausible(known.plausible, roi, exclude, reference)
    frames_are = f"good frames of {pictures.names}"
    calibration = replace(was, plausible_by_camera={**was.plausible_by_camera, camera: plausible})
    record = {"camera": camera, **msgspec.to_builtins(plausible), "frames_are": frames_are}
    new.finish(
        recalibrated_manifest(parent, calibration, new.version, verified.engine, record),
        {product_tiles_of(camera): known.tiles.to_bytes() if known.tiles else None},
        as_json,
        {"camera": camera, "plausible": plausible, "frames_are": frames_are},
        {
            f"a frame of camera {camera} must be": describe_plausible(known.plausible),
            "drift is watched by": describe_reference(reference),
            "set by": f"{count_frames(len(frames), frames_are)}, in {verified.engine.precision}",
        },
        warnings,
    )


@click.command(
    "set-reference", epilog="Example: heatline bundle set-reference boards.bundle good/ --to boards-4711.bundle"
)
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@good_argument
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
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a copy of BUNDLE that compares frames with a reference made from GOOD_FRAMES, without training.

    Use this for another line, another design, or a changed product. GOOD_FRAMES are pictures of different good parts,
    or folders of them; at most 12 are used. None may be one that the model rejects when it is compared with the others.
    BUNDLE does not change. The new bundle is not signed.
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
    new = NewBundle.of(parent, bundle_path, target, dry_run, "ref")
    pictures = GoodPictures(good)
    made = NewReference(pictures.files, pictures.names, camera)
    engine = open_verified_engine(parent, "openvino", "f32").engine
    area, _ = parent.plausibility_by_camera().get(camera) or (WHOLE_FRAME, None)
    judged = made.judged(Inspector(was, engine), area, progress("good frames"))
    rejected = {file: found for file, found in judged.items() if found.misaligned or found.verdict == "DEFECT"}
    if rejected and len(judged) >= FEWEST_FRAMES:
        file, worst = next(iter(rejected.items()))
        why = worst.misaligned or f"score {worst.score:.2f}, threshold {was.calibration.score_threshold:.2f}"
        raise InputError(
            f"{len(rejected)} of {len(judged)} frames {is_are(len(rejected))} rejected when compared with the others, "
            f"first {file} ({why}): leave them out; or if all are good, set thresholds and reference together with "
            "heatline calibrate"
        )
    own = was.references.keys() - {ANY_CAMERA}
    warnings = [] if len(judged) >= FEWEST_FRAMES else [FEW]
    warnings += [THRESHOLDS_STAY, *([] if camera else _warn_of_own_references(own))]
    calibration = without_poses(was.calibration, camera, own)
    of = f"camera {camera}" if camera else "cameras without a reference of their own"
    new.finish(
        recalibrated_manifest(
            parent, calibration, new.version, engine, {"camera": camera or None}, made, records="references"
        ),
        made.content,
        as_json,
        {"camera": camera or None, "reference": made.stated},
        {f"frames of {of}": f"are compared with {describe_product_reference(made.stated)}"},
        warnings,
    )


def progress(title: str) -> Callable[[Sequence[Path]], Iterable[Path]]:
    console = progress_console()
    return lambda files: track(files, title, console=console, disable=not (console.is_terminal and files))


def _learn(
    pictures: GoodPictures,
    inspector: Inspector,
    title: str,
    made: NewReference | None,
    area: RegionOfInterest | None = None,
) -> tuple[list[GoodFrame], Plausibility, Reference | None, list[str]]:
    """Inspect good frames, and return what scores they have, how they look, and what drift is measured against.

    Args:
        made: what each frame is compared with; None: with the inspector's references.
        area: the region of interest; None: the whole picture.
    Returns: the scores by frame, the looks, the drift's reference (None: too few frames), and warnings.
    """
    frames, appearances, samples = pictures.run(inspector, progress(title), area, None if made is None else made.of)
    copies = {copy for _, copy in find_copies(pictures.files)}
    own = [index for index in range(len(appearances)) if index not in copies]
    warnings = []
    if found := find_outliers([appearances[index] for index in own]):
        place, difference = next(iter(found.items()))
        file = pictures.files[own[place]]
        if len(found) == 1:  # the bounds would depend on it
            raise InputError(
                f"{file} does not look like the other {format_count(len(own) - 1, 'good frame')}: {difference}; "
                "remove it, or if frames like it are good, add another picture like it, no copy"
            )
        warnings.append(
            f"{len(found)} of {format_count(len(own), 'good frame')} look like no other, as {file}: {difference}; "
            "check them, as similar frames get a verdict now"
        )
    reference = fit_reference(
        samples,
        appearances[0].frame_hw,
        [frame.highest_logit for frame in frames],
        [frame.median_evidence for frame in frames],
    )
    if reference is None:
        few = f"{format_count(len(frames), 'frame')} {is_are(len(frames))} too few to warn of drift by"
        warnings.append(f"{few}; name at least {FEWEST_OF_DRIFT}")
    return frames, fit_plausibility(appearances), reference, warnings


def _warn_of_copies(files: Sequence[Path]) -> list[str]:
    copies = find_copies(files)
    if not copies:
        return []
    original, copy = copies[0]
    return [
        f"{len(copies)} of {len(files)} pictures "
        f"{'is a copy of another' if len(copies) == 1 else 'are copies of others'}, as {files[copy]} is of "
        f"{files[original]}; with copies the bounds are not valid, remove them"
    ]


def _warn_of_known(known: Sequence[Path], what: str, so: str) -> list[str]:
    more = f" and {len(known) - 1} more of these frames" if len(known) > 1 else ""
    return [f"{what} {known[0]}{more}{so}"] if known else []


def _warn_of_own_references(cameras: Collection[str]) -> list[str]:
    """Warn of cameras that a new reference of all others does not change."""
    names = ", ".join(sorted(cameras))
    keeps = f"camera {names} keeps a reference of its own; set it with heatline bundle set-reference --camera"
    return [keeps] if cameras else []
