"""What a search is told: keys that begin with `search.`; all others are the training's."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.errors import ConfigError
from edge.util.validation import describe_misfit

Rate = Annotated[float, Meta(gt=0)]

PREFIX = "search."
_TEXTS = ("storage", "name")
"""Taken as they are written; all other values are YAML."""
_CHOSEN = {
    "recipe.lr": "the search chooses it: say where with search.lr=[1e-4,1e-2]",
    "recipe.batch": "the search chooses it: say among which with search.batches=[32,64]",
    "recipe.select": "a trial keeps the checkpoint that is best by search.objective",
    "resume": "the same command, given again, goes on by itself",
}


class SearchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a recipe's batch size and learning rate are searched for."""

    trials: Annotated[int, Meta(ge=1)] = 10
    """How many, all workers together; pruned ones count."""
    objective: Literal["accuracy", "average_precision"] = "accuracy"
    """On the validation groups, the best of a trial's validations."""
    batches: Annotated[list[Annotated[int, Meta(ge=2)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [32, 64]
    )
    """Batch sizes to choose among."""
    lr: tuple[Rate, Rate] | None = None
    """Lowest and highest learning rate, drawn log-uniformly; None: the recipe's interval for the model's family."""
    startup: Annotated[int, Meta(ge=0)] = 4
    """Trials drawn at random before TPE models what is good, and completed before any is pruned."""
    prune: bool = True
    """End a trial whose best validation so far is below the median of the others' at the same share of the training."""
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    """Share of a trial that is never judged."""
    storage: str | None = None
    """Any database URL of Optuna's, or `journal:FILE`; None: a SQLite file in the search's folder."""
    name: str | None = None
    """The study's, in a storage that holds several; None: the model's."""

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr[0] >= self.lr[1]:
            raise ValueError(f"the interval is {list(self.lr)}, expected the lower rate first: {sorted(self.lr)}")


class _Whole(msgspec.Struct):
    search: SearchConfig
    """So that messages name keys as they are written."""


def parse(overrides: Sequence[str]) -> tuple[SearchConfig, list[str]]:
    """The search's own keys, and what is left for `train.compose.compose`.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind, or a key that the search chooses itself.
    """
    values: dict[str, Any] = {}
    others = []
    for item in overrides:
        key, is_assigned, text = item.partition("=")
        if key in _CHOSEN:
            raise ConfigError(f"{item} cannot be given to a search: {_CHOSEN[key]}")
        if not key.startswith(PREFIX):
            others.append(item)
            continue
        name = key.removeprefix(PREFIX)
        if name not in SearchConfig.__struct_fields__:
            raise ConfigError(f"there is no key {key!r}; search has {', '.join(SearchConfig.__struct_fields__)}")
        if not is_assigned or not text:
            raise ConfigError(f"{item!r} has no value; expected {key}=VALUE")
        values[name] = text if name in _TEXTS else _read(key, text)
    try:
        whole = msgspec.convert({"search": values}, _Whole, strict=False)  # YAML takes 1e-4 for a text
    except msgspec.ValidationError as error:
        misfit = describe_misfit(error, {"search": values}, _Whole)
        raise ConfigError(f"the command line does not fit a search: {misfit}") from error
    return whole.search, others


def _read(key: str, text: str) -> Any:
    try:
        return msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{key}={text} cannot be understood; expected a value such as 10 or [32,64]") from error
