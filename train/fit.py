"""From a configuration to a run's folder."""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from rich.progress import track
from torch.utils.data import DataLoader

from edge.cli.output import progress_console
from edge.errors import ConfigError, TrainingError
from train.batches import EvaluationBatches, TrainingBatches
from train.callbacks import MetricsTable, OrderlyStop, Stopwatch, read_metrics
from train.classifier import ClassifierTraining
from train.config import TrainConfig, write_config
from train.frames import FrameStore
from train.models.build import build_model
from train.precision import choose_precision
from train.readers import LabelledFolder, LabelledImage
from train.run import RunFolder, RunSummary, read_data, split_data
from train.sampling import BatchSampler
from train.split import Split
from train.tiles import TileRule, TileTable, grid_tiles

logger = logging.getLogger(__name__)


def fit(config: TrainConfig, say: Callable[[str], None] = logger.info) -> RunFolder:
    """Train, or go on training, and leave a run's folder at `config.out`.

    Args:
        config: all there is to say.
        say: takes lines for people.
    Raises:
        ConfigError: the folder already holds a run and `resume` is not set.
        InputError, WeightsError, TrainingError: data, weights or the training itself cannot be used.
        Interrupted: Ctrl-C; the training can be resumed.
    """
    run = RunFolder(Path(config.out))
    if run.config.exists() and not config.resume:
        raise ConfigError(
            f"{run.folder} already holds a run; go on with resume=true, or choose another folder with out="
        )
    if run.summary.exists() and run.read_summary().finished:
        say(f"{run.folder} is already finished")
        return run

    data = read_data(config)
    split = split_data(config, data)
    torch.manual_seed(config.seed)
    resumed = run.last.exists()
    if resumed:  # the checkpoint holds all weights, and where the first ones came from is known
        model, _ = build_model(msgspec.structs.replace(config.model, weights="none"), config.tiles.tile_px)
        weights = run.read_summary().weights
    else:
        model, weights = build_model(config.model, config.tiles.tile_px)
    tiles = _prepare(config, data, split, run.cache, say)
    sampler = BatchSampler(tiles.train, config.recipe.batch, config.recipe.defective_share_of_batch, config.seed)
    model.start_from(sampler.natural_log_odds)
    training = ClassifierTraining(model, config.recipe, sampler.shift, config.seed)
    training.to(memory_format=torch.channels_last)
    precision, reason = choose_precision(config.recipe.precision)
    say(f"precision {precision}: {reason}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # what it says of GPUs and services is no news

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
        tiles=tiles.counts,
        weights=weights,
        precision=precision,
        tiles_per_s=None,
        seconds=0.0,
        versions={name: version(name) for name in ("heatline", "torch", "lightning", "timm")},
    )
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_config(msgspec.structs.replace(config, resume=False), run.config)
    except OSError as error:
        raise TrainingError(
            f"{run.folder} cannot be written ({error.strerror}); make room, or choose another place with out="
        ) from error
    if not resumed:
        run.write_summary(summary)  # a training that is killed can be resumed: where its weights come from is known
    stopwatch = Stopwatch()
    stop = OrderlyStop(run.last, f"go on with: heatline train out={run.folder} resume=true")
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        deterministic=torch.cuda.is_available(),
        max_epochs=-1,
        max_steps=config.recipe.steps,
        val_check_interval=config.recipe.validate_every,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        callbacks=[
            _StepsBar(console_kwargs={"stderr": True}),
            MetricsTable(run.metrics),
            stopwatch,
            stop,
            ModelCheckpoint(
                run.checkpoints,
                filename="best",
                monitor="val_merit",
                mode="max",
                save_last=True,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
        ],
    )

    def first_step() -> int:
        return trainer.global_step

    batches = TrainingBatches(tiles.store, tiles.train, tiles.rule, sampler, config.recipe, first_step)
    validation = EvaluationBatches(tiles.store, tiles.val, config.tiles.tile_px)
    try:
        with stop, warnings.catch_warnings():
            # Cutting and augmenting a batch takes a few per cent of its step: no worker is worth a core of its own.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # between Lightning and torch
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # it holds what is resumed
            trainer.fit(
                training,
                DataLoader(batches, batch_size=None),
                DataLoader(validation, batch_size=None),
                ckpt_path=run.last if resumed else None,
                weights_only=True,
            )
    finally:
        best = _best_row(run)
        run.write_summary(
            msgspec.structs.replace(
                summary,
                finished=trainer.global_step >= config.recipe.steps,
                steps=trainer.global_step,
                best_step=None if best is None else int(best["step"]),
                val={} if best is None else {name: value for name, value in best.items() if name.startswith("val_")},
                tiles_per_s=stopwatch.tiles_per_s,
                seconds=stopwatch.seconds,
            )
        )
    shutil.rmtree(run.cache)
    return run


class _StepsBar(RichProgressBar):
    """Counts the steps of the whole training, also where this sitting resumed it."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'training':{len(self.validation_description)}}"


def _best_row(run: RunFolder) -> dict[str, float] | None:
    """The metrics of the best checkpoint; None if there is none yet."""
    if not run.best.exists():
        return None
    step = torch.load(run.best, weights_only=True)["global_step"]
    return next((row for row in read_metrics(run.metrics) if row["step"] == step), None)


class _Tiles(NamedTuple):
    """What is trained on, and what validates."""

    store: FrameStore
    rule: TileRule
    train: TileTable
    val: TileTable
    counts: dict[str, dict[str, int]]
    """Per part: good, ambiguous and defective tiles that there are, whether training draws them or not."""


def _prepare(
    config: TrainConfig, data: LabelledFolder, split: Split, cache: Path, say: Callable[[str], None]
) -> _Tiles:
    """Decode the pictures of both splits and label their tiles; pictures of the test split are not touched."""
    parts = {part: split.images(data, part) for part in ("train", "val")}
    store = FrameStore.build([*parts["train"], *parts["val"]], cache, _track)
    rule = TileRule(**msgspec.structs.asdict(config.tiles))
    frames = {"train": range(len(parts["train"])), "val": range(len(parts["train"]), len(store))}
    unplaced = [frame for frame in range(len(store)) if store.is_unplaced(frame)]
    if unplaced:
        say(
            f"{len(unplaced)} pictures are left out, as they are labelled defective and nothing says where, "
            f"first {store.images[unplaced[0]].path.name}"
        )
    tables = {
        part: grid_tiles(store, (frame for frame in numbers if not store.is_unplaced(frame)), rule)
        for part, numbers in frames.items()
    }
    counts = {part: table.counts() for part, table in tables.items()}
    for part, count in counts.items():
        say(f"{part}: {len(parts[part])} pictures, tiles: " + ", ".join(f"{n} {kind}" for kind, n in count.items()))
        if not count["defective"] or count["defective"] == len(tables[part]):
            raise TrainingError(
                f"of the {len(tables[part])} tiles of the {part} groups ({', '.join(getattr(split, part))}) "
                f"{count['defective']} are defective; each part needs both classes: name other groups in split.val "
                "and split.test"
            )
    train = tables["train"].without_ambiguous() if config.recipe.skip_ambiguous else tables["train"]
    return _Tiles(store, rule, train, tables["val"], counts)


def _track(images: Sequence[LabelledImage]) -> Iterable[LabelledImage]:
    return track(images, "decoding pictures", console=progress_console(), transient=True)
