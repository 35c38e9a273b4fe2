"""Composes and checks a training's configuration, with Hydra from `configs/` or from a run's folder."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from heatline.edge.errors import ConfigError
from heatline.edge.util.validation import describe_misfit
from heatline.train.config import REFERENCE_WORDS, CnnConfig, Names, Part, TrainConfig, VitConfig

# YAML of a run's files, with PyYAML's own reader and writer.
#
# libyaml, which msgspec uses, refuses a file name that is not UTF-8. PyYAML's writer escapes its bytes, and its reader
# restores them.

T = TypeVar("T")


def encode_yaml(value: object) -> bytes:
    """Encode a struct as YAML in UTF-8."""
    import yaml  # of the extra `train`; help and other commands work without it

    text: str = yaml.dump(msgspec.to_builtins(value), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def decode_yaml(data: bytes, kind: type[T]) -> T:
    """Decode the output of `encode_yaml`.

    Raises:
        msgspec.MsgspecError: it is no YAML, or does not match `kind`.
    """
    import yaml

    try:
        values = yaml.load(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return msgspec.convert(values, kind)


DENSE = "_dense"
_TEXT: tuple[Any, ...] = (str, str | None)
"""Types of keys whose values are plain text, which Hydra must not parse."""
_NAMES: tuple[Any, ...] = (Names, Names | None)
"""Types of keys whose values are lists of names, all of them text: 08, 1e5, 597500_315, yes, null."""
_NAME = re.compile(r"""'((?:\\'|[^'])*)'|"([^"]*)"|([^,\s][^,]*)""")
_HELPERS = {"recipe.width": "model.width", "recipe.fractions": "split.fractions"}
"""Keys of recipes whose values go to other keys."""
_DENSE_PRECISIONS = ("auto", "32-true", "bf16-mixed")


def compose(overrides: Sequence[str]) -> TrainConfig:
    """Compose the configuration from Hydra overrides such as `recipe.steps=500`.

    With `resume=true` the run's own `config.yaml` is used; overrides must agree with it.

    Raises:
        ConfigError: an unknown key or choice, a value of the wrong type, no `data`, or an override that differs from
            the resumed run.
    """
    values = _compose(_either_steps_or_epochs(overrides))
    values["out"] = str(values["out"])
    if values["resume"] is True:
        return _resumed(values, overrides)
    if values["data"] is None:
        raise ConfigError("data is missing; name the folder of pictures: data=FOLDER")
    _resolve_paths(values)
    _refuse_what_has_no_effect(values)
    return _convert(values, "the command line")


def _resolve_paths(values: dict[str, Any]) -> None:
    for key in ("data", "reviewed", "reference"):
        if values[key] not in (None, *REFERENCE_WORDS):
            values[key] = str(Path(str(values[key])).resolve())


def with_recipe(overrides: Sequence[str], name: str) -> list[str]:
    """Return overrides that choose this recipe, unless they already choose one."""
    chosen = any(item.startswith("recipe=") for item in overrides)
    return [*overrides] if chosen else [f"recipe={name}", *overrides]


def with_folder(overrides: Sequence[str], folder: str) -> list[str]:
    """Return overrides that train on a folder of pictures, and discover its truth and groups unless they name groups.

    A truth that they name replaces the discovered one.
    """
    names_groups = any(
        item.partition("=")[0] in ("discover", "split.group", "split.pattern", "resume") for item in overrides
    )
    return [f"data={folder}", *([] if names_groups else ["discover=true"]), *overrides]


def write_config(config: TrainConfig, file: Path) -> None:
    file.write_bytes(encode_yaml(config))


def read_config(file: Path) -> TrainConfig:
    """Read the configuration that a run was started with.

    Raises:
        ConfigError: the file does not exist, or another version of heatline wrote it.
    """
    try:
        values = decode_yaml(file.read_bytes(), dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); name the folder of a run of `heatline train`") from error
    return _convert(values, str(file))


