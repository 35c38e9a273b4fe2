"""Plan of a study: its YAML file, the structs that check it, and its runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError
from heatline.train.config import TrainConfig

DEFAULT_PLAN = Path(__file__).parents[1] / "configs" / "study.yaml"
AUTO = "auto"
WHOLE_NETWORK = ("finetune", "study")
"""Recipes that train the whole network: they have a batch size and validate during the training."""
SPLIT = "split"
"""Name of the only fold of a data set that is split by fractions."""
RESERVED = ("locks", "report")
"""Folders of the study that are not data sets."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that can be a folder on any file system."""
Positive = Annotated[int, Meta(ge=1)]


class _PlanStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Budget(_PlanStruct, frozen=True, kw_only=True):
    """Budget of every training."""

    steps: Positive
    batch: Annotated[int, Meta(ge=2)]
    """Tiles per step."""
    validate_every: Positive
    """Steps between validations."""


class StudyModel(_PlanStruct, frozen=True, kw_only=True):
    """A model, by its name in `heatline train`."""

    name: Name
    weights: str = AUTO
    """A value of `model.weights`, or "auto": ImageNet weights if they can be downloaded, else a random start."""


class StudyData(_PlanStruct, frozen=True, kw_only=True):
    """A data set, and its split."""

    name: Name
    folder: str
    """Folder below the folder of all data sets."""
    truth: Literal["masks", "derived_masks", "polygons", "coco", "yolo", "boxes", "labels"] | None = None
    """Truth of the training; None: the first that the folder has."""
    group: str | None = None
    """Column of `labels.csv` that names groups; None: "group"."""
    pattern: str | None = None
    """Instead, a regular expression on file names; its first parenthesis is the group."""
    leave_one_out: Annotated[list[Name], Meta(min_length=3)] | None = None
    """Groups that are tested one at a time, in this order; None: one split by fractions."""

    def __post_init__(self) -> None:
        if self.name in RESERVED:
            raise ValueError(f"a data set cannot be called {self.name}, as the study has a folder of that name")
        if self.group is not None and self.pattern is not None:
            raise ValueError(f"{self.name} has group and pattern; expected one of them")
        _check_unique(f"leave_one_out of {self.name}", self.leave_one_out or [])

    def folds(self) -> list[str]:
        """Return the names of the folds, in the order of work."""
        return self.leave_one_out or [SPLIT]

    def settings(self, fold: str) -> dict[str, Any]:
        """Return the keys of `heatline train` that split the data for a fold.

        The group after the tested one in sorted order, and the first after the last, chooses the best checkpoint. All
        other groups train.
        """
        keys = {"truth": self.truth, "split.group": self.group, "split.pattern": self.pattern}
        chosen = {key: value for key, value in keys.items() if value is not None}
        if self.leave_one_out is None:
            return chosen
        order = sorted(self.leave_one_out)
        validating = order[(order.index(fold) + 1) % len(order)]
        return chosen | {"split.val": [validating], "split.test": [fold]}


class Plan(_PlanStruct, frozen=True, kw_only=True):
    """Plan of a study."""

    budget: Budget
    recipe: str = "finetune"
    seed: Annotated[int, Meta(ge=0)] = 0
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of the groups for train, val and test, for data sets without `leave_one_out`."""
    models: Annotated[list[StudyModel], Meta(min_length=1)]
    data: Annotated[list[StudyData], Meta(min_length=1)]
    settings: dict[str, Any] = {}
    """Further keys of `heatline train` for all runs, such as `trainer.precision`."""

    def __post_init__(self) -> None:
        _check_unique("models", [model.name for model in self.models])
        _check_unique("data", [data.name for data in self.data])
        if self.recipe not in WHOLE_NETWORK:
            raise ValueError(f"recipe is {self.recipe}, and a study trains whole networks; choose finetune or study")
        own = {"data", "out", "resume", "model.weights", "recipe.epochs", *self._own_settings(self.models[0])}
        own |= {"truth", "split.group", "split.pattern", "split.val", "split.test"}
        if fixed := sorted(own & self.settings.keys()):
            raise ValueError(f"settings has {fixed[0]}, which the study sets itself; leave it out")

    def runs(self) -> list["Run"]:
        """Return all runs in the order of work: every model on the first fold of every data set, then further folds."""
        rounds = zip_longest(*([(data, fold) for fold in data.folds()] for data in self.data))
        return [
            Run(data, fold, model, self._own_settings(model) | data.settings(fold) | self.settings)
            for each in rounds
            for data, fold in filter(None, each)
            for model in self.models
        ]

    def _own_settings(self, model: StudyModel) -> dict[str, Any]:
        return {
            "model": model.name,
            "recipe": self.recipe,
            "seed": self.seed,
            "split.fractions": list(self.fractions),
            "recipe.steps": self.budget.steps,
            "recipe.batch": self.budget.batch,
            "recipe.validate_every": self.budget.validate_every,
        }


@dataclass(frozen=True)
class Run:
    """One training of the study, and its evaluation."""

    data: StudyData
    fold: str
    model: StudyModel
    settings: dict[str, Any]
    """Keys of `heatline train` that the plan sets, with their values."""

    @property
    def name(self) -> str:
        """Its folder below the folder of the study."""
        return f"{self.data.name}/{self.fold}/{self.model.name}"

    @property
    def steps(self) -> int:
        """Number of steps of its training."""
        return int(self.settings["recipe.steps"])

    def overrides(self, data: Path, out: Path, weights: str) -> list[str]:
        """Return the overrides for `heatline.train.compose.compose` that start the training.

        Args:
            data: folder of all data sets.
            out: folder of the study.
            weights: value of `model.weights`.
        """
        keys = {"data": str(data / self.data.folder), "out": str(out / self.name), "model.weights": weights}
        return [f"{key}={_format_override(value)}" for key, value in (keys | self.settings).items()]

    def describe_difference(self, config: TrainConfig) -> str | None:
        """Describe the first setting of the plan that a training did not have; None if it had all.

        Keys of `trainer` and `logger` may differ.
        """
        values = msgspec.to_builtins(config)
        planned = {key: value for key, value in self.settings.items() if key.split(".")[0] not in ("trainer", "logger")}
        if self.model.weights != AUTO:
            planned["model.weights"] = self.model.weights
        for key, wanted in planned.items():
            trained = values
            for part in key.split("."):
                trained = trained[part] if isinstance(trained, dict) and part in trained else None
            if key in ("model", "recipe") and isinstance(trained, dict):
                trained = trained["name"]
            if _comparable(trained) != _comparable(wanted):
                return f"{key} is {wanted} in the plan and was {trained} in the training"
        return None


def read_plan(file: Path) -> Plan:
    """Read the plan in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or is not a plan.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}); name the plan of a study with --plan FILE"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is not a plan of a study: {reason}; docs/study.md describes its keys") from error


def _check_unique(where: str, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a name occurs twice."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where} has {repeated[0]} twice; each needs a unique name")


def _format_override(value: Any) -> str:
    """Format a value for `heatline.train.compose.compose`, which quotes texts."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_format_override, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _comparable(value: Any) -> Any:
    """Return a value for comparison; groups on a command line may have been read as numbers."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else value
