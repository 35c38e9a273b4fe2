"""Made-up evaluations for tests of the report; the caller or a seed sets every figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from heatline.edge.bundle import Calibration
from heatline.train.evaluation.figures import Figures
from heatline.train.evaluation.result import Evaluation, EvaluationSubject, FrameAnswer, write_evaluation
from heatline.train.models.vit import FUSIONS


def rule_figures(name: str, precision: float = 0.5, recall: float = 0.5) -> Figures:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    values = {"precision": precision, "recall": recall, "f1": f1, "jaccard": f1 / (2 - f1), "accuracy": 0.99}
    return {f"{name}.{field}": value for field, value in values.items()}


def made_figures(family: str = "cnn", seed: int = 0, **known: float | None) -> Figures:
    """Return figures by dotted name; of `known`, the first `__` is the dot."""
    figures: Figures = {
        "tile.tiles": 1200, "tile.defective": 90, "tile.average_precision": 0.8, "tile.auroc": 0.95,
        "tile.accuracy": 0.95, "study.pointing": 0.7, "study.pointing_gated": 0.6,
        "frame.frames": 30, "frame.unplaced": 0, "frame.defects": 60, "frame.defects_hit": 50,
        "frame.hit_rate": 50 / 60, "frame.false_regions": 6, "frame.false_regions_per_frame": 0.2,
        "frame.defective_frames": 20, "frame.escaped_frames": 2, "frame.escape_rate": 0.1, "frame.good_frames": 10,
        "frame.rejected_frames": 1, "frame.false_reject_rate": 0.1, "frame.average_precision": 0.97,
        "frame.auroc": 0.96, **rule_figures("study"), **rule_figures("line", 0.7, 0.6),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    for fusion in FUSIONS if family == "vit" else ():
        names = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated")
        figures |= {f"{fusion}.{name}": float(rng.random()) for name in names}
    return figures | {name.replace("__", "."): value for name, value in known.items()}


def subject(name: str = "run", model: str = "efficientnetv2_s_d", **known: Any) -> EvaluationSubject:
    is_vit = "vit" in model or "deit" in model
    values: dict[str, Any] = {
        "name": name, "path": f"runs/{name}", "kind": "run", "model": model, "family": "vit" if is_vit else "cnn",
        "method": "rollout-max-discard-0.9" if is_vit else "cam", "map_hw": (7, 7) if model.endswith("s") else (14, 14),
        "engine": "torch f32", "recipe": "finetune, 600 steps of 32", "data": "hripcb", "part": "test",
        "groups": ["10", "12"], "pictures": 30, "lr": 0.001, "val_loss": 0.1, "val_accuracy": 0.96,
    }  # fmt: skip
    return EvaluationSubject(**(values | known))


def evaluation(
    about: EvaluationSubject,
    figures: Figures | None = None,
    intervals: dict[str, tuple[float, float]] | None = None,
    frames: list[FrameAnswer] | None = None,
    seed: int = 0,
    **known: Any,
) -> Evaluation:
    values: dict[str, Any] = {
        "truth": "masks",
        "calibration": Calibration(0.7, 5.5, -6.0, 0.05, 36, "good frames of the validation groups"),
        "figures": made_figures(about.family, seed) if figures is None else figures,
        "intervals": intervals or {},
        "intervals_are": "no intervals: a bootstrap needs at least 10 groups, and there are 2",
        "frames": answers(seed, groups=about.groups) if frames is None else frames,
        "rests_on": "the test groups (2 groups, 60 frames)",
    }
    return Evaluation(about, **(values | known))


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


def pictured(frames: int = 3) -> list[FrameAnswer]:
    """Return frames of each label with a picture; their files are not written."""
    return [
        FrameAnswer(f"board-{at:02}.jpg", None, is_bad, 3.5 - 2 * at, picture=f"{is_bad}-{at}.png")
        for is_bad in (True, False)
        for at in range(frames)
    ]


def write(made: Evaluation, folder: Path, with_pictures: bool = True) -> Path:
    """Write an evaluation with its gallery into a folder."""
    folder.mkdir(parents=True)
    write_evaluation(made, folder)
    if with_pictures:
        for frame in made.frames:
            if frame.picture is not None:
                cv2.imwrite(str(folder / frame.picture), np.full((8, 24, 3), 90, np.uint8))
    return folder
