"""Where metrics go besides `metrics.csv`."""

import os
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from edge.cli.extras import require_extra
from edge.errors import TrainingError
from train.config import LoggerConfig


def make_logger(config: LoggerConfig, run: Path, about: dict[str, Any]) -> Logger | None:
    """The logger that a configuration asks for; None for "csv", as a run's table of metrics is always written.

    Args:
        run: the run's folder, which gives the logged run its name and keeps its identity: a resumed run goes on in it.
        about: what the training was told.
    Raises:
        MissingExtraError: the package wandb is not installed.
        TrainingError: it cannot begin: no key, no network, no room.
    """
    if config.name == "csv":
        return None
    require_extra("wandb", "wandb")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")  # progress and errors are ours to tell
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
        logger.log_hyperparams(about)
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"Weights & Biases cannot log the run ({reason}); see to it, or take logger.mode=offline or logger=csv"
        ) from error
    return logger


def close_logger(logger: Logger) -> None:
    """End the logged run, so that the next training of this process begins one of its own."""
    end = getattr(getattr(logger, "experiment", None), "finish", None)
    if end is not None:
        end()
