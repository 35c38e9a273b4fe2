"""Results of a study: evaluations of its runs, a report, and copies of the figures."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from heatline.edge.errors import TrainingError
from heatline.edge.util.text import encode_json
from heatline.train.evaluation.result import read_evaluation
from heatline.train.files import write_atomically
from heatline.train.progress import tracked

Evaluate = Callable[[Path, Path, Path], object]
"""Takes a run's folder, its folder of pictures, and the folder for `evaluation.json`."""
WriteReport = Callable[[Sequence[Path], Path, str], object]
"""Takes the folders of evaluations, the folder of the report, and its title."""
TABLES = "tables.md"


def evaluate_test_part(run: Path, data: Path, folder: Path) -> None:
    """Evaluate a run on its test groups by all truths; errors as for `evaluate_model`."""
    from heatline.train.evaluation.evaluate import EvaluationOptions, evaluate_model

    evaluate_model(run, EvaluationOptions(data=data, part="test"), folder, tracked("evaluating"))


def write_study_report(folders: Sequence[Path], out: Path, title: str) -> None:
    """Write the report of a study; errors as for `write_report`."""
    from heatline.train.evaluation.report import write_report

    write_report(folders, out, title, study=True)


def copy_figures(evaluations: dict[str, Path], report: Path, results: Path) -> list[Path]:
    """Copy figures, without pictures and without paths of this machine, into a folder that can be published.

    Args:
        evaluations: folder of each evaluation, by the run's name.
        report: folder of the report.
        results: gets a file `<name>.json` per run, and the report's tables.
    Returns:
        The files.
    Raises:
        InputError: an evaluation cannot be read.
        TrainingError: the folder cannot be written.
    """
    contents = {}
    for name, folder in evaluations.items():
        evaluation = read_evaluation(folder)
        plain = msgspec.structs.replace(
            evaluation,
            subject=msgspec.structs.replace(evaluation.subject, path=name),
            truths=[msgspec.structs.replace(truth, gallery=[]) for truth in evaluation.truths],
            gallery=[],
        )
        contents[results / f"{name}.json"] = msgspec.json.format(encode_json(plain)) + b"\n"
    if (report / TABLES).exists():
        contents[results / TABLES] = (report / TABLES).read_bytes()
    for file, content in contents.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{file.parent} cannot be made ({error.strerror}); choose another place with --results"
            ) from error
        write_atomically(file, partial(Path.write_bytes, data=content))
    return list(contents)
