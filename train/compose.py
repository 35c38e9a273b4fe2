"""Composes and checks a training's configuration, from `configs/` and overrides, or from a run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.errors import ConfigError
from heatline.edge.util.validation import describe_misfit
from heatline.train.config import REFERENCE_WORDS, CnnConfig, DenseRecipeConfig, TrainConfig, VitConfig

DENSE = "_dense"
_CONFIGS = Path(__file__).parent / "configs"


def compose(overrides: Sequence[str]) -> TrainConfig:
    """Compose the configuration from overrides such as `recipe.steps=500`.

    `model` and `recipe` choose files of `configs/`; the other keys replace values of these and of `train.yaml`. With
    `resume=true` the run's own `config.yaml` is used; overrides must agree with it.

    Raises:
        ConfigError: an unknown key or choice, a value of the wrong type, no `data`, or an override that differs from
            the resumed run.
    """
    given = dict(item.partition("=")[::2] for item in overrides)
    values = _read_choices(given)
    for key, text in given.items():
        if key not in ("model", "recipe"):
            _replace(values, key, text)
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"recipe.{key}" in given and f"recipe.{other}" not in given and other in values["recipe"]:
            values["recipe"][other] = None
    _choose_head(values)
    values["data"] = values["data"] or ""
    values["out"] = values["out"] or f"runs/{values['model']['name']}"
    paths = (values, "data"), (values, "reviewed"), (values, "reference"), (values["features"], "folder")
    for part, key in (*paths, (values["model"], "weights")):
        if part[key] and part[key] not in (*REFERENCE_WORDS, "imagenet", "none"):
            part[key] = str(Path(part[key]).resolve())
    config = _convert(values, "the command line", strict=False)
    if config.resume:
        return _resumed(config, given)
    if not config.data:
        raise ConfigError("data is missing; name the folder of pictures: data=FOLDER")
    _refuse_what_has_no_effect(config)
    return config


def _read_choices(given: dict[str, str]) -> dict[str, Any]:
    """Return the values of `train.yaml` with those of the model and the recipe."""
    values: dict[str, Any] = _read_yaml(_CONFIGS / "train.yaml")
    name = given.get("recipe", values["recipe"])
    if name not in _choices("recipe"):
        raise ConfigError(f"recipe={name} is none of the choices: {', '.join(_choices('recipe'))}")
    model = read_model(given.get("model", values["model"]))
    recipe = _read_yaml(_CONFIGS / "recipe" / f"{name}.yaml")
    recipe |= recipe.pop("by_family", {}).get(model.family, {})
    values["split"]["fractions"] = recipe.pop("fractions")
    return values | {"model": msgspec.to_builtins(model), "recipe": recipe}


def _replace(values: dict[str, Any], key: str, text: str) -> None:
    """Replace the value of a dotted key: by a list or table if it is one, else by the text, which needs no quotes."""
    import yaml  # of the extra `train`; help and other commands work without it

    *above, last = key.split(".")
    part: Any = values
    for name in above:
        part = part.get(name, {}) if isinstance(part, dict) else {}
    if not isinstance(part, dict) or last not in part:
        raise ConfigError(
            f"there is no key {key!r} with recipe={values['recipe']['name']} and model={values['model']['name']}; "
            f"{'.'.join(above) or 'the configuration'} has {', '.join(part) or 'no keys'}"
        )
    if text == "null":
        part[last] = None
    elif isinstance(part[last], dict | list) or key == "classes":
        try:  # this loader leaves 08, 1e5, yes and null texts
            part[last] = yaml.load(text if text[:1] in ("[", "{") else f"[{text}]", Loader=yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}={text} cannot be understood; expected a list such as [a,b]") from error
    else:
        part[last] = text


def _choose_head(values: dict[str, Any]) -> None:
    """Give the model a dense head if the recipe trains one."""
    recipe, model = values["recipe"], values["model"]
    if recipe["kind"] == "dense":
        if model["family"] != "cnn":
            raise ConfigError(
                f"recipe={recipe['name']} trains a dense head on a CNN, and model={model['name']} is a ViT; choose "
                "recipe=finetune or study, or a CNN"
            )
        model |= {"head": "dense", "name": dense_name(model["name"])}
    elif model.get("head") == "dense":
        raise ConfigError(
            f"model={model['name']} has a dense head, and recipe={recipe['name']} trains none; choose "
            "recipe=heatline, or the model without _dense"
        )


def _refuse_what_has_no_effect(config: TrainConfig) -> None:
    """Refuse settings that the training would ignore."""
    for key, came, default in (("group", config.split.group, "group"), ("pattern", config.split.pattern, None)):
        if config.discover and came != default:
            raise ConfigError(
                f"split.{key}={came} came with discover=true, which finds groups itself; leave one of them out"
            )
    recipe, trainer, is_dense = config.recipe, config.trainer, isinstance(config.recipe, DenseRecipeConfig)
    of_dense: dict[str, tuple[object, tuple[object, ...]]] = {
        "trainer.precision": (trainer.precision, ("auto", "32-true", "bf16-mixed")),
        "trainer.accelerator": (trainer.accelerator, ("auto", "cpu")),
        "trainer.workers": (trainer.workers, (0,)),
        "recipe.finetune_steps": (0 if config.minutes is None else getattr(recipe, "finetune_steps", 0), (0,)),
    }
    of_whole_network: dict[str, tuple[object, tuple[object, ...]]] = {
        "reviewed": (config.reviewed, (None,)),
        "reference": (config.reference, ("auto", "off")),
        "minutes": (config.minutes, (None,)),
    }
    for key, (value, usable) in (of_dense if is_dense else of_whole_network).items():
        if value not in usable:
            raise ConfigError(
                f"{key}={value} cannot be used by recipe={recipe.name}; expected "
                f"{' or '.join(map(str, usable))}: leave it out, or choose recipe="
                f"{'finetune or study' if is_dense else 'heatline'}"
            )


def with_folder(overrides: Sequence[str], folder: str) -> list[str]:
    """Return overrides that train on a folder of pictures, and discover its truth and groups unless they name groups.

    A truth that they name replaces the discovered one.
    """
    keys = {item.partition("=")[0] for item in overrides}
    discover = [] if keys & {"discover", "split.group", "split.pattern", "resume"} else ["discover=true"]
    return [f"data={folder}", *discover, *overrides]


# PyYAML's own reader and writer escape the bytes of a file name that is not UTF-8; libyaml, and so msgspec, refuses it.


def _read_yaml(file: Path) -> Any:
    import yaml

    return yaml.load(file.read_bytes(), Loader=yaml.SafeLoader)


def write_config(config: TrainConfig, file: Path) -> None:
    import yaml

    text = yaml.dump(msgspec.to_builtins(config), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def read_config(file: Path) -> TrainConfig:
    """Read the configuration that a run was started with; a ConfigError if it is missing, or of another version."""
    import yaml

    try:
        values = _read_yaml(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} cannot be read ({reason}); name the folder of a run of `heatline train`") from error
    return _convert(values, str(file))


def read_model(name: str) -> CnnConfig | VitConfig:
    """Read a model's configuration by its file in `configs/model`, or by its timm name; a ConfigError if it is unknown.

    A CNN with a dense head has the CNN's name with `_dense` appended.
    """
    if name.endswith(DENSE):
        base = read_model(name.removesuffix(DENSE))
        if not isinstance(base, CnnConfig):
            raise ConfigError(f"model={name} is a ViT with a dense head, which only CNNs have; choose a CNN")
        return msgspec.structs.replace(base, name=dense_name(base.name), head="dense")
    if name in model_names():
        return msgspec.yaml.decode((_CONFIGS / "model" / f"{name}.yaml").read_bytes(), type=CnnConfig | VitConfig)
    from heatline.train.models.weights import default_config

    return default_config(name)


def dense_name(name: str) -> str:
    """Return the name of a CNN with a dense head; `_d` is dropped, as all of them end at stride 16."""
    return name.removesuffix(DENSE).removesuffix("_d") + DENSE


def model_names() -> list[str]:
    """List the models with a file in `configs/model`."""
    return _choices("model")


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (_CONFIGS / group).glob("*.yaml"))


def _convert(values: Any, where: str, *, strict: bool = True) -> TrainConfig:
    try:
        return msgspec.convert(values, TrainConfig, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{where} does not fit the configuration: {describe_misfit(error, values, TrainConfig)}"
        ) from error


def _resumed(config: TrainConfig, given: dict[str, str]) -> TrainConfig:
    """Return the configuration of the run in `config.out`, to be resumed."""
    file = Path(config.out) / "config.yaml"
    if not file.exists():
        raise ConfigError(
            f"{config.out} holds no run to resume; start it without resume=true, or name its folder: out="
        )
    saved = read_config(file)
    for key in given:
        came, was = _value_of(config, key), _value_of(saved, key)
        if came != was and key not in ("out", "resume"):
            raise ConfigError(
                f"{key} is {came} and was {was} when the run in {config.out} started; resume it unchanged, or start "
                "another with out="
            )
    return msgspec.structs.replace(saved, out=config.out, resume=True)


def _value_of(config: TrainConfig, key: str) -> Any:
    """Return the value of a dotted key; of `model` and `recipe`, the name."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value.name if key in ("model", "recipe") else value
