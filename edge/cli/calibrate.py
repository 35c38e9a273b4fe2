"""`heatline calibrate`."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from heatline.edge.bundle import Calibration, open_bundle, open_verified_engine
from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.plausibility import Plausibility, fit_plausibility
from heatline.edge.calibration import calibrate as calibrate_by_share
from heatline.edge.calibration import count_allowed_rejects, count_rejected, describe_support
from heatline.edge.calibration.recalibration import (
    GoodPictures,
    Shift,
    files_of_frames,
    find_copies,
    find_made_of,
    find_trained,
    recalibrated_manifest,
    record_of_thresholds,
    summarise_shift,
    without_poses,
)
from heatline.edge.calibration.statistics import CONFIDENCE, cdf, frames_to_show, most_that_show
from heatline.edge.cli.bundle_formatting import (
    count_frames,
    describe_bound,
    describe_plausible,
    describe_reference,
    describe_rule,
    describe_strong,
    percent,
)
from heatline.edge.cli.new_bundle import (
    NewBundle,
    cameras_with_own,
    keep_reference_option,
    new_bundle_options,
    new_reference,
    progress,
    warn_of_no_reference,
    warn_of_outliers,
    warn_of_own_references,
    warn_of_wider_bounds,
)
from heatline.edge.cli.options import FiniteRange, engine_option, precision_option
from heatline.edge.cli.output import json_option, print_report, print_warnings
from heatline.edge.drift import fit_reference
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inspection.inspector import ANY_CAMERA, Inspector, product_references
from heatline.edge.util.text import format_count

FALSE_REJECT = 0.01
UNLIKELY = 0.01
SMALLEST = 1e-6
"""The smallest share except 0. To show a smaller one takes more frames than anyone can take."""


class Support(msgspec.Struct, frozen=True):
    """What this number of good frames can show about the requested share of false rejects."""

    confidence: float
    beyond_the_frames: bool
    """Whether there are fewer than 1 / share frames, so that the threshold lies above the highest of them."""
    frames_with_none: int | None
    """Frames needed to show the share if none of them reaches the threshold; None: no number is enough."""
    frames_with_one: int | None
    """Frames needed if one of them reaches the threshold."""
    may_reach: int | None
    """How many of these frames may reach the threshold and still show the share; None: they are too few."""


class Before(msgspec.Struct, frozen=True):
    """The old bundle, and how many of the good frames its thresholds reject."""

    version: str
    digest: str
    score_threshold: float
    evidence_threshold: float
    rejected: int
    farthest_features: float | None
    """Largest plausible distance of features, standard deviations; None: unknown."""


class Report(msgspec.Struct, frozen=True):
    """The command's output."""

    written: str | None
    """The new bundle; None: a dry run."""
    digest: str | None
    version: str
    engine: EngineKind
    precision: Precision
    """The precision that the good frames were computed in."""
    fell_back: str | None
    """Why this is not the requested precision."""
    calibration: Calibration
    compared_with: dict[str, str]
    """The frames of the references, by camera, empty: of all others; none: the bundle compares with none."""
    good_frames: Shift
    support: Support
    before: Before
    warnings: list[str]


