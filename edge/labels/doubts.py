"""What a model says of labelled pictures: the scores of a training's cross-validation, where each picture was judged by
a head that was not trained on its group."""

from pathlib import Path

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.labels.folder import label_of
from heatline.edge.util.text import utf8_safe

RUNS = "runs"


class _Limited(msgspec.Struct):
    score_threshold: float


class _Frame(msgspec.Struct):
    image: str
    score: float
    threshold: float | None = None


class _Evaluation(msgspec.Struct):
    """What is read of a run's `report/evaluation.json`."""

    frames: list[_Frame]
    calibration: _Limited


def newest_run(folder: Path) -> Path | None:
    """Return the newest run that was trained on a folder and has a report, here or beside the folder; None: none."""
    found = [
        (each.stat().st_mtime_ns, run)
        for runs in (Path(), folder.resolve().parent)
        for each in runs.glob(f"{RUNS}/*/report/evaluation.json")
        if (run := each.parents[1]) and _is_of(run / "config.yaml", folder)
    ]
    return max(found)[1] if found else None


def read_scores(run: Path) -> dict[str, float]:
    """Return by how much the score of each picture, by its name in a `LabelFolder`, is above the threshold.

    Raises:
        InputError: the run has no report that can be read.
    """
    file = run / "report" / "evaluation.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file} cannot be read ({error}); name the folder of a finished heatline train") from error
    scores = {}
    for frame in found.frames:
        parts = Path(frame.image).parts
        name = "/".join(parts[1:] if label_of(parts) else parts)
        limit = found.calibration.score_threshold if frame.threshold is None else frame.threshold
        scores[utf8_safe(name)] = frame.score - limit
    return scores


def _is_of(config: Path, folder: Path) -> bool:
    """Return whether a run's settings name a folder of pictures."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.startswith("data:") and line[5:].strip(" '\"") == str(folder.resolve()) for line in lines)
