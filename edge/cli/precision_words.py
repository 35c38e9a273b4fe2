"""What a bundle tells of its precisions, for people."""

from collections.abc import Iterable, Sequence

from edge.bundle import Calibration, Manifest
from edge.bundle.manifest import Agreement, Attempt, Gate, MapChecks, MapGate, PrecisionGate
from edge.inference.engine import GRAPHS
from edge.util.text import format_count


def gate_in_words(gate: Gate) -> str:
    """How far f32 was from the model at the export."""
    figures = ", ".join(f"{what} {value:.1e}" for what, value in gate.largest_difference.items())
    words = f"{figures} of the scale at most on {format_count(gate.tiles, 'golden tile')}, allowed {gate.tolerance:.0e}"
    if not gate.map_rounding:
        return words
    return (
        f"{words}; what rounding decides is counted apart, it moved {gate.maps_moved} of the maps by more, by "
        f"{gate.largest_move:.1e} at most, and could by {gate.map_rounding:.1e}"
    )


def map_checks_in_words(checks: MapChecks | None) -> str:
    """How much of good tiles' maps lies in one place, and what is wrong with it."""
    if checks is None:
        return "not checked"
    places = {"peaks in the same 3x3 cells": checks.stuck, "evidence in the outermost cells": checks.border}
    figures = [
        f"{check.share:.0%} of the {what}, {check.chance:.0%} by chance"
        for what, check in places.items()
        if check is not None
    ]
    return "; ".join([*figures, f"on {format_count(checks.tiles, 'good tile')}", *checks.warnings])


def precision_facts(manifest: Manifest) -> dict[str, str]:
    """One fact on each precision, and before them on what they were held against."""
    gate = manifest.map_gate
    if gate is None:
        return {"precisions": "f32 alone"}
    return {
        "precisions": ", ".join(manifest.precisions),
        "held to the model": _held_in_words(gate, manifest.calibration),
        **{each: _in_words(gate.precisions[each], gate.tiles) for each in GRAPHS if each in gate.precisions},
    }


def attempts_in_words(attempts: Sequence[Attempt], tiles: int) -> str:
    """The last of the attempts to make a precision, and how it agrees with the model."""
    if not attempts:
        return "not held to the model"
    number = f"{len(attempts)} attempts, the last " if len(attempts) > 1 else ""
    return f"{number}{attempts[-1].how}: {_agreement_in_words(attempts[-1].agreement, tiles)}"


def _held_in_words(gate: MapGate, calibration: Calibration) -> str:
    words = (
        f"on {gate.tiles} {gate.tiles_are}, {gate.tiles_with_region} with a region"
        f"{'' if gate.tiles_with_region else ', so that no map is judged'}, "
        f"{gate.tiles_on_threshold} on the score threshold; flips by the score threshold "
        f"{gate.score_threshold:.3f}, regions by the evidence threshold {gate.evidence_threshold:.3f}"
    )
    thresholds = calibration.score_threshold, calibration.evidence_threshold
    if thresholds == (gate.score_threshold, gate.evidence_threshold):
        return words
    return f"{words}, which were those of the export and are others now"


def _in_words(gate: PrecisionGate, tiles: int) -> str:
    if gate.graph is None:
        words = f"left out: {gate.reason}"
    else:
        words = f"shipped as {gate.graph}" + ("" if gate.reason is None else f", though {gate.reason}")
    return f"{words}; {attempts_in_words(gate.attempts, tiles)}"


def _agreement_in_words(agreement: Sequence[Agreement], tiles: int) -> str:
    """Each figure at its worst batch size."""
    if not agreement:
        return "not held to the model"
    return (
        f"at worst {max(one.flips for one in agreement)} of {format_count(tiles, 'tile')} flip, map correlation "
        f"{_least(one.map_correlation for one in agreement)}, region IoU {_least(one.iou_median for one in agreement)} "
        f"(5th percentile {_least(one.iou_p5 for one in agreement)}, within a cell "
        f"{_least(one.near_p5 for one in agreement)})"
    )


def _least(figures: Iterable[float | None]) -> str:
    known = list(figures)
    return "none" if None in known else f"{min(one for one in known if one is not None):.4f}"
