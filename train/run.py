"""A run's folder: the files that a training writes, and that export and evaluation read."""

import textwrap
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from heatline.edge.bundle.store import MANIFEST
from heatline.edge.errors import ConfigError, InputError, TrainingError
from heatline.edge.util.text import encode_json, list_some
from heatline.train.compose import read_config, write_config
from heatline.train.config import DenseRecipeConfig, Provenance, TrainConfig
from heatline.train.discovery import Discovery, discover
from heatline.train.files import make_folder, write_atomically
from heatline.train.frames import FILES
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.readers.labelled import read_reviewed
from heatline.train.references import References, ReferenceSummary


@dataclass(frozen=True)
class Split:
    """The groups of each part, sorted: train, val (which chooses the best checkpoint), test (for the final evaluation).

    Pictures of a group show the same thing. A split by picture would put nearly the same tile into two parts and make
    the figures too good.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def images(self, data: LabelledFolder, part: str) -> list[LabelledImage]:
        """Return the pictures of part "train", "val" or "test"."""
        groups = set(getattr(self, part))
        return [image for image in data.images if image.group in groups]


def split_by_name(
    groups: Sequence[str], val: Sequence[object], test: Sequence[object], *, needs_val: bool = True
) -> Split:
    """Split by the names of the val and test groups; all other groups train.

    A name matches the group of the same spelling; otherwise a number matches the only group with that number.

    Raises:
        ConfigError: a name matches no group or several, is in both lists, or no group is left to train or validate.
    """
    val_groups, test_groups = ({_find(groups, name) for name in names} for names in (val, test))
    if both := val_groups & test_groups:
        raise ConfigError(f"group {min(both)!r} is in split.val and in split.test; leave it in one")
    if not val_groups and needs_val:
        raise ConfigError("split.test is given and split.val is not; name a group that chooses the best checkpoint")
    rest = set(groups) - val_groups - test_groups
    if not rest:
        raise ConfigError(f"split.val and split.test take all groups ({len(groups)}); leave at least one to train on")
    return Split(*(tuple(sorted(part)) for part in (rest, val_groups, test_groups)))


def split_by_fractions(
    groups: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    defective: Collection[str] = (),
    *,
    needs_val: bool = True,
) -> Split:
    """Split by shares; a hash of seed and name draws the groups, independently of their order and the machine.

    Groups with defects and groups without are split separately (stratified) if there are enough of both: drawn
    together, a part could get few of the rarer kind, and its figures would depend on these few.

    Args:
        fractions: shares of train, val and test; each share above 0 gets at least one group of each kind.
        defective: the groups with defects.
    Raises:
        ConfigError: the fractions are not shares, or there are too few groups.
    """
    needed = 2 if needs_val else 1
    are_shares = len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6  # false of nan
    if not are_shares or min(fractions[:needed]) == 0:
        expected = "the first two above 0, e.g. [0.7,0.1,0.2]" if needs_val else "the first above 0, e.g. [0.8,0,0.2]"
        raise ConfigError(
            f"split.fractions is {list(fractions)}; expected three shares (train, val, test) that sum to 1, {expected}"
        )
    wanted = sum(share > 0 for share in fractions)
    if len(groups) < wanted:
        raise ConfigError(
            f"there are too few groups, {len(groups)} ({', '.join(sorted(groups))}) for {wanted} parts, and a group is "
            "never divided; give more groups, or name them in split.val and split.test"
        )
    kinds = [[group for group in groups if (group in defective) == kind] for kind in (True, False)]
    if min(map(len, kinds)) < wanted:
        kinds = [list(groups)]
    drawn = [_draw(kind, fractions, seed) for kind in kinds]
    return Split(*(tuple(sorted(group for parts in drawn for group in parts[part])) for part in range(3)))


def _draw(groups: Sequence[str], fractions: Sequence[float], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Draw the groups of train, val and test, from at least as many groups as there are shares above 0."""
    drawn = sorted(groups, key=lambda group: sha256(f"{seed}:{group}".encode()).digest())
    val, test = (0 if share == 0 else max(1, round(share * len(drawn))) for share in fractions[1:])
    while val + test >= len(drawn):  # rounding up small shares may leave nothing to train on
        val, test = (val, test - 1) if test >= val else (val - 1, test)
    return drawn[val + test :], drawn[:val], drawn[val : val + test]


def _find(groups: Sequence[str], name: object) -> str:
    text = str(name)
    if text in groups:
        return text
    same = sorted(group for group in groups if group.isdecimal() and text.isdecimal() and int(group) == int(text))
    if not same:
        raise ConfigError(f"there is no group {text!r} to split off; the groups are {list_some(sorted(groups), 20)}")
    if len(same) > 1:
        raise ConfigError(f"group {text} could be any of {', '.join(same)}; write it in full, as {same[0]}")
    return same[0]


