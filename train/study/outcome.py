"""What a study makes of trained runs: evaluations, a report, and figures to keep."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from edge.errors import TrainingError
from edge.util.text import encode_json
from train.evaluation.result import read_evaluation
from train.files import write_atomically
from train.progress import tracked

Evaluate = Callable[[Path, Path, Path], object]
"""Takes a run's folder, its folder of pictures, and where `evaluation.json` shall lie."""
WriteReport = Callable[[Sequence[Path], Path, str], object]
"""Takes the folders of evaluations, the report's, and its title."""
TABLES = "tables.md"


def evaluate_test_part(run: Path, data: Path, folder: Path) -> None:
    """Hold a run to all truths of the pictures that it never saw; errors as `evaluate_model`."""
    from train.evaluation.evaluate import Asked, evaluate_model

    evaluate_model(run, Asked(data=data, part="test"), folder, tracked("evaluating"))


def write_study_report(folders: Sequence[Path], out: Path, title: str) -> None:
    """Errors as `write_report`."""
    from train.evaluation.report.write import write_report

    write_report(folders, out, title, study=True)


def keep_figures(evaluations: dict[str, Path], report: Path, results: Path) -> list[Path]:
    """Copy figures, and neither pictures nor places on this machine, into a folder that can be published.

    Args:
        evaluations: folder of each, by the run's name.
        report: the report's folder.
        results: gets a file per run, `<name>.json`, and the report's tables.
    Returns:
        The files.
    Raises:
        InputError: an evaluation cannot be read.
        TrainingError: the folder cannot be written.
    """
    kept = {}
    for name, folder in evaluations.items():
        read = read_evaluation(folder)
        plain = msgspec.structs.replace(
            read,
            told=msgspec.structs.replace(read.told, path=name),
            truths=[msgspec.structs.replace(truth, gallery=[]) for truth in read.truths],
            gallery=[],
        )
        kept[results / f"{name}.json"] = msgspec.json.format(encode_json(plain)) + b"\n"
    if (report / TABLES).exists():
        kept[results / TABLES] = (report / TABLES).read_bytes()
    for file, content in kept.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{file.parent} cannot be made ({error.strerror}); choose another place with --results"
            ) from error
        write_atomically(file, partial(Path.write_bytes, data=content))
    return list(kept)
