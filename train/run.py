"""A run's folder: what training leaves behind, and all that export and evaluation need of it.

- `config.yaml`: what the training was told
- `run.json`: what came of it, a `RunSummary`
- `metrics.csv`: a row per validation
- `checkpoints/last.ckpt`: to resume from
- `checkpoints/best.ckpt`: the one to use: best on the validation groups (see `merit`)
- `cache/`: decoded frames, while the training is not done
- `out_of_fold.npz`, of the recipe `heatline`: what the heads of the cross-validation say of the groups that they were
  not trained on; thresholds come from it
- `report/`, of the recipe `heatline`: the cross-validation as a page
"""

import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge.errors import InputError, TrainingError
from edge.util.text import encode_json
from train.compose import read_config, write_config
from train.config import DenseRecipeConfig, TrainConfig
from train.discovery import discover
from train.files import write_whole
from train.provenance import Provenance
from train.readers import LabelledFolder, read_folder
from train.split import Split, split_by_fractions, split_by_name

if TYPE_CHECKING:
    from train.models.explained import ExplainedClassifier


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`."""

    finished: bool
    model: str
    recipe: str
    steps: int
    """Done so far."""
    best_step: int | None
    val: dict[str, float]
    """Metrics on the validation groups at the best step; empty before the first validation."""
    data: str
    """Name of the folder of pictures."""
    truth: str
    groups: dict[str, list[str]]
    """Of train, val and test."""
    labelled: Literal["tiles", "pictures"]
    """What the labels that taught it are of: tiles cut from annotations, or whole pictures (multiple-instance)."""
    tiles: dict[str, dict[str, int]]
    """Of train and val: good, ambiguous and defective ones; those of a picture that is labelled as a whole share its
    label."""
    weights: Provenance
    precision: str
    tiles_per_s: float | None
    """Training throughput without validation."""
    seconds: float
    """Training and validation, all sittings together."""
    versions: dict[str, str]
    folds: int | None = None
    """Of the cross-validation; None: there was none, and `val` is of the validation groups."""


class RunFolder:
    """The paths of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.summary = folder / "run.json"
        self.metrics = folder / "metrics.csv"
        self.checkpoints = folder / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.cache = folder / "cache"
        self.out_of_fold = folder / "out_of_fold.npz"
        self.report = folder / "report"

    def begin(self, config: TrainConfig) -> None:
        """Make the folder and write what the training was told; what is resumed has that already.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{self.folder} cannot be written ({error.strerror}); make room, or choose another place with out="
            ) from error
        if not (config.resume and self.config.exists()):  # on a full disk it would be lost
            write_whole(self.config, lambda file: write_config(config, file))

    def read_summary(self) -> RunSummary:
        """What came of the run.

        Raises:
            InputError: there is no `run.json`, or it is not of this version.
        """
        if self.config.exists() and not self.summary.exists():
            raise InputError(
                f"the training in {self.folder} is not finished; go on with: heatline train out={self.folder} "
                "resume=true"
            )
        try:
            return msgspec.json.decode(self.summary.read_bytes(), type=RunSummary)
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(
                f"{self.folder} is no run of `heatline train` ({error}); name the folder it wrote"
            ) from error

    def write_summary(self, summary: RunSummary) -> None:
        text = msgspec.json.format(encode_json(summary)) + b"\n"
        write_whole(self.summary, lambda file: file.write_bytes(text))


@dataclass(frozen=True)
class TrainedRun:
    """A run, loaded."""

    folder: Path
    config: TrainConfig
    summary: RunSummary
    data: LabelledFolder
    split: Split
    model: "ExplainedClassifier"
    """With the weights of the best checkpoint, in evaluation mode."""


def load_run(folder: Path) -> TrainedRun:
    """The run in a folder.

    Raises:
        InputError: it is no run, or its pictures are gone.
        TrainingError: it has no best checkpoint yet, or that is damaged.
    """
    import torch

    from train.models.build import build_model

    run = RunFolder(folder)
    summary, config = run.read_summary(), read_config(run.config)
    if not run.best.exists():
        raise TrainingError(
            f"{folder} has no {run.best.name}; let the training reach its first validation, or delete the folder and "
            "train again"
        )
    model, _ = build_model(msgspec.structs.replace(config.model, weights="none"), config.tiles.tile_px)
    try:
        with zipfile.ZipFile(run.best) as archive:
            if (damaged := archive.testzip()) is not None:  # torch compares no sums
                raise ValueError(f"{damaged} in it is damaged")
        checkpoint: dict[str, Any] = torch.load(run.best, map_location="cpu", weights_only=True)
        prefix = "model."
        state = {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
        model.load_state_dict(state, strict=True)
    except Exception as error:  # a damaged file ends in whatever the reader trips over
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise TrainingError(f"{run.best} cannot be loaded ({reason}); delete {folder} and train again") from error
    split = Split(*(tuple(summary.groups[part]) for part in ("train", "val", "test")))
    return TrainedRun(folder, config, summary, read_data(config), split, model.eval())


def read_data(config: TrainConfig) -> LabelledFolder:
    """The labelled pictures that a configuration names; errors as `read_folder`."""
    return read_as(describe_reading(config, config.truth), Path(config.data), config.truth)


def describe_reading(config: TrainConfig, truth: str | None) -> dict[str, Any]:
    """How a run reads its pictures, as `read_as` takes it and a bundle's provenance stores it.

    Args:
        truth: what `classes` are of.
    """
    return {
        "truth": truth,
        "classes": class_names(config),
        "group": config.split.group,
        "pattern": config.split.pattern,
        "discover": config.discover,
        "mixed": isinstance(config.recipe, DenseRecipeConfig),
    }


def read_as(reading: Mapping[str, Any], folder: Path, truth: str | None) -> LabelledFolder:
    """A folder, read as a run reads its own; errors as `read_folder`.

    Discovered groups are found again: the same pictures are in the same groups.

    Args:
        reading: of `describe_reading`; where a key is missing, a folder is read as `read_folder` does.
    """
    classes = reading.get("classes") if truth == reading.get("truth") else None
    mixed, group = reading.get("mixed", False), reading.get("group") or "group"
    if reading.get("discover"):
        return discover(folder).read(classes, truth)
    return read_folder(folder, truth, group, reading.get("pattern"), classes, mixed=mixed)


def class_names(config: TrainConfig) -> list[str] | None:
    """The annotated classes that are defects, as annotations write them: a command line reads 7 as a number."""
    return None if config.classes is None else [str(name) for name in config.classes]


def split_data(config: TrainConfig, data: LabelledFolder) -> Split:
    """Their groups, divided as the configuration says: by name where any is named, else by fractions.

    Raises:
        ConfigError, InputError: as the functions for each.
    """
    groups = data.groups()
    if isinstance(config.recipe, DenseRecipeConfig):
        return _split_off_the_test(config, groups, data.groups_with_defects())
    if config.split.val or config.split.test:
        return split_by_name(groups, config.split.val, config.split.test)
    return split_by_fractions(groups, config.split.fractions, config.seed, data.groups_with_defects())


def _split_off_the_test(config: TrainConfig, groups: list[str], defective: set[str]) -> Split:
    """A cross-validation validates on what it trains: only the test groups are kept apart."""
    split = config.split
    if split.val or split.test:
        named = split_by_name(groups, split.val, split.test, needs_val=False)
    elif split.fractions[-1:] == [0.0]:
        return Split(tuple(groups), (), ())
    else:
        named = split_by_fractions(groups, split.fractions, config.seed, defective, needs_val=False)
    return Split(tuple(sorted({*named.train, *named.val})), (), named.test)
