"""The Optuna study of a search: opened in its storage, and checked against the settings it was started with."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import optuna

from heatline.edge.errors import ConfigError
from heatline.edge.util.text import format_count
from heatline.train.config import TrainConfig
from heatline.train.run import read_data, split_data
from heatline.train.search.config import SearchConfig
from heatline.train.search.storage import open_storage, opening_storage

_SETTINGS = "settings"


def open_study(url: str, name: str, search: SearchConfig) -> optuna.Study:
    """Open the study of this name, or create it.

    Raises:
        ConfigError: the storage cannot be opened.
    """
    warm_up = round(PER_MILLE * search.warmup)
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_warmup_steps=warm_up)
        if search.prune
        else optuna.pruners.NopPruner()
    )
    with opening_storage(url):
        return optuna.create_study(
            storage=open_storage(url), study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )


PER_MILLE = 1000
"""Validations are reported at their share of the training, as steps per epoch depend on the batch size."""


def shared_settings(config: TrainConfig, search: SearchConfig, lr: tuple[float, float]) -> dict[str, Any]:
    """Return the settings that must be equal for all workers of a study, by key.

    Paths and devices may differ. Pictures are compared by the names, sizes and labels of those that train and validate;
    no picture is opened.
    """
    values = msgspec.to_builtins(config)
    for key in ("data", "out", "resume", "trainer", "logger"):
        del values[key]
    for key in ("lr", "lr_interval", "batch", "select"):
        values["recipe"].pop(key, None)
    values["search"] = {"objective": search.objective, "batches": sorted(set(search.batches)), "lr": lr} | {
        name: getattr(search, name) for name in ("startup", "prune", "warmup")
    }
    flat = dict(_flatten(values)) | {"data": _describe_data(config)}
    plain: dict[str, Any] = json.loads(json.dumps(flat))  # as the storage returns it
    return plain


def check_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Record the settings of a new study, or compare them with those of an existing one.

    Raises:
        ConfigError: the study was started with other settings.
    """
    if _SETTINGS not in study.user_attrs:
        study.set_user_attr(_SETTINGS, settings)
    stored = study.user_attrs[_SETTINGS]  # read again, as another worker may have written its settings meanwhile
    for key in sorted(settings.keys() | stored.keys()):
        if settings.get(key) != stored.get(key):
            raise ConfigError(
                f"{key} is {settings.get(key)} and was {stored.get(key)} when the search {study.study_name!r} was "
                "started; continue with the old value, or start another search with out= and search.name="
            )


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _describe_data(config: TrainConfig) -> str:
    data = read_data(config)
    split = split_data(config, data)
    digest = sha256(data.truth.encode())
    images = [(part, image) for part in ("train", "val") for image in split.images(data, part)]
    for part, image in images:
        sizes = [_size(file) for file in (image.path, *image.truth_files)]
        digest.update(
            f"{part}|{image.group}|{image.path.name}|{image.defective}|{sizes}\n".encode(errors="surrogateescape")
        )
    return f"{format_count(len(images), 'picture')} with {data.truth} (digest {digest.hexdigest()[:12]})"


def _size(file: Path) -> int:
    return file.stat().st_size
