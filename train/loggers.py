"""Loggers for metrics besides `metrics.csv`."""

import os
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from heatline.edge.errors import TrainingError
from heatline.edge.util.extras import require_extra
from heatline.train.config import LoggerConfig


def make_logger(config: LoggerConfig, run: Path, hyperparameters: dict[str, Any]) -> Logger | None:
    """Create the configured logger; return None for "csv", as the table of metrics is always written.

    Args:
        run: the run's folder; it names the logged run and stores its id, so that a resumed training continues it.
        hyperparameters: the configuration of the training.
    Raises:
        MissingExtraError: the package wandb is not installed.
        TrainingError: the logger cannot start: no key, no network or no disk space.
    """
    if config.name == "csv":
        return None
    require_extra("wandb")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")  # heatline reports progress and errors itself
    os.environ.setdefault("WANDB_CONSOLE", "off")
    try:
        run.mkdir(parents=True, exist_ok=True)
        identity = run / "wandb-id.txt"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex)
        logger = WandbLogger(
            project=config.project,
            name=run.name,
            id=identity.read_text(),
            save_dir=run,
            offline=config.mode == "offline",
            resume="allow",
        )
        logger.log_hyperparams(hyperparameters)
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"Weights & Biases cannot log the run ({reason}); correct this, or set logger.mode=offline or logger=csv"
        ) from error
    return logger


def close_logger(logger: Logger) -> None:
    """End the logged run, so that the next training of this process starts a new one."""
    end = getattr(getattr(logger, "experiment", None), "finish", None)
    if end is not None:
        end()
