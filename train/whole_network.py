"""Trains by the recipes `finetune` and `study`, with Lightning: from a configuration to a run's folder."""

import csv
import logging
import signal
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import msgspec
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

from heatline.edge.errors import ConfigError, DivergedError, Interrupted, TrainingError
from heatline.edge.util.text import format_count, is_are, list_some
from heatline.train.batches import Batch, BatchSampler, TrainingBatches, cosine, whole_tiles
from heatline.train.config import RecipeConfig, TrainConfig
from heatline.train.files import write_atomically
from heatline.train.frames import FrameStore, TileTable, delete_frames, grid_tiles
from heatline.train.models.build import build_model, choose_precision
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.progress import tracked
from heatline.train.readers.labelled import digest_groups
from heatline.train.run import RunFolder, RunSummary, Split, read_data, split_data


def label_tiles(
    config: TrainConfig, split: Split, store: FrameStore, report_line: Callable[[str], None]
) -> dict[str, TileTable]:
    """Label the tiles of the pictures that train and that validate; return them by part.

    Raises:
        TrainingError: a picture larger than a tile has only a label, or a part lacks a class.
    """
    if unplaced := [image.name for frame, image in enumerate(store.images) if store.is_unplaced(frame)]:
        report_line(
            f"{format_count(len(unplaced), 'picture')} {is_are(len(unplaced))} left out: labelled defective "
            f"without a marked defect, first {unplaced[0]}"
        )
    for frame, image in enumerate(store.images):
        if image.labels_only and max(store.frame_hw(frame)) > config.tiles.tile_px:
            raise TrainingError(
                f"{image.name} is larger than a tile of {config.tiles.tile_px} px and has only a label, and recipe="
                f"{config.recipe.name} needs to know which tiles are defective; mark the defects, or choose "
                "recipe=heatline"
            )
    tables = {}
    for part, groups in (("train", split.train), ("val", split.val)):
        frames = [frame for frame, image in enumerate(store.images) if image.group in groups]
        tables[part] = table = grid_tiles(store, (each for each in frames if not store.is_unplaced(each)), config.tiles)
        count, defective = table.counts(), sum(store.images[each].defective for each in frames)
        tiles = ", ".join(f"{number} {kind}" for kind, number in count.items())
        report_line(f"{part}: {format_count(len(frames), 'picture')}, {defective} of them defective; tiles: {tiles}")
        if not count["defective"] or count["defective"] == len(table):
            raise TrainingError(
                f"of the {format_count(len(table), 'tile')} of the {part} groups ({list_some(groups, 6)}) "
                f"{count['defective']} {is_are(count['defective'])} defective; each part needs both classes: name "
                "other groups in split.val and split.test"
            )
    return tables


COLUMNS = (
    "step", "lr", "train_loss", "val_loss", "val_ap", "val_auroc", "val_accuracy", "val_majority_share",
)  # fmt: skip
"""Of `metrics.csv`."""
PLATEAU_PATIENCE = 2
"""The plateau schedule lowers the learning rate after more than this many validations in a row without improvement."""


