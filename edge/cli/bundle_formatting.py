"""Describes a bundle: what set its thresholds, what frames must look like, and how its precisions agree."""

from collections.abc import Mapping, Sequence
from typing import get_args

from heatline.edge.bundle import Bundle, Calibration, Manifest
from heatline.edge.bundle.manifest import (
    MapChecks,
    MapGate,
    Measure,
    Plausible,
    ProductReference,
    Reference,
    ScoreBy,
    Screening,
    describe_missed,
)
from heatline.edge.bundle.plausibility import ranges
from heatline.edge.bundle.signature import fingerprint
from heatline.edge.calibration.statistics import CONFIDENCE, interval
from heatline.edge.inference.engine import GRAPHS
from heatline.edge.inspection.screening import describe_unscreened
from heatline.edge.util.text import describe_range, format_count


def fingerprint_of(bundle: Bundle) -> str | None:
    """Return the fingerprint of the key that signed a bundle."""
    return None if bundle.signed_by is None else fingerprint(bundle.signed_by)


def bundle_facts(bundle: Bundle) -> dict[str, str]:
    """Describe a bundle for people: what it is, what set its thresholds, and what showed that it computes rightly."""
    manifest, signer = bundle.manifest, fingerprint_of(bundle)
    calibration, gate, cameras = manifest.calibration, manifest.gate, manifest.calibration.plausible_by_camera
    screened = manifest.screening
    return {
        "digest": bundle.digest,
        "signed by": "nobody" if signer is None else f"key {signer}",
        "made": f"{manifest.created_at} by {manifest.made_by}",
        "model": f"{manifest.model.name} ({manifest.model.source}), {manifest.model.parameters:,} parameters",
        "map": f"{manifest.map.method}, {manifest.map.hw[0]}x{manifest.map.hw[1]} cells, {manifest.map.identity}",
        "tiles": f"{manifest.grid.tile_px} px, overlap {manifest.grid.overlap_px} px, heatmap cell "
        f"{manifest.grid.heatmap_cell_px} px, smoothed by {manifest.grid.smoothing_px:g} px, colour {manifest.colour}",
        **reference_facts(manifest),
        **calibration_facts(calibration),
        **{f"a frame of camera {name} must be": describe_plausible(each.plausible) for name, each in cameras.items()},
        **{
            f"drift of camera {name} is watched by": describe_reference(each.reference)
            for name, each in cameras.items()
        },
        **({"a screened frame must be": describe_plausible(screened.plausible)} if screened else {}),
        "missed defects": describe_missed(calibration.missed) or "not known by class and size",
        "export gate": f"largest difference from the trained model on {format_count(gate.tiles, 'golden tile')}, as a "
        f"share of the scale: {describe_differences(gate.largest_difference)}, allowed {gate.tolerance:.0e}",
        "map checks": _describe_map_checks(manifest.map_checks),
        **_precision_facts(manifest.map_gate, manifest.precisions),
        "screening": describe_screening(screened, calibration.score_threshold),
        "files": ", ".join(sorted(manifest.files)),
    }


def describe_screening(screening: Screening | None, score: float) -> str:
    """Describe what the screening stage clears with a score threshold, logits, and its bounds."""
    if screening is None:
        return "none: every tile runs in full"
    if score < screening.score_threshold:
        return describe_unscreened(score, screening)
    return (
        f"sees tiles at {screening.seen_px} px; clears {percent(screening.cleared)} of good frames' tiles; changes "
        f"none of {format_count(screening.frames, 'held-out DEFECT frame')}, of new ones at most "
        f"{percent(screening.frames_lost_at_most)}; misses none of "
        f"{format_count(screening.detected, 'held-out defect')} that the whole graph finds, of new ones at most "
        f"{percent(screening.lost_at_most)} (95 % confidence)"
    )


def calibration_facts(calibration: Calibration) -> dict[str, str]:
    """Describe thresholds, what set them, what frames must look like, and which good frames will be rejected."""
    strong, quantile = calibration.strong_evidence, calibration.evidence_quantile
    rule = (
        f"false-reject: {percent(calibration.false_reject_per_frame)} of good frames{_SCORE_BY[calibration.score_by]}"
    )
    if quantile is not None:
        rule += f", evidence by the {percent(quantile)} quantile of their heatmap cells"
    return {
        "score threshold": f"{calibration.score_threshold:.2f} logits",
        "evidence threshold": f"{calibration.evidence_threshold:.2f} logits",
        "strong evidence": "not used: regions lie in tiles that reach the score threshold"
        if strong is None
        else f"{strong:.2f} logits",
        "calibrated by": f"{rule}, on {count_frames(calibration.frames, calibration.frames_are)}",
        "a frame must be": describe_plausible(calibration.plausible),
        "drift is watched by": describe_reference(calibration.reference),
        "false rejects": describe_bound(calibration),
    }


