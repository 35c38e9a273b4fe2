"""The differences between two bundles: their manifests, and their answers to the same tiles."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Manifest

SECTIONS = {
    "bundle": ("schema", "name", "version", "created_at", "made_by"),
    "model": ("model", "tensors", "grid", "map", "colour", "files", "references"),
    "calibration": ("calibration",),
    "gate": ("gate", "map_gate", "map_checks", "tolerances"),
    "provenance": ("provenance",),
}
"""The manifest's keys by section. A key that is not listed counts to the first section."""

DEEPEST = 32
"""The number of levels of a manifest that have dotted keys; what lies deeper counts as one value."""

TileVerdict = Literal["GOOD", "DEFECT", "NO_VERDICT"]


class Change(msgspec.Struct, frozen=True):
    """One key of the manifest and its value in each bundle; a bundle without the key has no value."""

    key: str
    """Dotted."""
    a: Any | UnsetType = UNSET
    b: Any | UnsetType = UNSET


class TileAnswers(msgspec.Struct, frozen=True):
    """The verdicts of both bundles on one tile, each by its own score threshold."""

    tile: int
    a: TileVerdict
    b: TileVerdict
    a_logit: float
    b_logit: float
    map_correlation: float | None
    """Pearson's, over the map's cells; none if a map is constant or the maps differ in size."""


class AnswersDifference(msgspec.Struct, frozen=True):
    """The differences between two bundles' answers to the same tiles."""

    tiles: int
    flipped: list[int]
    """Indices of the tiles whose verdicts differ."""
    largest_logit_difference: float
    map_correlation: float | None
    """Pearson's, over all tiles' cells together; none as above."""
    answers: list[TileAnswers]


@dataclass(frozen=True)
class Answers:
    """One bundle's answers to tiles."""

    logit: NDArray[np.float32]
    """[N]"""
    map: NDArray[np.float32]
    """[N, h, w]"""
    score_threshold: float

    def verdicts(self) -> list[TileVerdict]:
        return [
            "NO_VERDICT" if not np.isfinite(logit) else "DEFECT" if logit >= self.score_threshold else "GOOD"
            for logit in self.logit
        ]


def manifest_changes(a: Manifest, b: Manifest) -> dict[str, list[Change]]:
    """Return all keys whose values differ, by section; sections without differences are left out."""
    of_a, of_b = (dict(_flat(msgspec.to_builtins(manifest))) for manifest in (a, b))
    by_section: dict[str, list[Change]] = {section: [] for section in SECTIONS}
    for key in dict.fromkeys([*of_a, *of_b]):
        change = Change(key, of_a.get(key, UNSET), of_b.get(key, UNSET))
        if change.a != change.b:
            by_section[_section(key)].append(change)
    return {section: changes for section, changes in by_section.items() if changes}


def answers_difference(a: Answers, b: Answers) -> AnswersDifference:
    """Compare the answers to the same tiles, tile by tile and over all tiles."""
    answers = [
        TileAnswers(tile, *verdicts, float(a.logit[tile]), float(b.logit[tile]), correlation(a.map[tile], b.map[tile]))
        for tile, verdicts in enumerate(zip(a.verdicts(), b.verdicts(), strict=True))
    ]
    return AnswersDifference(
        tiles=len(answers),
        flipped=[each.tile for each in answers if each.a != each.b],
        largest_logit_difference=float(np.abs(a.logit.astype(np.float64) - b.logit).max()),
        map_correlation=correlation(a.map, b.map),
        answers=answers,
    )


def _section(key: str) -> str:
    top = key.partition(".")[0]
    return next((section for section, tops in SECTIONS.items() if top in tops), next(iter(SECTIONS)))


def _flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield values with their dotted keys; a list counts as one value, except a list of tables."""
    if isinstance(value, dict) and depth < DEEPEST:
        for key, inside in value.items():
            yield from _flat(inside, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value) and depth < DEEPEST:
        for place, inside in enumerate(value):
            yield from _flat(inside, f"{prefix}.{place}", depth + 1)
    else:
        yield prefix, value


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Return Pearson's correlation over all cells together; None if the sizes differ or one side is constant."""
    if a.shape != b.shape:
        return None
    x, y = (values.astype(np.float64).ravel() - values.mean(dtype=np.float64) for values in (a, b))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if not scale > 0:  # a NaN has no correlation either
        return None
    return float(np.clip((x @ y) / scale, -1, 1))
