"""Optuna's study: opened in its storage, and held to what it was started with."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import optuna

from edge.errors import ConfigError
from edge.util.text import format_count
from train.config import TrainConfig
from train.run import read_data, split_data
from train.search.config import SearchConfig
from train.search.storage import open_storage, storage_being_opened

_SETTINGS = "settings"


def open_study(url: str, name: str, search: SearchConfig) -> optuna.Study:
    """The study of that name, created if there is none.

    Raises:
        ConfigError: the storage cannot be opened.
    """
    warm_up = round(PER_MILLE * search.warmup)
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_warmup_steps=warm_up)
        if search.prune
        else optuna.pruners.NopPruner()
    )
    with storage_being_opened(url):
        return optuna.create_study(
            storage=open_storage(url), study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )


PER_MILLE = 1000
"""Validations are reported at their share of the training: batch sizes differ in their steps per epoch."""


def settings_of(config: TrainConfig, search: SearchConfig, lr: tuple[float, float]) -> dict[str, Any]:
    """What all workers of a study must agree on, by key: not where things lie, nor what a worker runs on.

    Pictures are told by names, sizes and labels of what trains and validates; none is opened.
    """
    values = msgspec.to_builtins(config)
    for key in ("data", "out", "resume", "trainer", "logger"):
        del values[key]
    for key in ("lr", "lr_interval", "batch", "select"):
        values["recipe"].pop(key, None)
    values["search"] = {"objective": search.objective, "batches": sorted(set(search.batches)), "lr": lr} | {
        name: getattr(search, name) for name in ("startup", "prune", "warmup")
    }
    flat = dict(_flattened(values)) | {"data": _described_data(config)}
    plain: dict[str, Any] = json.loads(json.dumps(flat))  # as the storage gives it back
    return plain


def hold_to_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Note what a new study is started with; an old one must have been started with the same.

    Raises:
        ConfigError: it was not.
    """
    if _SETTINGS not in study.user_attrs:
        study.set_user_attr(_SETTINGS, settings)
    was = study.user_attrs[_SETTINGS]  # read back: of two that began at once, one may have been overruled
    for key in sorted(settings.keys() | was.keys()):
        if settings.get(key) != was.get(key):
            raise ConfigError(
                f"{key} is {settings.get(key)} and was {was.get(key)} when the search {study.study_name!r} was "
                "started; go on with it unchanged, or start another with out= and search.name="
            )


def _flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _described_data(config: TrainConfig) -> str:
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
