"""Keys of a search, which begin with `search.`; all other keys are those of the training."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError
from heatline.edge.util.validation import describe_misfit

Rate = Annotated[float, Meta(gt=0)]

PREFIX = "search."
_TEXTS = ("storage", "name")
"""Keys whose values are texts; all other values are YAML."""
_CHOSEN = {
    "recipe.lr": "the search chooses it; set its interval with search.lr=[1e-4,1e-2]",
    "recipe.batch": "the search chooses it; set the batch sizes with search.batches=[32,64]",
    "recipe.select": "a trial stores the checkpoint that is best by search.objective",
    "resume": "the same command, given again, continues the search",
}


class SearchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the search for a recipe's batch size and learning rate."""

    trials: Annotated[int, Meta(ge=1)] = 10
    """Number of trials of all workers; pruned trials count."""
    objective: Literal["accuracy", "average_precision"] = "accuracy"
    """Metric of the validation groups; a trial's value is the best of its validations."""
    batches: Annotated[list[Annotated[int, Meta(ge=2)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [32, 64]
    )
    """Batch sizes to choose among."""
    lr: tuple[Rate, Rate] | None = None
    """Lowest and highest learning rate, drawn log-uniformly; None: the recipe's interval for the model's family."""
    startup: Annotated[int, Meta(ge=0)] = 4
    """Number of trials that are drawn at random before TPE starts, and completed before any is pruned."""
    prune: bool = True
    """End a trial whose best validation so far is below the median of the others' at the same share of the training."""
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    """Share of a trial before which it is never pruned."""
    storage: str | None = None
    """URL of a database for Optuna, or `journal:FILE`; None: a SQLite file in the search's folder."""
    name: str | None = None
    """Name of the study in the storage; None: the model's name."""

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr[0] >= self.lr[1]:
            raise ValueError(f"the interval is {list(self.lr)}, expected the lower rate first: {sorted(self.lr)}")


class _Overrides(msgspec.Struct):
    """The outer level of the keys, so that messages name keys as users write them."""

    search: SearchConfig


def parse(overrides: Sequence[str]) -> tuple[SearchConfig, list[str]]:
    """Return the keys of the search, and the overrides that remain for `heatline.train.compose.compose`.

    Raises:
        ConfigError: a key is unknown or chosen by the search itself, or a value has the wrong type.
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
        read = msgspec.convert({"search": values}, _Overrides, strict=False)  # YAML reads 1e-4 as a text
    except msgspec.ValidationError as error:
        misfit = describe_misfit(error, {"search": values}, _Overrides)
        raise ConfigError(f"the command line does not fit a search: {misfit}") from error
    return read.search, others


def _read(key: str, text: str) -> Any:
    try:
        return msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{key}={text} is not YAML; expected a value such as 10 or [32,64]") from error