def read_model(name: str) -> CnnConfig | VitConfig:
    """Read a model's configuration by its file in `configs/model`, or by its timm name (any CNN or plain ViT).

    A CNN with a dense head has the CNN's name with `_dense` appended.

    Raises:
        ConfigError: the name is unknown, or names a ViT with a dense head.
    """
    if name.endswith(DENSE):
        base = read_model(name.removesuffix(DENSE))
        if not isinstance(base, CnnConfig):
            raise ConfigError(f"model={name} is a ViT with a dense head, which only CNNs have; choose a CNN")
        return msgspec.structs.replace(base, name=dense_name(base.name), head="dense")
    if name in _choices("model"):
        file = Path(__file__).parent / "configs" / "model" / f"{name}.yaml"
        return msgspec.yaml.decode(file.read_bytes(), type=CnnConfig | VitConfig)
    from heatline.train.models.weights import default_config

    found = default_config(name)
    if found is None:
        raise ConfigError(
            f"model={name} is none of the choices: {', '.join(_choices('model'))}; nor does timm know it, see "
            "timm.list_models()"
        )
    return found


def dense_name(name: str) -> str:
    """Return the name of a CNN with a dense head; `_d` is dropped, as all of them end at stride 16."""
    return name.removesuffix(DENSE).removesuffix("_d") + DENSE


def model_names() -> list[str]:
    """List the models with a file in `configs/model`."""
    return _choices("model")


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for named in map(_key_of, overrides):
        if named.split(".")[0] == "hydra":  # Hydra would accept the key without effect
            raise _no_such_key(named)
    for choice in (item.removeprefix("model=").strip("'\"") for item in overrides if item.startswith("model=")):
        if choice not in _choices("model"):
            ConfigStore.instance().store(group="model", name=choice, node=msgspec.to_builtins(read_model(choice)))
    try:
        with initialize_config_module("heatline.train.configs", version_base="1.3"):
            composed = compose("train", overrides=[_quote_text(item) for item in overrides])
        values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
        for helper in ("by_family", "fractions"):  # other keys refer to these
            values["recipe"].pop(helper, None)
        _choose_head(values)
        if not any(item.startswith("out=") for item in overrides):
            values["out"] = f"runs/{values['model']['name']}"
    except MissingConfigException as error:
        # Models without a file here were handled above.
        groups = [(item, item.split("=")[0]) for item in overrides if item.split("=")[0] == "recipe"]
        wrong = [(item, group) for item, group in groups if item.partition("=")[2].strip("'\"") not in _choices(group)]
        choice, group = wrong[0] if wrong else ("a choice", "recipe")
        raise ConfigError(f"{choice} is none of the choices: {', '.join(_choices(group))}") from error
    except (HydraException, OmegaConfBaseException) as error:
        keys = [_key_of(item) for item in overrides]
        key = next((key for key in keys if not _exists(key)), None)
        if key is None:
            reason = str(error.__cause__ or error).splitlines()[0]
            other = "; another model or recipe has it" if "not in struct" in reason else ""
            raise ConfigError(f"{' '.join(overrides)!r} cannot be understood: {reason}{other}") from error
        raise _no_such_key(key) from error
    return values


def _choose_head(values: dict[str, Any]) -> None:
    """Give the model a dense head if the recipe trains one.

    Raises:
        ConfigError: the model is no CNN, or has a dense head that the recipe does not train.
    """
    recipe, model = values["recipe"], values["model"]
    if recipe["kind"] != "dense":
        if model.get("head") == "dense":
            raise ConfigError(
                f"model={model['name']} has a dense head, and recipe={recipe['name']} trains none; choose "
                "recipe=heatline, or the model without _dense"
            )
        return
    recipe.pop("epochs", None)  # see `_either_steps_or_epochs`
    if model["family"] != "cnn":
        raise ConfigError(
            f"recipe={recipe['name']} trains a dense head on a CNN, and model={model['name']} is a ViT; choose "
            "recipe=finetune or study, or a CNN"
        )
    model |= {"head": "dense", "width": recipe.pop("width"), "name": dense_name(model["name"])}


def _refuse_what_has_no_effect(values: dict[str, Any]) -> None:
    """Refuse settings that the training would ignore.

    Raises:
        ConfigError: there are any.
    """
    split, recipe = values["split"], values["recipe"]
    for key, default in (("group", "group"), ("pattern", None)):
        if values["discover"] is True and split[key] != default:
            raise ConfigError(
                f"split.{key}={split[key]} came with discover=true, which finds groups itself; leave one of them out"
            )
    if recipe["kind"] != "dense":
        if values["reviewed"] is not None:
            raise ConfigError(
                f"reviewed={values['reviewed']} came with recipe={recipe['name']}, which cannot use points of missed "
                "defects; choose recipe=heatline"
            )
        if values["reference"] not in ("auto", "off"):
            raise ConfigError(
                f"reference={values['reference']} came with recipe={recipe['name']}, which compares frames with none; "
                "choose recipe=heatline"
            )
        return
    if (precision := values["trainer"]["precision"]) not in _DENSE_PRECISIONS:
        raise ConfigError(
            f"recipe={recipe['name']} cannot train in trainer.precision={precision}; expected one of "
            f"{', '.join(_DENSE_PRECISIONS)}"
        )
    runs_on = {
        "trainer.accelerator": (values["trainer"]["accelerator"], ("auto", "cpu")),
        "trainer.workers": (values["trainer"]["workers"], (0,)),
    }
    for key, (came, expected) in runs_on.items():
        if came not in expected:
            raise ConfigError(
                f"{key}={came} has no effect on recipe={recipe['name']}, which trains on the CPU in one process; "
                f"expected {key}={expected[0]}: leave it out, or choose recipe=finetune or study"
            )