def plan_steps(recipe: RecipeConfig, samples: int) -> tuple[int, int]:
    """Return the steps of a training, and those from one validation to the next; one step is one batch.

    An epoch is one pass over the samples. Validations are evenly spaced, at most `recipe.validate_every` steps apart,
    and the last follows the last step; the number of steps is rounded up to allow that.
    """
    epoch = -(-samples // recipe.batch)
    steps = recipe.steps or (recipe.epochs or 0) * epoch  # it has one of them
    validations = -(-steps // (recipe.validate_every or epoch))
    validate_every = -(-steps // validations)
    return validations * validate_every, validate_every


class ClassifierTraining(lightning.LightningModule):
    """Trains by binary cross-entropy on shifted logits (see `BatchSampler`); validation uses the model's own logits.

    Args:
        steps: number of all steps.
        shift: added to each logit in the training loss.
        seed: with the step's number, seeds the model's random numbers (dropout), so that a resumed training draws the
            same ones.
    """

    def __init__(self, model: ExplainedClassifier, recipe: RecipeConfig, steps: int, shift: float, seed: int) -> None:
        super().__init__()
        self.model, self.recipe, self.steps, self.shift, self.seed = model, recipe, steps, shift, seed
        self.train_loss = MeanMetric()
        self.train_loss.persistent(True)  # a checkpoint between two validations stores the partial sum
        self.val_loss, self.val_accuracy, self.val_positive = MeanMetric(), BinaryAccuracy(), MeanMetric()
        self.val_ap, self.val_auroc = BinaryAveragePrecision(), BinaryAUROC()
        self.rows: list[dict[str, float]] = []
        """Metrics of each validation; a checkpoint holds those up to its own."""
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 1_009)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.model.logits(batch.tiles)
        loss = binary_cross_entropy_with_logits(logits + self.shift, batch.labels)
        self._require_finite(loss, "the loss")
        self.train_loss.update(loss.detach())
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, labels = self.model.logits(batch.tiles), batch.labels
        self._require_finite(logits.sum(), "the sum of the validation logits")
        self.val_loss.update(binary_cross_entropy_with_logits(logits, labels), weight=len(labels))
        self.val_positive.update(labels)
        for metric in (self.val_accuracy, self.val_ap, self.val_auroc):
            # Probabilities, as torchmetrics guesses by the range; float64, as nearly certain ones would become ties.
            metric.update(logits.double().sigmoid(), labels.long())

    def _require_finite(self, value: Tensor, name: str) -> None:
        if not torch.isfinite(value):
            raise DivergedError(
                f"{name} became {value.item()} at step {self.global_step}; lower the learning rate: recipe.lr"
            )

    def on_validation_epoch_end(self) -> None:
        share = self.val_positive.compute()
        values = {
            "val_ap": self.val_ap.compute(),
            "val_auroc": self.val_auroc.compute(),
            "val_loss": self.val_loss.compute(),
            "val_accuracy": self.val_accuracy.compute(),
            "val_majority_share": torch.maximum(share, 1 - share),
            "train_loss": self.train_loss.compute(),
        }
        for metric in self.children():
            if isinstance(metric, Metric):
                metric.reset()
        chosen = {"average_precision": "val_ap", "accuracy": "val_accuracy"}[self.recipe.select]
        self.log("val_ap", values["val_ap"], prog_bar=True)
        self.log_dict({name: value for name, value in values.items() if name not in ("val_ap", "train_loss")})
        self.log("val_merit", merit(values[chosen], values["val_loss"]))
        if self._plateau is not None:
            self._plateau.step(float(values["val_loss"]))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        numbers = {"step": self.global_step, "lr": rate, **{name: float(value) for name, value in values.items()}}
        self.rows.append({name: numbers[name] for name in COLUMNS})

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and a schedule by step.

        The plateau schedule is stepped here, as Lightning would step it only after it has written the checkpoint.
        """
        excluded = {  # besides biases and normalisation scales: tokens and position embeddings
            f"{path}.{name}"
            for path, module in self.model.named_modules()
            if hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()
        }
        groups = param_groups_weight_decay(self.model, self.recipe.weight_decay, no_weight_decay_list=excluded)
        optimizer = (AdamW if self.recipe.optimiser == "adamw" else Adam)(groups, lr=self.recipe.lr)
        if self.recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, patience=PLATEAU_PATIENCE)
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
            return optimizer
        schedule = LambdaLR(optimizer, lambda step: cosine(step, self.steps, self.recipe.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rows"] = self.rows
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rows = checkpoint["rows"]
        self._plateau_state = checkpoint.get("plateau")  # its optimiser is created later


def merit(chosen: Tensor, loss: Tensor) -> Tensor:
    """Return the figure that the best checkpoint maximises: the chosen metric to three digits, then a lower loss.

    With few defective tiles, average precision and accuracy soon reach 1 and no longer distinguish checkpoints.
    """
    return chosen.round(decimals=3) - 1e-4 * loss.clamp(0, 1)


class MetricsTable(Callback):
    """Writes a table with a row per validation."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows: Any = pl_module.rows
        lines = [COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]
        write_atomically(self._file, lambda path: path.write_text("".join(f"{','.join(line)}\n" for line in lines)))


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics table; return none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


class GracefulStop(Callback):
    """On Ctrl-C or SIGTERM, writes a checkpoint and ends before the next step, so that no update is left half done.

    A second signal ends the training at once; it is then resumed from the previous checkpoint. Use it as a context
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
            raise Interrupted(f"stopped at once; {self._how_to_resume}")
        self._is_stopping = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has set its own handler by now, which exits with code 0.
        signal.signal(signal.SIGTERM, self._on_signal)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._is_stopping:
            trainer.save_checkpoint(self._checkpoint)
            raise Interrupted(f"stopped after step {trainer.global_step} of {trainer.max_steps}; {self._how_to_resume}")


def train_whole_network(
    config: TrainConfig,
    run: RunFolder,
    report_line: Callable[[str], None],
    callbacks: Sequence[Callback],
    cache: Path | None,
) -> None:
    """Train all weights, starting from the run's checkpoint if it has one; arguments and errors as `fit`."""
    torch.manual_seed(config.seed)
    resumed = run.last.exists()
    # If it is resumed, the checkpoint holds all weights, and the summary their provenance.
    start = msgspec.structs.replace(config.model, weights="none") if resumed else config.model
    model, weights = build_model(start, config.tiles.tile_px)
    precision, reason = choose_precision(config.trainer.precision, config.trainer.accelerator)
    flags = {"accelerator": config.trainer.accelerator, "precision": precision}
    _trainer(flags, barebones=True)  # refuses wrong flags before any work
    recipe, data = config.finetune, read_data(config, report_line)
    split = split_data(config, data)
    train_images = split.images(data, "train")
    pictures = [*train_images, *split.images(data, "val")]  # those of test stay closed
    store = FrameStore.build(pictures, cache or run.cache, tracked("decoding pictures"))
    tables = label_tiles(config, split, store, report_line)
    tiles = tables["train"].drop_ambiguous() if recipe.skip_ambiguous else tables["train"]
    sampler = BatchSampler(tiles.defective, recipe.batch, recipe.defective_share_of_batch, config.seed)
    steps, validate_every = plan_steps(recipe, len(tiles))
    model.start_from(sampler.natural_log_odds)
    training = ClassifierTraining(model, recipe, steps, sampler.shift, config.seed)
    training.to(memory_format=torch.channels_last)
    report_line(f"precision {precision}: {reason}")
    report_line(f"{format_count(steps, 'step')}, a validation every {validate_every}")

    summary = RunSummary(
        finished=False,
        model=config.model.name,
        recipe=config.recipe.name,
        steps=0,
        best_step=None,
        val={},
        data=data.name,
        truth=data.truth,
        groups={part: list(getattr(split, part)) for part in ("train", "val", "test")},
        digests=digest_groups(train_images),
        labelled="tiles",
        tiles={part: table.counts() for part, table in tables.items()},
        weights=run.read_summary().weights if resumed else weights,
        precision=precision,
        tiles_per_s=None,
        seconds=0.0,
        versions={name: version(name) for name in ("heatline", "torch", "lightning", "timm")},
    )
    timer = Timer()
    stop = GracefulStop(run.last, f"resume it with: heatline train out={run.folder} resume=true")
    run.begin(config)
    if not resumed:  # a resumed training needs the provenance, even after a kill
        run.write_summary(summary)
    checkpoint_options: Any = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    trainer = _trainer(
        flags,
        deterministic=torch.cuda.is_available(),
        max_epochs=-1,
        max_steps=steps,
        val_check_interval=validate_every,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        plugins=[_AtomicCheckpoints()],
        callbacks=[
            _StepsBar(console_kwargs={"stderr": True}),
            MetricsTable(run.metrics),
            timer,
            stop,
            *callbacks,
            ModelCheckpoint(run.checkpoints, run.best.stem, monitor="val_merit", mode="max", **checkpoint_options),
            # A separate callback: `save_last` of the first would be written only together with the best checkpoint.
            ModelCheckpoint(run.checkpoints, run.last.stem, **checkpoint_options),
            *(() if recipe.patience is None else [EarlyStopping("val_merit", mode="max", patience=recipe.patience)]),
        ],
    )
    batches = TrainingBatches(store, tiles, config.tiles, sampler, recipe, lambda: range(trainer.global_step, steps))
    uncut = partial(whole_tiles, store, tables["val"], config.tiles.tile_px)
    validation = DataLoader[Batch](range(len(tables["val"])), 64, collate_fn=uncut)  # type: ignore[arg-type]
    ended = False
    try:
        with stop, warnings.catch_warnings():
            # Cutting and augmenting a batch takes a few per cent of its step, so a worker process does not pay off.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # between Lightning and torch
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # of the folder that is resumed
            trainer.fit(
                training,
                DataLoader(batches, batch_size=None, num_workers=config.trainer.workers),
                validation,
                ckpt_path=run.last if resumed else None,
                weights_only=True,
            )
        ended = True  # and the last checkpoint is written
    finally:
        best = torch.load(run.best, map_location="cpu", weights_only=True)["rows"][-1] if run.best.exists() else {}
        run.write_summary(
            msgspec.structs.replace(
                summary,
                finished=ended and (trainer.global_step >= steps or trainer.should_stop),
                steps=trainer.global_step,
                best_step=best.get("step"),
                val={name: value for name, value in best.items() if name.startswith("val_")},
                seconds=timer.time_elapsed(),
            )
        )
    if cache is None:
        delete_frames(run.cache)


def _trainer(flags: dict[str, Any], **more: Any) -> Trainer:
    """Create Lightning's Trainer; raise a ConfigError if it does not accept the configured flags."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # hides its lines about GPUs and services
    try:
        return Trainer(**flags, devices=1, logger=False, **more)
    except (MisconfigurationException, ValueError, TypeError) as error:
        settings = ", ".join(f"trainer.{key}={value}" for key, value in flags.items())
        raise ConfigError(f"Lightning cannot train with {settings}: {' '.join(str(error).split())}") from error


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: after a full disk or a power cut, the previous one is intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
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