if TYPE_CHECKING:
    from heatline.train.models.explained import ExplainedClassifier


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A round of fine-tuning, see `heatline.train.dense.improve`."""

    steps: int
    seconds: float
    """From the start of the training until its end."""
    step_s: float
    """Seconds per step of all networks together."""
    predict_s: float
    figures: dict[str, float]
    """Of the cross-validation, as in `RunSummary.val`."""
    kept: bool
    """Whether it is better than the model before."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `run.json`."""

    finished: bool
    model: str
    recipe: str
    steps: int
    """Steps done so far."""
    best_step: int | None
    val: dict[str, float]
    """Metrics on the validation groups at the best step; empty before the first validation."""
    data: str
    """Name of the folder of pictures."""
    truth: str
    groups: dict[str, list[str]]
    """Groups of train, val and test."""
    labelled: Literal["tiles", "pictures"]
    """Whether the training labels are of tiles, from annotations, or of whole pictures (multiple-instance)."""
    tiles: dict[str, dict[str, int]]
    """Number of good, ambiguous and defective tiles of train and val."""
    weights: Provenance
    precision: str
    tiles_per_s: float | None
    """Training throughput without validation."""
    seconds: float
    """Duration of training and validation, including earlier starts of a resumed training."""
    versions: dict[str, str]
    digests: list[str] = []
    """From `digest_groups`, of the training groups; empty: an older version trained the run."""
    folds: int | None = None
    """Folds of the cross-validation; None: there was none, and `val` is measured on the validation groups."""
    not_validated: str | None = None
    """Why recipe `heatline` did not cross-validate, and what to do; None: it did, or an older version trained."""
    reference: ReferenceSummary | None = None
    """None: there was none."""
    top_cells: int | None = None
    """Number of highest map cells whose mean scores a tile; None: the model's own."""
    rounds: list[Round] = []
    """The first result, then that of each round of fine-tuning; empty without `minutes`, or if none has ended yet."""


class RunFolder:
    """The paths of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.summary = folder / "run.json"
        """A `RunSummary`."""
        self.metrics = folder / "metrics.csv"
        self.checkpoints = folder / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        """To resume from."""
        self.best = self.checkpoints / "best.ckpt"
        """The best on the validation groups, see `merit`."""
        self.rounds = self.checkpoints / "rounds.pt"
        """Networks of the last round of fine-tuning, to resume from."""
        self.cache = folder / "cache"
        """Decoded frames, until the training is finished."""
        self.out_of_fold = folder / "out_of_fold.npz"
        self.report = folder / "report"
        self.page = self.report / "report.html"

    def begin(self, config: TrainConfig) -> None:
        """Create the folder and write the configuration, unless a resumed run has it already."""
        make_folder(self.folder, "out=")
        if not (config.resume and self.config.exists()):  # rewriting it could fail on a full disk
            write_atomically(self.config, lambda file: write_config(config, file))

    def foreign_entry(self) -> str | None:
        """Return the name of a file or folder that no training wrote; None if there is none, or if this is a run."""
        if self.config.exists() or not self.folder.exists():
            return None
        entries = [entry for entry in self.folder.iterdir() if entry != self.cache]
        entries += [entry for entry in self.cache.glob("*") if entry.name not in FILES]
        return min((str(entry.relative_to(self.folder)) for entry in entries), default=None)

    def read_summary(self) -> RunSummary:
        """Read `run.json`; an InputError if it does not exist, or another version wrote it."""
        if self.config.exists() and not self.summary.exists():
            raise InputError(
                f"the training in {self.folder} is not finished; resume it with: heatline train out={self.folder} "
                "resume=true"
            )
        try:
            return msgspec.json.decode(self.summary.read_bytes(), type=RunSummary)
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(
                f"{self.folder} is not a run of `heatline train` ({error}); name the folder it wrote"
            ) from error

    def write_summary(self, summary: RunSummary) -> None:
        text = msgspec.json.format(encode_json(summary)) + b"\n"
        write_atomically(self.summary, lambda file: file.write_bytes(text))


@dataclass(frozen=True)
class TrainedRun:
    """A run with its data and its trained model."""

    folder: Path
    config: TrainConfig
    summary: RunSummary
    data: LabelledFolder
    split: Split
    model: "ExplainedClassifier"
    """Has the weights of the best checkpoint and is in evaluation mode."""

    @cached_property
    def references(self) -> References | None:
        """The references that its frames are compared with; None: the model compares with none."""
        found = self.summary.reference
        if found is None or not found.kept:
            return None
        images = tuple(self.split.images(self.data, "train"))
        references = References(found.scope, self.data.folder, images, None if found.file is None else Path(found.file))
        return references.on(self.data.folder, self.data.images)  # other groups are other designs


def require_model(path: Path) -> None:
    """Refuse a path that is neither the folder of a training nor a bundle."""
    if not (path / MANIFEST).exists() and not RunFolder(path).config.exists():
        what = "is neither a run nor a bundle" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; name a folder that `heatline train` or `heatline export` wrote")


def load_run(folder: Path, data: LabelledFolder | None = None) -> TrainedRun:
    """Load the run in a folder.

    Args:
        data: its pictures, if they are read already.
    Raises:
        InputError: it is not a run, or its pictures no longer exist.
        TrainingError: it has no best checkpoint yet, or the checkpoint is damaged.
    """
    import torch

    from heatline.train.models.build import build_model

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
            if (damaged := archive.testzip()) is not None:  # torch does not check the checksums
                raise ValueError(f"{damaged} in it is damaged")
        checkpoint: dict[str, Any] = torch.load(run.best, map_location="cpu", weights_only=True)
        prefix = "model."
        state = {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
        model.load_state_dict(state, strict=True)
    except Exception as error:  # a damaged file may raise anything
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise TrainingError(f"{run.best} cannot be loaded ({reason}); delete {folder} and train again") from error
    model.top_cells = summary.top_cells or model.top_cells
    split = Split(*(tuple(summary.groups[part]) for part in ("train", "val", "test")))
    return TrainedRun(folder, config, summary, data or read_data(config), split, model.eval())


def read_data(config: TrainConfig, report_line: Callable[[str], None] = lambda line: None) -> LabelledFolder:
    """Read the labelled pictures that a configuration names; errors as `read_as`.

    Its reviewed frames come after those of the folder.

    Args:
        report_line: gets what was discovered in the folder, for people.
    """
    found = discover(Path(config.data), config.truth) if config.discover else None
    for line in found.assumptions if found else ():
        report_line(line)
    data = read_as(describe_reading(config, config.truth), Path(config.data), config.truth, found)
    if config.reviewed is None:
        return data
    return replace(data, images=(*data.images, *read_reviewed(Path(config.reviewed))))


def describe_config(config: TrainConfig, *, compares: bool) -> dict[str, Any]:
    """Return the configuration for a bundle's provenance, so that the model can be trained again: without the run's own
    folder, and without `reference` unless the model compares frames with one."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    left_out = ("out", "resume") if compares else ("out", "resume", "reference")
    return {key: value for key, value in values.items() if key not in left_out}


