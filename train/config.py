"""What a training is told: Hydra puts it together from `configs/` and the command line, the structs here check it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from edge.errors import ConfigError

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Strength = Annotated[float, Meta(ge=0, le=1)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SplitConfig(_Part, frozen=True, kw_only=True):
    """How groups are told and divided."""

    group: str
    """Column of `labels.csv` that names the group."""
    pattern: str | None
    """Instead, a regular expression on the file name, its first parenthesis the group."""
    val: list[str | int | float]
    """Groups that choose the best checkpoint, by name."""
    test: list[str | int | float]
    """Groups that training never reads, by name."""
    fractions: list[float]
    """Shares of groups for train, val, test, where none is named."""


class TilesConfig(_Part, frozen=True, kw_only=True):
    """How frames are cut into labelled tiles."""

    tile_px: Annotated[int, Meta(ge=32, le=4096)]
    overlap_px: Natural
    defective_share: Annotated[float, Meta(ge=0, lt=1)]
    """A tile is defective if more than this share of its area is."""


class ModelConfig(_Part, frozen=True, kw_only=True):
    """A model by our name, and what it is made from."""

    name: str
    timm: str
    """The timm model, with its pretrained tag."""
    stride: Literal[16, 32]
    """Input px per map cell: features end at the last stage of this stride."""
    weights: str
    """"imagenet", "none" for a random start, or a file."""


class AugmentConfig(_Part, frozen=True, kw_only=True):
    """What is done to training tiles, each by itself; strengths as shares of the full range."""

    flips: bool
    rotate: bool
    """By 0, 90, 180 or 270 degrees."""
    brightness: Strength
    contrast: Strength
    gain: Strength
    """Per channel."""
    noise: Strength
    """Highest standard deviation, in a quarter of the tiles."""
    blur: bool
    """A light one, in a quarter of the tiles."""


class RecipeConfig(_Part, frozen=True, kw_only=True):
    """How a model is taught."""

    name: str
    steps: Positive
    batch: Annotated[int, Meta(ge=2)]
    validate_every: Positive
    """Steps between validations; the last step is always followed by one."""
    optimiser: Literal["adamw", "adam"]
    lr: Annotated[float, Meta(gt=0)]
    """The highest learning rate."""
    weight_decay: Annotated[float, Meta(ge=0)]
    schedule: Literal["cosine", "plateau"]
    """"cosine": up over the warm-up, then down to zero. "plateau": a tenth whenever validation loss stops falling."""
    warmup: Strength
    """Share of the steps over which a cosine schedule rises."""
    defective_share_of_batch: Share | None
    """None: tiles come as often as they are."""
    jitter_px: Natural
    """Tiles are taken up to so far from their place in the grid."""
    skip_ambiguous: bool
    """Whether tiles that are defective, but not enough to be called so, are left out of training."""
    precision: Literal["auto", "f32", "bf16"]
    augment: AugmentConfig


class TrainConfig(_Part, frozen=True, kw_only=True):
    """All of it, as `config.yaml` in the run's folder keeps it."""

    data: str
    truth: Literal["masks", "derived_masks", "boxes"] | None
    """Which annotation labels come from; None: the first that is there."""
    out: str
    seed: Natural
    resume: bool
    split: SplitConfig
    tiles: TilesConfig
    model: ModelConfig
    recipe: RecipeConfig


def compose(overrides: Sequence[str]) -> TrainConfig:
    """The configuration that Hydra overrides like `recipe.steps=500` make.

    With `resume=true` everything comes from the run's own `config.yaml`; what is also said again must agree with it.

    Raises:
        ConfigError: an unknown key, an unknown choice, a value of the wrong kind, or no `data`.
    """
    values = _compose(overrides)
    values["out"] = str(values["out"])
    if values["resume"] is True:
        return _resumed(values, overrides)
    if values["data"] is None:
        raise ConfigError("data is missing; name the folder of pictures: data=FOLDER")
    values["data"] = str(Path(str(values["data"])).resolve())
    return _convert(values, "the command line")


def write_config(config: TrainConfig, file: Path) -> None:
    file.write_bytes(msgspec.yaml.encode(config))


def read_config(file: Path) -> TrainConfig:
    """The configuration that a run was started with.

    Raises:
        ConfigError: no such file, or not of this version of heatline.
    """
    try:
        values = msgspec.yaml.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); name the folder of a run of `heatline train`") from error
    return _convert(values, str(file))


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("train.configs", version_base="1.3"):
            composed = compose("train", overrides=[_quote_text(item) for item in overrides])
        values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except MissingConfigException as error:
        choice = next((item for item in overrides if item.split("=")[0] in ("model", "recipe")), "a choice")
        group = choice.split("=")[0]
        raise ConfigError(f"{choice} is none of the choices: {', '.join(_choices(group))}") from error
    except (HydraException, OmegaConfBaseException) as error:
        key = next((item.split("=")[0] for item in overrides if not _exists(item.split("=")[0])), None)
        if key is None:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ConfigError(f"{' '.join(overrides)!r} cannot be understood: {reason}") from error
        raise ConfigError(f"there is no key {key!r}; {_what_exists(key)}") from error
    return values


def _quote_text(override: str) -> str:
    """Paths and patterns in quotes: else Hydra reads its grammar into their commas, equal signs and parentheses."""
    key, _, value = override.partition("=")
    if key not in ("data", "out", "split.group", "split.pattern", "model.weights") or value[:1] in ("", "'", '"'):
        return override
    if value == "null":
        return override
    return f"{key}='" + value.replace("'", "\\'") + "'"


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (Path(__file__).parent / "configs" / group).glob("*.yaml"))


def _fields(key: str) -> dict[str, Any] | None:
    """The keys below a dotted key ("" is the top); None if it is no part of the configuration, {} if it is a value."""
    kind: Any = TrainConfig
    for name in filter(None, key.split(".")):
        fields = get_type_hints(kind) if isinstance(kind, type) and issubclass(kind, _Part) else {}
        if name not in fields:
            return None
        kind = fields[name]
    return get_type_hints(kind) if isinstance(kind, type) and issubclass(kind, _Part) else {}


def _exists(key: str) -> bool:
    return _fields(key) is not None


def _what_exists(key: str) -> str:
    above = key.rpartition(".")[0]
    while not _exists(above):
        above = above.rpartition(".")[0]
    names = ", ".join(_fields(above) or ())
    return f"{above} has {names}" if above else f"there are {names}"


def _convert(values: dict[str, Any], where: str) -> TrainConfig:
    try:
        return msgspec.convert(values, TrainConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where} does not fit the configuration: {error}") from error


def _resumed(values: dict[str, Any], overrides: Sequence[str]) -> TrainConfig:
    file = Path(values["out"]) / "config.yaml"
    if not file.exists():
        raise ConfigError(
            f"{values['out']} holds no run to resume; start it without resume=true, or name its folder: out="
        )
    if values["data"] is not None:
        values["data"] = str(Path(str(values["data"])).resolve())
    saved = msgspec.to_builtins(read_config(file))
    for key in (item.split("=")[0] for item in overrides):
        came, was = _lookup(values, key), _lookup(saved, key)
        if key not in ("out", "resume") and came != was:
            raise ConfigError(
                f"{key} is {came} and was {was} when the run in {values['out']} started; resume it unchanged, or start "
                "another with out="
            )
    return _convert(saved | {"out": values["out"], "resume": True}, str(file))


def _lookup(values: Any, key: str) -> Any:
    """The value of a dotted key; of `model` and `recipe`, which choice it is."""
    for name in key.split("."):
        values = values[name]
    return values["name"] if key in ("model", "recipe") else values
