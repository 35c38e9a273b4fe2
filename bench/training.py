"""Training throughput on real batches beside that of the same step on random tensors that are already in memory.

The difference is what cutting, augmenting and loading cost. Both run in one process, in turns, through one trainer with
one model and optimiser, put together as `heatline train` does, so that a machine that changes its pace changes both.
"""

import cProfile
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

import lightning
import msgspec
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import train
from bench.spread import Spread
from bench.training_rows import TrainingThroughput
from edge.errors import ConfigError
from train.assemble import assemble
from train.batches import Batch
from train.config import TrainConfig
from train.models.build import build_model
from train.precision import choose_precision
from train.prepare import prepare

RANDOM_BATCHES = 4
"""Different ones, that take turns."""
WARM_UP_STEPS = 5
"""At the very beginning, where memory is got and kernels are chosen."""
PROFILED_BATCHES = 10

Kind = Literal["real", "random"]


def measure_training(
    config: TrainConfig, *, steps: int, repetitions: int, say: Callable[[str], None] = lambda line: None
) -> TrainingThroughput:
    """Train for a while and throw the model away.

    Pictures are decoded into a temporary folder; `out` is not touched. It runs on one device. The learning rate's
    schedule is spread over the steps done here, and nothing is validated.

    Args:
        config: as for training.
        steps: timed per repetition and kind.
        repetitions: of a block of real and a block of random batches.
        say: takes lines for people.
    Raises:
        ConfigError, InputError, WeightsError, TrainingError: as training.
    """
    blocks = _plan(steps, repetitions, settle=1 + 2 * config.trainer.workers)  # a worker makes two batches ahead
    total = blocks[-1].end
    recipe = msgspec.structs.replace(config.finetune, epochs=None, steps=total + 1, validate_every=total + 1)
    config = msgspec.structs.replace(config, recipe=recipe)
    torch.manual_seed(config.seed)
    model, _ = build_model(config.model, config.tiles.tile_px)
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(config, Path(cache), say)
        assembly = assemble(config, prepared, model)
        batches = assembly.train_batches(_dealt_out)
        drawing_s = _time_drawing(batches)
        shares = _profile_drawing(batches)
        clock = _Clock({number for block in blocks for number in (block.first - 1, block.last)})
        precision, reason = choose_precision(config.trainer.precision, config.trainer.accelerator)
        say(f"precision {precision}: {reason}")
        trainer = _trainer(config, precision, total, clock)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # between Lightning and torch
            trainer.fit(
                assembly.training,
                _Turns(
                    [block.kind for block in blocks for _ in range(block.start, block.end)],
                    DataLoader(batches, batch_size=None, num_workers=config.trainer.workers),
                    _random_batches(batches),
                ),
            )
    rates = [clock.tiles_per_s(block.first, block.last) for block in blocks[1:]]
    real, random = rates[::2], rates[1::2]
    return TrainingThroughput(
        model=config.model.name,
        recipe=recipe.name,
        data=prepared.data.name,
        tile_px=config.tiles.tile_px,
        tiles_per_batch=clock.tiles / total,
        workers=config.trainer.workers,
        precision=precision,
        device=_device(trainer),
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in ("torch", "lightning", "timm")},
        steps=steps,
        repetitions=repetitions,
        real_tiles_per_s=Spread.of(real),
        random_tiles_per_s=Spread.of(random),
        real_to_random=Spread.of([one / other for one, other in zip(real, random, strict=True)]),
        drawing_ms_per_batch=statistics.median(drawing_s) * 1e3,
        drawing_shares=shares,
        runs=[{"real": one, "random": other} for one, other in zip(real, random, strict=True)],
    )


class _Block(NamedTuple):
    """Steps in a row on batches of one kind."""

    kind: Kind
    start: int
    first: int
    """Step that is timed first: those before settle."""
    end: int

    @property
    def last(self) -> int:
        """Step that is timed last; in the one after it, Lightning already fetches the next block's first batch."""
        return self.end - 2