def describe_plausible(plausible: Plausible | None) -> str:
    """Describe what frames must look like to get a verdict."""
    if plausible is None:
        return "not known: every frame gets a verdict"
    size = " x ".join(describe_range(*px) for px in (plausible.width_px, plausible.height_px))
    statistics = "; ".join(f"{name} {describe_range(*found)}" for name, found in ranges(plausible).items())
    statistics += "; detail is not known" if plausible.detail is None else ""
    features = (
        "features of tiles are not known"
        if plausible.distance is None
        else f"features at most {plausible.distance:.3g} standard deviations from those of the product"
    )
    areas, stated = plausible.areas, "areas are not known"
    if areas is not None and areas.share is None:
        stated = "lost or torn lines, but no other areas, are found"
    elif areas is not None and areas.share is not None:
        groups = areas.groups or areas.frames
        low, high = interval(areas.refused, groups)
        stated = (
            f"areas unlike the product at most {percent(areas.share)} of what is inspected ({areas.refused} of "
            f"{groups} held-out parts had a larger one: {percent(low)} to {percent(high)} of new parts, with 95 % "
            "confidence)"
        )
    return f"{size} px; {statistics}; {features}; {stated}; by {format_count(plausible.frames, 'frame')}"


def describe_reference(reference: Reference | None) -> str:
    """Describe what drift is watched by, and what not and why."""
    if reference is None:
        return "nothing: the bundle has no frames to compare with"
    parts = [", ".join(each for each in get_args(Measure) if each in reference.measures)]
    reasons: dict[str, list[str]] = {}
    for measure, reason in reference.unwatched.items():
        reasons.setdefault(reason, []).append(measure)
    parts += [f"not by {' and '.join(measures)} ({reason})" for reason, measures in reasons.items()]
    return f"{'; '.join(parts)}; compared with {format_count(reference.frames, 'frame')}"


def reference_facts(manifest: Manifest) -> dict[str, str]:
    """Return what frames are compared with, one fact per reference; nothing if the graph compares with none."""
    if manifest.tensors.difference is None:
        return {}
    references = manifest.references
    if not references:
        return {"compared with": "a reference that is not in the bundle yet: heatline bundle set-reference makes it"}
    return {
        f"frames of camera {camera} are compared with" if camera else "compared with": describe_product_reference(each)
        for camera, each in references.items()
    }


def describe_product_reference(reference: ProductReference) -> str:
    return f"{reference.frames_are}, {reference.frame_hw[1]} x {reference.frame_hw[0]} px, {reference.file}"


_SCORE_BY: Mapping[ScoreBy | None, str] = {
    None: "",
    "quantile": "",
    "tail": ", by a normal distribution of their highest logits",
    "margin": ", with a margin to the defective frames",
}


def count_frames(count: int, frames_are: str) -> str:
    """Return a count of frames with their description, such as `1 good frame of early`; stored in the plural."""
    return f"{count} {frames_are.replace('frames', 'frame', 1) if count == 1 else frames_are}"


def describe_bound(calibration: Calibration) -> str:
    """Describe the share of good frames that will be rejected, as far as the calibration's frames show it."""
    if calibration.false_reject_at_most is None:
        return "not known: the bundle stores no bound for new good frames"
    most = percent(calibration.false_reject_at_most)
    if calibration.held_out_rejected is None:
        return f"with {percent(CONFIDENCE)} confidence at most {most} of new good frames"
    counted = f"{calibration.held_out_rejected} of {calibration.frames}, each judged by a threshold from other frames"
    if calibration.held_out_rejected > calibration.false_reject_at_most * calibration.frames:
        return f"{counted}; more than {most}, their bound if they were alike: calibrate with good frames of the line"
    return f"{counted}; with {percent(CONFIDENCE)} confidence at most {most} of new good frames"


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def describe_differences(off_by: Mapping[str, float]) -> str:
    """Describe by how much golden tiles differed, per output, as shares of its scale.

    >>> describe_differences({"logit": 2.06e-06, "map": 4e-06})
    'logit 2.1e-06, map 4.0e-06'
    """
    return ", ".join(f"{name} {share:.1e}" for name, share in off_by.items())


def _describe_map_checks(checks: MapChecks | None) -> str:
    """Describe how much of good tiles' maps lies in one place, with the warnings of these checks."""
    if checks is None:
        return "not checked"
    places = {"peaks in the same 3x3 cells": checks.stuck, "evidence in the outermost cells": checks.border}
    figures = [
        f"{100 * check.share:.0f} % of the {place}, {100 * check.chance:.0f} % by chance"
        for place, check in places.items()
        if check is not None
    ]
    return "; ".join([*figures, f"on {format_count(checks.tiles, 'good tile')}", *checks.warnings])


def _precision_facts(gate: MapGate | None, precisions: Sequence[str]) -> dict[str, str]:
    """Return one fact per precision, after a fact on the tiles that they were compared on."""
    if gate is None:
        return {"precisions": "only f32"}
    facts = {
        "precisions": ", ".join(precisions),
        "compared with the model": f"on {gate.tiles} {gate.tiles_are}, {gate.tiles_with_region} with a region; flips "
        f"by the score threshold {gate.score_threshold:.2f}, regions by the evidence threshold "
        f"{gate.evidence_threshold:.2f}",
    }
    for precision, found in sorted(gate.precisions.items(), key=lambda each: [*GRAPHS].index(each[0])):
        although = "" if found.reason is None else f", although {found.reason}"
        facts[precision] = f"shipped as {found.graph}{although}" if found.graph else f"left out: {found.reason}"
    return facts
