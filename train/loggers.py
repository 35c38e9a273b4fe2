"""Where metrics go besides `metrics.csv`."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from edge.cli.extras import require_extra
from train.config import LoggerConfig


def make_logger(config: LoggerConfig, run: Path, about: dict[str, Any]) -> Logger | None:
    """The logger that a configuration asks for; None for "csv", as a run's table of metrics is always written.

    Args:
        run: the run's folder, which gives the logged run its name and place; a resumed run goes on under its old name.
        about: what the training was told.
    Raises:
        MissingExtraError: the package wandb is not installed.
    """
    if config.name == "csv":
        return None
    require_extra("wandb", "wandb")
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")  # progress and errors are ours to tell
    os.environ.setdefault("WANDB_CONSOLE", "off")
    run.mkdir(parents=True, exist_ok=True)
    identity = sha256(f"{run.resolve()}|{about['data']}|{about['seed']}".encode()).hexdigest()[:16]
    logger = WandbLogger(
        project=config.project,
        name=run.name,
        id=identity,
        save_dir=run,
        offline=config.mode == "offline",
        resume="allow",
    )
    logger.log_hyperparams(about)
    return logger