def _plan(steps: int, repetitions: int, settle: int) -> list[_Block]:
    """A block to warm up, then real and random ones in turns."""
    blocks = [_Block("random", 0, WARM_UP_STEPS, WARM_UP_STEPS + 2)]
    for kind in ("real", "random") * repetitions:
        start = blocks[-1].end
        blocks.append(_Block(kind, start, start + settle, start + settle + steps + 1))
    return blocks


class _Turns(Iterable[Batch]):
    """What the trainer is given: each batch of the kind whose turn it is, real ones through the loader."""

    def __init__(self, kinds: Sequence[Kind], real: DataLoader[Batch], random: Sequence[Batch]) -> None:
        self._kinds, self._real, self._random = kinds, real, random

    def __iter__(self) -> Iterator[Batch]:
        real = iter(self._real)
        for number, kind in enumerate(self._kinds):
            yield next(real) if kind == "real" else self._random[number % len(self._random)]


class _Clock(lightning.Callback):
    """Reads the time at the end of some steps, and counts tiles.

    Args:
        steps: those at whose end the time is read; there, and only there, a GPU is waited for.
    """

    def __init__(self, steps: set[int]) -> None:
        self._steps = steps
        self._read: dict[int, tuple[float, int]] = {}
        self.tiles = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tiles += len(batch.tiles)
        if batch_idx in self._steps:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self._read[batch_idx] = perf_counter(), self.tiles

    def tiles_per_s(self, first: int, last: int) -> float:
        """Over the steps from `first` to `last`, both included."""
        (began, before), (ended, after) = self._read[first - 1], self._read[last]
        return (after - before) / (ended - began)


def _trainer(config: TrainConfig, precision: str, steps: int, clock: _Clock) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    told: Any = {"accelerator": config.trainer.accelerator, "devices": 1, "precision": precision}
    try:
        return Trainer(
            **told,
            deterministic=torch.cuda.is_available(),
            max_epochs=-1,
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[clock],
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        asked = ", ".join(f"trainer.{key}={value}" for key, value in told.items())
        raise ConfigError(f"Lightning cannot train with {asked}: {' '.join(str(error).split())}") from error


def _dealt_out() -> Iterable[int]:
    """Numbers of batches without end, dealt out to the loader's workers in turn."""
    worker = get_worker_info()
    return count() if worker is None else count(worker.id, worker.num_workers)


def _random_batches(batches: IterableDataset[Batch]) -> list[Batch]:
    """As real ones, but for their pixels."""
    return [batch._replace(tiles=torch.randint_like(batch.tiles, 256)) for batch in islice(batches, RANDOM_BATCHES)]


def _time_drawing(batches: IterableDataset[Batch]) -> list[float]:
    """Seconds for each of some batches, after a first one that does not count."""
    drawn = iter(batches)
    next(drawn)
    seconds = []
    for _ in range(PROFILED_BATCHES):
        began = perf_counter()
        next(drawn)
        seconds.append(perf_counter() - began)
    return seconds


def _profile_drawing(batches: IterableDataset[Batch]) -> dict[str, float]:
    """Share of the time of drawing in each function of `train` that takes a part of it, from 1 % on, longest first."""
    drawn = iter(batches)
    profile = cProfile.Profile()
    with profile:
        for _ in range(PROFILED_BATCHES):
            next(drawn)
    package, calls = str(Path(str(train.__file__)).parent), profile.getstats()
    total_s = sum(call.inlinetime for call in calls)
    shares = [
        (call.code.co_qualname, call.totaltime / total_s)
        for call in calls
        if not isinstance(call.code, str) and call.code.co_filename.startswith(package)
    ]
    return {name: share for name, share in sorted(shares, key=lambda one: -one[1]) if 0.01 <= share < 0.99}


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
