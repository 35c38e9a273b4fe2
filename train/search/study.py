"""Optuna's study: opened in its storage, and held to what it was started with."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from edge.errors import ConfigError, TrainingError
from train.config import TrainConfig
from train.run import read_data, split_data
from train.search.config import SearchConfig

HEARTBEAT_S = 60
GRACE_S = 180
"""A trial on another machine is given up if nothing was heard of it for so long, seconds."""
_SETTINGS = "settings"
_TRIES = 5
"""How often a storage is opened that another worker is creating at this moment."""


def open_study(url: str, name: str, search: SearchConfig) -> optuna.Study:
    """The study of that name, created if there is none.

    Raises:
        ConfigError: the storage cannot be opened.
    """
    shown = hide_password(url)
    warm_up = round(PER_MILLE * search.warmup)
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_warmup_steps=warm_up)
        if search.prune
        else optuna.pruners.NopPruner()
    )
    try:
        return optuna.create_study(
            storage=_open_storage(url), study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )
    except ImportError as error:
        reason = f"its driver is not installed ({error.__cause__ or error})"
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
    raise ConfigError(
        f"search.storage={shown} cannot be opened: {reason}; expected the URL of a database that can be reached, e.g. "
        "sqlite:////srv/searches.db or postgresql+psycopg://user@host/database"
    )


PER_MILLE = 1000
"""Validations are reported at their share of the training: batch sizes differ in their steps per epoch."""


def _open_storage(url: str) -> RDBStorage:
    # SQLite lets one write at a time; the others wait for so many seconds.
    engine_kwargs = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    for attempt in range(_TRIES):
        try:
            return RDBStorage(url, engine_kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if attempt + 1 == _TRIES or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
    raise AssertionError("the last try returns or raises")


def hide_password(url: str) -> str:
    """A storage's URL as it may be printed.

    Raises:
        ConfigError: it is no URL of a database.
    """
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise ConfigError(
            f"search.storage={url} is no URL of a database; expected e.g. sqlite:////srv/searches.db or "
            "postgresql+psycopg://user@host/database"
        ) from error


@contextmanager
def storage_at_work(url: str) -> Iterator[None]:
    """Tells of a storage that does not answer any more in one sentence.

    Raises:
        TrainingError: so.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise TrainingError(
            f"the storage {hide_password(url)} does not answer any more ({reason}); see to it, then give the same "
            "command again to go on"
        ) from error


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
        digest.update(f"{part}|{image.group}|{image.path.name}|{image.defective}|{sizes}\n".encode())
    return f"{len(images)} pictures with {data.truth} (digest {digest.hexdigest()[:12]})"


def _size(file: Path) -> int:
    return file.stat().st_size
