"""Storage of an Optuna study: a database, or a journal file that many machines append to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import NullPool, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from heatline.edge.errors import ConfigError, TrainingError
from heatline.edge.util.text import utf8_safe

HEARTBEAT_S = 60
GRACE_S = 180
"""A trial of another folder fails if it sends no heartbeat for this time; a journal has no heartbeats."""
_TRIES = 5
"""Attempts to open a storage that another worker is creating."""
_JOURNAL = "journal:"
_EXPECTED = (
    "expected the URL of a database that can be reached, e.g. sqlite:////srv/searches.db or "
    "postgresql+psycopg://user@host/database, or journal:FILE"
)


def open_storage(url: str) -> BaseStorage:
    """Open the storage at a URL, or at `journal:FILE`; call it within `opening_storage`."""
    if url.startswith(_JOURNAL):
        return JournalStorage(JournalFileBackend(str(Path(url.removeprefix(_JOURNAL)).resolve())))
    # SQLite allows one writer at a time; the others wait for up to so many seconds. Without a pool, each connection is
    # closed after its use.
    engine_kwargs = {"connect_args": {"timeout": 60}, "poolclass": NullPool} if url.startswith("sqlite") else None
    for attempt in range(_TRIES):
        try:
            return RDBStorage(url, engine_kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if attempt + 1 == _TRIES or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(0.1)  # until the other worker is done
    raise AssertionError("the last try returns or raises")


def hide_password(url: str) -> str:
    """Return the URL of a storage without its password.

    Raises:
        ConfigError: the text is neither the URL of a database nor a journal.
    """
    if url.startswith(_JOURNAL):
        return url
    try:
        return make_url(utf8_safe(url)).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise ConfigError(f"search.storage={url} is not the URL of a database; {_EXPECTED}") from error


@contextmanager
def opening_storage(url: str) -> Iterator[None]:
    """Translate the errors of opening a storage.

    Raises:
        ConfigError: the storage cannot be opened.
    """
    try:
        yield
    except (ImportError, SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if isinstance(error, ImportError):
            reason = f"its driver is not installed ({reason})"
        raise ConfigError(f"search.storage={hide_password(url)} cannot be opened: {reason}; {_EXPECTED}") from error


@contextmanager
def using_storage(url: str) -> Iterator[None]:
    """Translate the errors of an open storage.

    Raises:
        TrainingError: the storage does not answer any more.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise TrainingError(
            f"the storage {hide_password(url)} does not answer any more ({reason}); restore it, then give the "
            "same command again to continue"
        ) from error