def restore_config(values: object, out: Path) -> TrainConfig:
    """Return the configuration that `describe_config` described, for another run; a ValidationError if it is none."""
    described: dict[str, Any] = msgspec.convert(values, dict[str, Any])
    return msgspec.convert({**described, "out": str(out), "resume": False}, TrainConfig)


def describe_reading(config: TrainConfig, truth: str | None) -> dict[str, Any]:
    """Return how a run reads its pictures: the arguments of `read_as`, which a bundle's provenance stores.

    Args:
        truth: the truth that `classes` belong to.
    """
    return {
        "truth": truth,
        "classes": config.classes,
        "group": config.split.group,
        "pattern": config.split.pattern,
        "discover": config.discover,
        "mixed": isinstance(config.recipe, DenseRecipeConfig),
    }


def read_as(
    reading: Mapping[str, Any], folder: Path, truth: str | None, found: Discovery | None = None
) -> LabelledFolder:
    """Read a folder as a run reads its own; errors as `read_folder`.

    If the run discovered its groups, they are discovered again: the same version gives the same pictures the same
    groups, and another version may not.

    Args:
        reading: from `describe_reading`; missing keys have the defaults of `read_folder`.
        found: what `discover` found in the folder; None: it is called.
    """
    classes = reading.get("classes") if truth == reading.get("truth") else None
    mixed, group = reading.get("mixed", False), reading.get("group") or "group"
    if reading.get("discover"):
        return (found or discover(folder, truth)).read(classes, truth, mixed=reading.get("mixed", True))
    return read_folder(folder, truth, group, reading.get("pattern"), classes, mixed=mixed)


def split_data(config: TrainConfig, data: LabelledFolder) -> Split:
    """Split the groups by name if the configuration names any, else by fractions.

    A cross-validation trains and validates on all groups that are not split off for the test.

    Raises:
        ConfigError, InputError: as `split_by_name`, `split_by_fractions` and `LabelledFolder.groups`.
    """
    groups, split, needs_val = data.groups(), config.split, not isinstance(config.recipe, DenseRecipeConfig)
    if split.val or split.test:
        found = split_by_name(groups, split.val, split.test, needs_val=needs_val)
    else:
        defective = {str(image.group) for image in data.images if image.defective}
        found = split_by_fractions(groups, split.fractions, config.seed, defective, needs_val=needs_val)
    return found if needs_val else Split(tuple(sorted({*found.train, *found.val})), (), found.test)
