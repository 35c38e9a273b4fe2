"""What a study is told: a YAML file, the structs that check it, and the runs that follow from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.errors import ConfigError
from train.config import TrainConfig

DEFAULT_PLAN = Path(__file__).parents[1] / "configs" / "study.yaml"
AUTO = "auto"
WHOLE_NETWORK = ("finetune", "study")
"""Recipes that have a batch, and validate on the way."""
SPLIT = "split"
"""The one fold of a data set that is divided by fractions."""
RESERVED = ("locks", "report")
"""Folders beside those of the data sets."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""What can be a folder's name on any disk."""
Positive = Annotated[int, Meta(ge=1)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Budget(_Part, frozen=True, kw_only=True):
    """What every training may spend."""

    steps: Positive
    batch: Annotated[int, Meta(ge=2)]
    """Tiles per step."""
    validate_every: Positive
    """Steps between validations."""


class StudyModel(_Part, frozen=True, kw_only=True):
    """A model by its name for `heatline train`."""

    name: Name
    weights: str = AUTO
    """What `model.weights` takes, or "auto": ImageNet's if they can be had, else a random start."""


class StudyData(_Part, frozen=True, kw_only=True):
    """A data set, and how it is divided."""

    name: Name
    folder: str
    """In the folder of all data."""
    truth: Literal["masks", "derived_masks", "polygons", "coco", "boxes", "labels"] | None = None
    """What teaches; None: the first that is there."""
    group: str | None = None
    """Column of `labels.csv` that names the group; None: "group"."""
    pattern: str | None = None
    """Instead, a regular expression on the file name, its first parenthesis the group."""
    leave_one_out: Annotated[list[Name], Meta(min_length=3)] | None = None
    """Groups that are tested one at a time, in this order; None: one split by fractions."""

    def __post_init__(self) -> None:
        if self.name in RESERVED:
            raise ValueError(f"a data set cannot be called {self.name}, as a folder of the study is")
        if self.group is not None and self.pattern is not None:
            raise ValueError(f"{self.name} has group and pattern; expected one of them")
        _see_that_no_name_comes_twice(f"leave_one_out of {self.name}", self.leave_one_out or [])

    def folds(self) -> list[str]:
        """Names of the folds, in the order of work."""
        return self.leave_one_out or [SPLIT]

    def settings(self, fold: str) -> dict[str, Any]:
        """Keys of `heatline train` that divide the data for a fold.

        The group after the tested one, in sorted order and round again, chooses the best checkpoint; all others train.
        """
        told = {"truth": self.truth, "split.group": self.group, "split.pattern": self.pattern}
        named = {key: value for key, value in told.items() if value is not None}
        if self.leave_one_out is None:
            return named
        order = sorted(self.leave_one_out)
        validating = order[(order.index(fold) + 1) % len(order)]
        return named | {"split.val": [validating], "split.test": [fold]}


class Plan(_Part, frozen=True, kw_only=True):
    """The whole study."""

    budget: Budget
    recipe: str = "finetune"
    seed: Annotated[int, Meta(ge=0)] = 0
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of the groups for train, val, test, where none are left out one at a time."""
    models: Annotated[list[StudyModel], Meta(min_length=1)]
    data: Annotated[list[StudyData], Meta(min_length=1)]
    settings: dict[str, Any] = {}
    """Further keys of `heatline train`, the same for all runs, such as `trainer.precision`."""

    def __post_init__(self) -> None:
        _see_that_no_name_comes_twice("models", [model.name for model in self.models])
        _see_that_no_name_comes_twice("data", [data.name for data in self.data])
        if self.recipe not in WHOLE_NETWORK:
            raise ValueError(f"recipe is {self.recipe}, and a study trains whole networks; choose finetune or study")
        own = {"data", "out", "resume", "model.weights", "recipe.epochs", *self._own_settings(self.models[0])}
        own |= {"truth", "split.group", "split.pattern", "split.val", "split.test"}
        if taken := sorted(own & self.settings.keys()):
            raise ValueError(f"settings has {taken[0]}, which the study sets itself; leave it out")

    def runs(self) -> list["Run"]:
        """All runs, in the order of work: every model on the first fold of every data set, then further folds."""
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
    """Keys of `heatline train` that the plan says, with their values."""

    @property
    def name(self) -> str:
        """Its folder in that of the study."""
        return f"{self.data.name}/{self.fold}/{self.model.name}"

    @property
    def steps(self) -> int:
        """That it shall train."""
        return int(self.settings["recipe.steps"])

    def overrides(self, data: Path, out: Path, weights: str) -> list[str]:
        """What `train.compose.compose` takes to begin it.

        Args:
            data: the folder of all data sets.
            out: the study's folder.
            weights: for `model.weights`.
        """
        told = {"data": str(data / self.data.folder), "out": str(out / self.name), "model.weights": weights}
        return [f"{key}={_as_hydra_reads(key, value)}" for key, value in (told | self.settings).items()]

    def difference(self, config: TrainConfig) -> str | None:
        """In words, the first of the plan's settings that a run was not trained with; None if it had all.

        What it ran on, and where its metrics went, does not matter.
        """
        values = msgspec.to_builtins(config)
        asked = {key: value for key, value in self.settings.items() if key.split(".")[0] not in ("trainer", "logger")}
        if self.model.weights != AUTO:
            asked["model.weights"] = self.model.weights
        for key, wanted in asked.items():
            was = values
            for part in key.split("."):
                was = was[part] if isinstance(was, dict) and part in was else None
            if key in ("model", "recipe") and isinstance(was, dict):
                was = was["name"]
            if _comparable(was) != _comparable(wanted):
                return f"{key} is {wanted} in the plan and was {was} in the training"
        return None


def read_plan(file: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        ConfigError: it cannot be read, or is no plan.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name the plan of a study: --plan FILE") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is no plan of a study: {reason}; docs/study.md describes its keys") from error


def _see_that_no_name_comes_twice(where: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where} has {twice[0]} twice; each needs a name of its own")


def _as_hydra_reads(key: str, value: Any) -> str:
    """A value in Hydra's grammar: texts in quotes, so that nothing is read into them, but for choices of a file."""
    if isinstance(value, str):
        return value if key in ("model", "recipe", "logger") else "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_as_hydra_reads("", item) for item in value) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


def _comparable(value: Any) -> Any:
    """Groups that were named on a command line may have been read as numbers."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else value
