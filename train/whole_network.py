"""Trains by the recipes `finetune` and `study`, with Lightning: from a configuration to a run's folder."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from torch.utils.data import DataLoader, get_worker_info

from heatline.edge.errors import ConfigError
from heatline.edge.util.text import format_count
from heatline.train.assemble import Assembly, assemble
from heatline.train.batches import Steps
from heatline.train.callbacks import GracefulStop, MetricsTable, Stopwatch, read_metrics
from heatline.train.config import TrainConfig
from heatline.train.files import write_atomically
from heatline.train.frames import delete_frames
from heatline.train.loggers import close_logger, make_logger
from heatline.train.models.build import build_model
from heatline.train.precision import choose_precision
from heatline.train.prepare import prepare
from heatline.train.provenance import digest_groups
from heatline.train.run import RunFolder, RunSummary


def train_whole_network(
    config: TrainConfig,
    run: RunFolder,
    report_line: Callable[[str], None],
    callbacks: Sequence[Callback],
    cache: Path | None,
    *,
    leads: bool,
) -> None:
    """Train all weights, starting from the run's checkpoint if it has one; arguments and errors as `fit`.

    Args:
        leads: whether this is the process that writes, see `is_main_process`.
    """
    torch.manual_seed(config.seed)
    resumed = run.last.exists()
    if resumed:  # the checkpoint holds all weights, and the summary their provenance
        model, _ = build_model(msgspec.structs.replace(config.model, weights="none"), config.tiles.tile_px)
        weights = run.read_summary().weights
    else:
        model, weights = build_model(config.model, config.tiles.tile_px)
    precision, reason = choose_precision(config.trainer.precision, config.trainer.accelerator)
    flags = {"accelerator": config.trainer.accelerator, "devices": config.trainer.devices, "precision": precision}
    devices = _trainer(flags, logger=False, barebones=True).world_size  # refuses wrong flags before any work
    prepared = prepare(config, cache or run.cache, report_line)
    assembly = assemble(config, prepared, model, devices)
    report_line(f"precision {precision}: {reason}")
    report_line(_describe_plan(assembly))

    summary = RunSummary(
        finished=False,
        model=config.model.name,
        recipe=config.recipe.name,
        steps=0,
        best_step=None,
        val={},
        data=prepared.data.name,
        truth=prepared.data.truth,
        groups={part: list(getattr(prepared.split, part)) for part in ("train", "val", "test")},
        digests=digest_groups(prepared.split.images(prepared.data, "train")),
        labelled=prepared.labelled,
        tiles=prepared.counts,
        weights=weights,
        precision=precision,
        tiles_per_s=None,
        seconds=0.0,
        versions={name: version(name) for name in ("heatline", "torch", "lightning", "timm")},
    )
    stopwatch = Stopwatch()
    stop = GracefulStop(run.last, f"resume it with: heatline train out={run.folder} resume=true")
    if leads:
        run.begin(config)
        if not resumed:  # a resumed training needs the provenance, even after a kill
            run.write_summary(summary)
    trainer = _trainer(
        flags,
        deterministic=torch.cuda.is_available(),
        max_epochs=-1,
        max_steps=assembly.budget.steps,
        val_check_interval=assembly.budget.validate_every,
        num_sanity_val_steps=0,
        logger=(make_logger(config.logger, run.folder, msgspec.to_builtins(config)) if leads else None) or False,
        log_every_n_steps=1,
        use_distributed_sampler=False,  # `_steps` distributes batches; each device validates on everything
        enable_model_summary=False,
        plugins=[_AtomicCheckpoints()],
        callbacks=[
            _StepsBar(console_kwargs={"stderr": True}),
            MetricsTable(run.metrics),
            stopwatch,
            stop,
            *callbacks,
            *_checkpointing(config, run),
        ],
    )
    ended = False
    try:
        with stop, warnings.catch_warnings():
            # Cutting and augmenting a batch takes a few per cent of its step, so a worker process does not pay off.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # between Lightning and torch
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # of the folder that is resumed
            trainer.fit(
                assembly.training,
                DataLoader(
                    assembly.train_batches(_steps(trainer, assembly.budget.steps)),
                    batch_size=None,
                    num_workers=config.trainer.workers,
                ),
                DataLoader(assembly.val_batches, batch_size=None),
                ckpt_path=run.last if resumed else None,
                weights_only=True,
            )
        ended = True  # and the last checkpoint is written
    finally:
        for each in trainer.loggers:
            close_logger(each)
        if leads:
            best = _best_row(run)
            run.write_summary(
                msgspec.structs.replace(
                    summary,
                    finished=ended and (trainer.global_step >= assembly.budget.steps or trainer.should_stop),
                    steps=trainer.global_step,
                    best_step=None if best is None else int(best["step"]),
                    val={name: value for name, value in (best or {}).items() if name.startswith("val_")},
                    tiles_per_s=stopwatch.tiles_per_s,
                    seconds=stopwatch.seconds,
                )
            )
    if leads and cache is None:
        delete_frames(run.cache)


def _trainer(flags: dict[str, Any], **more: Any) -> Trainer:
    """Create Lightning's Trainer with the configured flags.

    Raises:
        ConfigError: Lightning does not accept them.
    """
    # Hide its lines about GPUs and services.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        return Trainer(**flags, **more)
    except (MisconfigurationException, ValueError, TypeError) as error:
        settings = ", ".join(f"trainer.{key}={value}" for key, value in flags.items())
        raise ConfigError(f"Lightning cannot train with {settings}: {' '.join(str(error).split())}") from error


def _checkpointing(config: TrainConfig, run: RunFolder) -> list[Callback]:
    """Create the callbacks that write checkpoints and end a training that no longer improves."""
    options: Any = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    callbacks: list[Callback] = [
        ModelCheckpoint(run.checkpoints, run.best.stem, monitor="val_merit", mode="max", **options),
        # A separate callback: `save_last` of the first would be written only together with the best checkpoint.
        ModelCheckpoint(run.checkpoints, run.last.stem, **options),
    ]
    if config.finetune.patience is not None:
        callbacks.append(EarlyStopping("val_merit", mode="max", patience=config.finetune.patience))
    return callbacks


def _steps(trainer: Trainer, total: int) -> Steps:
    """Return the batch numbers from the trainer's step on, distributed to devices and then to workers in turn."""

    def steps() -> Iterable[int]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        own_steps = range(trainer.global_step + first, total, stride)
        return (step * trainer.world_size + trainer.global_rank for step in own_steps)

    return steps


def _describe_plan(assembly: Assembly) -> str:
    """Describe the number of steps and how batches are balanced."""
    budget, share = assembly.budget, assembly.defective_share_of_batch
    balance = (
        "batches hold good and defective samples in their natural proportion"
        if share is None
        else f"{100 * share:.0f} % of each batch is defective, and the loss corrects the odds for it "
        f"({assembly.training.shift:+.2f} logits)"
    )
    return f"{format_count(budget.steps, 'step')}, a validation every {budget.validate_every}; {balance}"


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: after a full disk or a power cut, the previous one is intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Errors as `write_atomically`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


class _StepsBar(RichProgressBar):
    """Counts the steps of the whole training, also after it was resumed."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'training':{len(self.validation_description)}}"


def _best_row(run: RunFolder) -> dict[str, float] | None:
    """Return the metrics of the best checkpoint; None if there is none yet."""
    if not run.best.exists():
        return None
    step = torch.load(run.best, map_location="cpu", weights_only=True)["global_step"]
    return next((row for row in read_metrics(run.metrics) if row["step"] == step), None)