@click.command(epilog="Example: heatline calibrate boards.bundle good/early good/late --to boards-line1.bundle")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("good", metavar="GOOD_FRAMES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--false-reject",
    type=FiniteRange(0, 1, max_open=True),
    default=FALSE_REJECT,
    show_default=True,
    help="Wanted share of good frames that are rejected.",
)
@keep_reference_option
@new_bundle_options
@engine_option
@precision_option
@json_option
def calibrate(
    bundle_path: Path,
    good: tuple[Path, ...],
    false_reject: float,
    keep_reference: bool,
    target: Path | None,
    version: str | None,
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
    if 0 < false_reject < SMALLEST:
        raise click.UsageError(
            f"--false-reject {false_reject} is too small; expected 0, or at least {SMALLEST} and below 1"
        )
    pictures = GoodPictures(good)
    copies = find_copies(pictures.files)
    warnings = _warn_of_copies(pictures.files, copies)
    parent = open_bundle(bundle_path)
    was = parent.manifest
    trained = find_trained(was, pictures.files)
    warnings += _warn_of_known(
        trained,
        "the model was trained on",
        ", and probably on others of the same parts, of which the bundle knows one picture each: it scores them lower "
        "than new parts, so the thresholds may be too low and the bounds do not hold; calibrate on other frames",
    )
    made_of = find_made_of(was, pictures.files) if keep_reference else []
    warnings += _warn_of_known(
        made_of,
        "the reference was made from",
        ": they differ less from it than new parts do, so the thresholds may be too low and the bounds do not hold; "
        "calibrate on other frames, or without --keep-reference",
    )
    new = NewBundle.beside(bundle_path, was.version, target, version, dry_run)
    verified = open_verified_engine(parent, kind, precision)
    made = new_reference(pictures, parent, keep=keep_reference)
    own = [] if made is None else cameras_with_own(was)
    warnings += warn_of_own_references(own) + ([] if made is None else made.warnings())
    references = product_references(parent) if made is None else {ANY_CAMERA: made.reference}
    inspector = Inspector(was, verified.engine, references=references)

    reference_of = None if made is None else made.of
    frames, appearances, samples = pictures.run(inspector, progress("good frames"), reference_of=reference_of)
    warnings += warn_of_outliers(pictures, appearances, {copy for _, copy in copies})
    plausibility = fit_plausibility(appearances)
    frames_are = f"good frames of {pictures.names}"
    calibration = calibrate_by_share(
        frames,
        false_reject,
        frames_are,
        top_cells=was.map.top_cells,
        lowest_defect=was.calibration.coldest_defect,
    )
    if not {*trained, *made_of}.isdisjoint(pictures.files):  # their scores show nothing of new frames
        calibration = msgspec.structs.replace(calibration, held_out_rejected=None, false_reject_at_most=None)
    reference, picture = fit_reference(
        samples, [frame.highest_logit for frame in frames], [frame.median_evidence for frame in frames]
    )
    warnings += warn_of_no_reference(reference, len(frames))
    before = was.calibration if made is None else without_poses(was.calibration, ANY_CAMERA, own)
    calibration = msgspec.structs.replace(
        calibration,
        plausible=plausibility.plausible,
        plausible_by_camera=before.plausible_by_camera,
        reference=reference,
    )
    first = summarise_shift(pictures, frames, calibration.held_out_rejected)
    warnings += _warn_of_newly_plausible(pictures, appearances, parent.plausibility(), plausibility)
    if (few := describe_support(calibration)) is not None:
        warnings.append(few)
    warnings += _warn_of_high_frames(
        len(frames), count_rejected(frames, was.calibration.score_threshold), was.calibration
    )
    manifest = recalibrated_manifest(
        parent, calibration, new.version, verified.engine, record_of_thresholds(calibration), made
    )
    replaced = files_of_frames(plausibility.tiles, picture) | ({} if made is None else made.content)
    written = new.write(parent, manifest, replaced)
    report = Report(
        written=None if written is None else str(written.path),
        digest=None if written is None else written.digest,
        version=new.version,
        engine=kind,
        precision=verified.engine.precision,
        fell_back=verified.fell_back,
        calibration=calibration,
        compared_with={name: each.made_of for name, each in references.items()},
        good_frames=first,
        support=_support(len(frames), false_reject),
        before=Before(
            version=was.version,
            digest=parent.digest,
            score_threshold=was.calibration.score_threshold,
            evidence_threshold=was.calibration.evidence_threshold,
            rejected=count_rejected(frames, was.calibration.score_threshold),
            farthest_features=None if was.calibration.plausible is None else was.calibration.plausible.distance,
        ),
        warnings=warnings,
    )
    print_warnings(warnings)
    print_report(report, as_json, new.title, _facts(report))


def _warn_of_known(known: Sequence[Path], what: str, so: str) -> list[str]:
    more = f" and {len(known) - 1} more of these frames" if len(known) > 1 else ""
    return [f"{what} {known[0]}{more}{so}"] if known else []


def _warn_of_high_frames(frames: int, rejected_before: int, before: Calibration) -> list[str]:
    """Warn if the old thresholds reject more of the good frames than chance allows: some may be defective."""
    allowed = before.false_reject_per_frame
    if not rejected_before or 1 - cdf(rejected_before - 1, frames, allowed) >= UNLIKELY:
        return []
    return [
        f"the old thresholds reject {rejected_before} of these {format_count(frames, 'good frame')}, but "
        f"{percent(allowed)} are expected: check these frames before you use the bundle, as a defective frame among "
        "them hides similar defects"
    ]


def _warn_of_newly_plausible(
    pictures: GoodPictures, appearances: Sequence[Appearance], before: Plausibility | None, now: Plausibility
) -> list[str]:
    """Warn of good frames that got no verdict before, and of features whose bounds are much wider or gone."""
    if before is None:
        return []
    warnings = []
    refused = [
        (file, words)
        for file, appearance in zip(pictures.files, appearances, strict=True)
        if (words := before.any_reject_reason(appearance)) is not None
    ]
    if refused:
        file, words = refused[0]
        warnings.append(
            f"{len(refused)} of {format_count(len(appearances), 'frame')} got no verdict before, as {file}: {words}; "
            "check them, as similar frames get a verdict now"
        )
    return warnings + warn_of_wider_bounds(before, now)


def _warn_of_copies(files: Sequence[Path], copies: Sequence[tuple[int, int]]) -> list[str]:
    if not copies:
        return []
    original, copy = copies[0]
    return [
        f"{len(copies)} of {len(files)} pictures "
        f"{'is a copy of another' if len(copies) == 1 else 'are copies of others'}, as {files[copy]} is of "
        f"{files[original]}; with copies the bounds are not valid, remove them"
    ]


def _support(frames: int, share: float) -> Support:
    return Support(
        confidence=CONFIDENCE,
        beyond_the_frames=share > 0 and count_allowed_rejects(frames, share) == 0,
        frames_with_none=frames_to_show(share, 0) if share > 0 else None,
        frames_with_one=frames_to_show(share, 1) if share > 0 else None,
        may_reach=most_that_show(share, frames) if share > 0 else None,
    )


def _facts(report: Report) -> dict[str, object]:
    calibration, before, first = report.calibration, report.before, report.good_frames
    facts: dict[str, object] = {
        "version": f"{report.version}, from {before.version}",
        "digest": report.digest or "none, this is a dry run",
        "signed by": "nobody, as this is a new bundle: heatline bundle sign",
        "calibrated by": f"{describe_rule(calibration)}, on {count_frames(calibration.frames, calibration.frames_are)}",
        **({"compared with": ", ".join(report.compared_with.values())} if report.compared_with else {}),
        "computed by": f"{report.engine} in {report.precision}",
        "score threshold": f"{calibration.score_threshold:.2f} logits, was {before.score_threshold:.2f}",
        "evidence threshold": f"{calibration.evidence_threshold:.2f} logits, was {before.evidence_threshold:.2f}",
        "strong evidence": describe_strong(calibration),
        "a frame must be": describe_plausible(calibration.plausible)
        + ("" if before.farthest_features is None else f" (features: before, at most {before.farthest_features:.3g})"),
        "drift is watched by": describe_reference(calibration.reference),
        "false rejects": f"{describe_bound(calibration)}; by the old threshold {before.rejected} of {first.frames}",
        "what they support": _describe_support(calibration, report.support),
        "highest scores": _describe_highest(first),
    }
    if report.fell_back is not None:
        facts["fell back"] = report.fell_back
    return facts


def _describe_support(calibration: Calibration, support: Support) -> str:
    bound = calibration.false_reject_at_most
    if bound is None:
        return "not known: the model was trained on some of these frames, or the reference was made from some"
    frames = format_count(calibration.frames, "good frame")
    described = f"{frames}: with {percent(CONFIDENCE)} confidence the false-reject rate is at most {percent(bound)}"
    share = calibration.false_reject_per_frame
    if not share:
        return f"{described}; no number of frames shows that none is ever rejected"
    described += (
        f"; to show {percent(share)} takes {format_count(support.frames_with_none or 0, 'frame')} of which none "
        f"reaches the threshold, or {support.frames_with_one} frames of which one reaches it"
    )
    if support.may_reach is not None:
        described += (
            f"; these show it if at most {support.may_reach} of them may reach the threshold, with --false-reject "
            f"{_share_for(support.may_reach, calibration.frames)}"
        )
    if support.beyond_the_frames:
        described += "; these frames are too few for that share, so the threshold is above the highest of them"
    return described


def _share_for(count: int, frames: int) -> str:
    """Return the shortest decimal share with which this many of the frames may reach a threshold."""
    if count == 0:
        return "0"
    candidates = (f"{(count + 0.5) / frames:.{digits}g}" for digits in range(1, 17))
    return next(text for text in candidates if count_allowed_rejects(frames, float(text)) == count)


def _describe_highest(shift: Shift) -> str:
    frames = ", ".join(f"{frame.file} {frame.highest_logit:.2f}" for frame in shift.highest)
    return f"{frames}; check that they are truly good"
