"""Lightning callbacks: the table of metrics, the throughput, and the graceful stop."""

import csv
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from heatline.edge.errors import Interrupted
from heatline.train.classifier import reduce_decision
from heatline.train.files import write_atomically

COLUMNS = (
    "step", "lr", "train_loss", "val_loss", "val_ap", "val_auroc", "val_accuracy", "val_majority_share",
)  # fmt: skip


class MetricsTable(Callback):
    """Writes a row per validation. A training that resumes at a step drops the rows of later steps."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._write([row for row in read_metrics(self._file) if row["step"] <= trainer.global_step])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        train_loss: Any = pl_module.train_loss
        mean_train_loss = float(train_loss.compute())  # a reduction over all devices, so each must call it
        train_loss.reset()
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values |= {
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": mean_train_loss,
        }
        self._write([*read_metrics(self._file), {name: values[name] for name in COLUMNS}])
        for logger in trainer.loggers:  # Lightning itself logs the metrics of validation
            logger.log_metrics({name: values[name] for name in ("lr", "train_loss")}, step=trainer.global_step)

    def _write(self, rows: list[dict[str, float]]) -> None:
        write_atomically(self._file, lambda path: _write_table(path, rows))


def _write_table(file: Path, rows: list[dict[str, float]]) -> None:
    with file.open("w", newline="") as lines:
        table = csv.DictWriter(lines, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics table; return none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [
            {name: int(value) if name == "step" else float(value) for name, value in row.items()}
            for row in csv.DictReader(lines)
        ]


class Stopwatch(Callback):
    """Counts tiles and seconds of training; checkpoints store the counts, so a resumed training continues them.

    The throughput excludes validations and the first step after each start, which is slower than the others.
    """

    def __init__(self) -> None:
        self._tiles, self._training_s, self._earlier_s = 0, 0.0, 0.0
        self._started, self._mark = time.monotonic(), float("nan")

    @property
    def tiles_per_s(self) -> float | None:
        return self._tiles / self._training_s if self._training_s else None

    @property
    def seconds(self) -> float:
        return self._earlier_s + time.monotonic() - self._started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now > self._mark:  # false while the mark is NaN: there is no earlier step to compare with
            # Of bags, count only tiles with a gradient: the others were only evaluated.
            training: Any = pl_module
            self._tiles += min(len(batch.tiles), training.recipe.batch) * trainer.world_size
            self._training_s += now - self._mark
        self._mark = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = float("nan")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"tiles": self._tiles, "training_s": self._training_s, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tiles, self._training_s = state_dict["tiles"], state_dict["training_s"]
        self._earlier_s = state_dict["seconds"]


class GracefulStop(Callback):
    """On Ctrl-C or SIGTERM, writes a checkpoint and ends before the next step, so that no update is left half done.

    A second signal ends the training at once; it can then be resumed from the previous checkpoint. Use it as a context
    manager around the training.
    """

    def __init__(self, checkpoint: Path, how_to_resume: str) -> None:
        self._checkpoint, self._how_to_resume = checkpoint, how_to_resume
        self._is_stopping = False

    def __enter__(self) -> "GracefulStop":
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            raise Interrupted(f"stopped at once; its last checkpoint can be resumed: {self._how_to_resume}")
        self._is_stopping = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has set its own handler by now, which exits with code 0.
        signal.signal(signal.SIGTERM, self._on_signal)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if reduce_decision(trainer, self._is_stopping, by_all=False):
            trainer.save_checkpoint(self._checkpoint)
            raise Interrupted(f"stopped after step {trainer.global_step} of {trainer.max_steps}; {self._how_to_resume}")
