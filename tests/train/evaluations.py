"""Made-up evaluations for tests of the report; the caller or a seed sets every figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from heatline.edge.bundle import Calibration
from heatline.train.evaluation.figures import Columns, Figures, FrameFigures, RuleFigures, TileFigures
from heatline.train.evaluation.result import (
    Evaluation,
    EvaluationSubject,
    FrameAnswer,
    GalleryItem,
    TruthEvaluation,
    write_evaluation,
)
from heatline.train.evaluation.sweep import SweepFigures

FUSIONS, RATIOS = ["min", "mean", "max"], [0.0, 0.2, 0.6, 0.8, 0.9]


def columns(of: np.dtype[np.void], group: Sequence[int] | np.ndarray, **values: ArrayLike) -> Columns:
    """Return rows of type `TILE` or `FRAME`, by field; fields that are not named are 0."""
    rows = np.zeros(len(group), of)
    for name, column in {"group": group, **values}.items():
        rows[name] = column
    return rows


def rule_figures(precision: float = 0.5, recall: float = 0.5, **known: Any) -> RuleFigures:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    values: dict[str, Any] = {
        "true_positive_px": 100, "false_positive_px": 50, "false_negative_px": 50, "true_negative_px": 9800,
        "precision": precision, "recall": recall, "f1": f1, "jaccard": f1 / (2 - f1), "accuracy": 0.99,
        "pointing_gated": 0.6, "classification_accuracy": 0.95,
    }  # fmt: skip
    return RuleFigures(**(values | known))


def tile_figures(**known: Any) -> TileFigures:
    values: dict[str, Any] = {
        "tiles": 1200, "defective": 90, "majority_share": 0.925, "average_precision": 0.8, "auroc": 0.95,
        "pointing": 0.7, "pointing_within_cell": 0.9, "weighting": 0.4,
    }  # fmt: skip
    return TileFigures(**(values | known))


def frame_figures(**known: Any) -> FrameFigures:
    values: dict[str, Any] = {
        "frames": 30, "unplaced": 0, "defects": 60, "defects_hit": 50, "defects_missed": 10, "hit_rate": 50 / 60,
        "false_regions": 6,
        "false_regions_per_frame": 0.2, "defective_frames": 20, "escaped_frames": 2, "escape_rate": 0.1,
        "good_frames": 10, "rejected_frames": 1, "false_reject_rate": 0.1, "average_precision": 0.97, "auroc": 0.96,
    }  # fmt: skip
    return FrameFigures(**(values | known))


def subject(name: str = "run", model: str = "efficientnetv2_s_d", **known: Any) -> EvaluationSubject:
    is_vit = "vit" in model or "deit" in model
    values: dict[str, Any] = {
        "name": name, "path": f"runs/{name}", "kind": "run", "model": model, "family": "vit" if is_vit else "cnn",
        "method": "rollout-max-discard-0.9" if is_vit else "cam", "map_hw": (7, 7) if model.endswith("s") else (14, 14),
        "engine": "torch f32", "recipe": "finetune, 600 steps of 32", "data": "hripcb", "part": "test",
        "groups": ["10", "12"], "pictures": 30, "lr": 0.001, "val_loss": 0.1, "val_accuracy": 0.96,
    }  # fmt: skip
    return EvaluationSubject(**(values | known))


def sweep_figures(seed: int = 0) -> SweepFigures:
    rng = np.random.default_rng(seed)
    names = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated", "weighting")
    return SweepFigures(FUSIONS, RATIOS, **{name: rng.random((3, len(RATIOS))).round(4).tolist() for name in names})


def evaluation(
    about: EvaluationSubject,
    tile: TileFigures | None = None,
    study: RuleFigures | None = None,
    line: RuleFigures | None = None,
    frame: FrameFigures | None = None,
    truths: tuple[str, ...] = ("masks",),
    intervals: dict[str, tuple[float, float]] | None = None,
    gallery: list[GalleryItem] | None = None,
    frames: list[FrameAnswer] | None = None,
    seed: int = 0,
    **known: Any,
) -> Evaluation:
    figures = Figures(
        tile or tile_figures(), study or rule_figures(), line or rule_figures(0.7, 0.6), frame or frame_figures()
    )
    results = [
        TruthEvaluation(
            truth=truth,
            figures=figures,
            intervals=intervals or {},
            intervals_are="no intervals: a bootstrap needs at least 10 groups, and there are 2",
            sweep=sweep_figures(seed) if about.family == "vit" else None,
        )
        for truth in truths
    ]
    calibration = Calibration(0.7, 5.5, -6.0, 0.05, 36, "good frames of the validation groups")
    values: dict[str, Any] = {
        "frames": answers(seed, groups=about.groups) if frames is None else frames,
        "gallery": gallery or [],
        "rests_on": "the test groups (2 groups, 60 frames)",
    }
    return Evaluation(about, calibration, results, **(values | known))


def answers(seed: int = 0, defective: int = 20, good: int = 40, groups: Sequence[str] = ()) -> list[FrameAnswer]:
    """Return frames with random scores, alternating between the groups; two of three defects of each are hit."""
    rng = np.random.default_rng(seed)
    scores = [*rng.normal(4, 3, defective), *rng.normal(-2, 2, good)]
    return [
        FrameAnswer(
            image=f"{'bad' if at < defective else 'good'}/{at:03}.png",
            group=groups[at % len(groups)] if groups else None,
            defective=at < defective,
            score=float(score),
            defects=3 if at < defective else 0,
            hit=2 if at < defective else 0,
            false_regions=0,
        )
        for at, score in enumerate(scores)
    ]


def gallery(frames: int = 3) -> list[GalleryItem]:
    """Return frames of each kind; their files are not written."""
    return [
        GalleryItem(kind, f"{kind}-{at}.png", f"board-{at:02}.jpg", 3.5 - 2 * at, "frame; heatmap")  # type: ignore[arg-type]
        for kind in ("escaped", "rejected")
        for at in range(frames)
    ]


def write(made: Evaluation, folder: Path, with_pictures: bool = True) -> Path:
    """Write an evaluation with its gallery into a folder."""
    folder.mkdir(parents=True)
    write_evaluation(made, folder)
    if with_pictures:
        for item in made.gallery:
            cv2.imwrite(str(folder / item.file), np.full((8, 24, 3), 90, np.uint8))
    return folder
