"""Trains a model: from a configuration to a run's folder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heatline.edge.errors import ConfigError, Interrupted
from heatline.edge.util.text import utf8_safe
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.train import train_dense
from heatline.train.evaluation.result import lacks_report
from heatline.train.evaluation.run_report import write_run_report
from heatline.train.readers import LabelledFolder
from heatline.train.run import RunFolder, load_run

if TYPE_CHECKING:
    from lightning.pytorch import Callback

logger = logging.getLogger(__name__)


def fit(
    config: TrainConfig,
    report_line: Callable[[str], None] = logger.info,
    callbacks: "Sequence[Callback]" = (),
    cache: Path | None = None,
) -> RunFolder:
    """Train a model, or resume its training; write the run's folder at `config.out`.

    Args:
        report_line: gets lines about the training, for people.
        callbacks: Lightning callbacks for the training of a whole network.
        cache: folder for decoded frames, which stay there; default: the run's folder, until the training is finished.
    Raises:
        ConfigError: the folder already holds a run and `resume` is not set, `config.out` is a file, the data
            or a folder with other files, or Lightning does not accept the flags of `config.trainer`.
        InputError, WeightsError, TrainingError: data or weights cannot be used, or the training failed.
        Interrupted: Ctrl-C or SIGTERM; the training can be resumed.
    """
    run = RunFolder(Path(config.out))
    if run.folder.is_file() or run.folder.resolve() == Path(config.data):
        raise ConfigError(
            f"out={run.folder} is {'a file' if run.folder.is_file() else 'the data'}; name a folder for it"
        )
    if run.config.exists() and not config.resume:
        raise ConfigError(
            f"{run.folder} already holds a run; continue it with resume=true, or choose another folder with out="
        )
    if (foreign := run.foreign_entry()) is not None:
        raise ConfigError(
            f"out={run.folder} holds {utf8_safe(foreign)!r}, which no training wrote; name a new or an empty folder"
        )
    finished = run.summary.exists() and run.read_summary().finished
    if finished and not lacks_report(run):
        report_line(f"{run.folder} is already finished")
        return run

    if isinstance(config.recipe, DenseRecipeConfig):
        try:
            data = None if finished else train_dense(config, run, report_line)
            _write_report(run, report_line, data)
        except KeyboardInterrupt as error:
            how_to_resume = (
                f"resume it with: heatline train out={run.folder} resume=true"
                if run.config.exists()
                else "give the same command again"
            )
            if not run.summary.exists():
                raise Interrupted(f"stopped; the extracted features can be used again: {how_to_resume}") from error
            _write_report(run, report_line)
            raise Interrupted(f"stopped; the best result so far is in {run.folder}: {how_to_resume}") from error
        return run

    from heatline.train.whole_network import train_whole_network  # Lightning takes seconds to import

    train_whole_network(config, run, report_line, callbacks, cache)
    return run


def _write_report(run: RunFolder, report_line: Callable[[str], None], data: LabelledFolder | None = None) -> None:
    """Write the report if it is missing; `data`: the run's pictures, if they are read already."""
    if lacks_report(run):
        report_line(f"report: {write_run_report(load_run(run.folder, data))}")