def _either_steps_or_epochs(overrides: Sequence[str]) -> list[str]:
    """If the overrides set one of `recipe.steps` and `recipe.epochs`, set the other to null."""
    named = {item.split("=")[0] for item in overrides}
    both = ("recipe.steps", "recipe.epochs")
    nulls = [
        f"++{key}=null" for key, other in zip(both, both[::-1], strict=True) if other in named and key not in named
    ]
    return [*overrides, *nulls]


def _quote_text(override: str) -> str:
    """Quote texts: Hydra's grammar would parse commas, equal signs, parentheses, and numbers."""
    key, _, value = override.partition("=")
    above, _, last = key.rpartition(".")
    kind = (_fields(above) or {}).get(last)
    if kind in _NAMES and value != "null" and (value[:1] != "[" or value[-1:] == "]"):
        found = ["".join(name).strip() for name in _NAME.findall(value.removeprefix("[").removesuffix("]"))]
        return f"{key}=[{','.join(_quoted(name) for name in found)}]"
    if kind not in _TEXT or value[:1] in ("", "'", '"') or value == "null":
        return override
    return f"{key}={_quoted(value)}"


def _quoted(text: str) -> str:
    return "'" + re.sub(r"(?<!\\)'", r"\\'", text) + "'"


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (Path(__file__).parent / "configs" / group).glob("*.yaml"))


def _fields(key: str) -> dict[str, Any] | None:
    """Return the keys below a dotted key ("" is the root); None if the key does not exist, {} if it is a value."""
    fields = get_type_hints(TrainConfig)
    for name in filter(None, key.split(".")):
        if name not in fields:
            return None
        kinds = get_args(fields[name]) or (fields[name],)  # a model's type is a union of its families
        parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)]
        fields = {name: kind for part in parts for name, kind in get_type_hints(part).items()}
    return fields


def _exists(key: str) -> bool:
    return _fields(key) is not None


def _key_of(override: str) -> str:
    """Return the key of an override, without Hydra's signs that add or delete one."""
    return override.partition("=")[0].lstrip("+~")


def _no_such_key(key: str) -> ConfigError:
    above = key.rpartition(".")[0]
    above = above if _exists(above) else ""
    return ConfigError(f"there is no key {key!r}; {above or 'the configuration'} has {', '.join(_fields(above) or ())}")


def _convert(values: dict[str, Any], where: str) -> TrainConfig:
    try:
        return msgspec.convert(values, TrainConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{where} does not fit the configuration: {describe_misfit(error, values, TrainConfig)}"
        ) from error


def _resumed(values: dict[str, Any], overrides: Sequence[str]) -> TrainConfig:
    file = Path(values["out"]) / "config.yaml"
    if not file.exists():
        raise ConfigError(
            f"{values['out']} holds no run to resume; start it without resume=true, or name its folder: out="
        )
    _resolve_paths(values)
    saved = msgspec.to_builtins(read_config(file))
    for item in overrides:
        key = _key_of(item)
        key = _HELPERS.get(key, key)
        if not _exists(key):
            raise _no_such_key(key)
        came, was = _lookup(values, key), _lookup(saved, key)
        if key not in ("out", "resume") and came != was:
            raise ConfigError(
                f"{key} is {came} and was {was} when the run in {values['out']} started; resume it unchanged, or start "
                "another with out="
            )
    return _convert(saved | {"out": values["out"], "resume": True}, str(file))


def _lookup(values: Any, key: str) -> Any:
    """Return the value of a dotted key; for `model` and `recipe`, the name of the choice."""
    for name in key.split("."):
        values = values.get(name)
    return values["name"] if key in ("model", "recipe") else values
