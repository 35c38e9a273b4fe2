"""Where Optuna keeps a study: a database, or a journal file that many machines append to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from edge.errors import ConfigError, TrainingError
from edge.util.text import utf8_safe

HEARTBEAT_S = 60
GRACE_S = 180
"""A trial of another folder is given up if nothing was heard of it for so long, seconds; a journal hears nothing."""
_TRIES = 5
"""How often a storage is opened that another worker is creating at this moment."""
_JOURNAL = "journal:"
_EXPECTED = (
    "expected the URL of a database that can be reached, e.g. sqlite:////srv/searches.db or "
    "postgresql+psycopg://user@host/database, or journal:FILE"
)


def open_storage(url: str) -> BaseStorage:
    """The storage of that URL, or of `journal:FILE`; within `storage_being_opened`."""
    if url.startswith(_JOURNAL):
        return JournalStorage(JournalFileBackend(str(Path(url.removeprefix(_JOURNAL)).resolve())))
    # SQLite lets one write at a time; the others wait for so many seconds.
    engine_kwargs = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    for attempt in range(_TRIES):
        try:
            return RDBStorage(url, engine_kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if attempt + 1 == _TRIES or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(0.1)  # until the other is done
    raise AssertionError("the last try returns or raises")


def hide_password(url: str) -> str:
    """A storage's URL as it may be printed.

    Raises:
        ConfigError: it is no URL of a database, and no journal.
    """
    if url.startswith(_JOURNAL):
        return url
    try:
        return make_url(utf8_safe(url)).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise ConfigError(f"search.storage={url} is no URL of a database; {_EXPECTED}") from error


@contextmanager
def storage_being_opened(url: str) -> Iterator[None]:
    """Tells of a storage that cannot be opened in one sentence.

    Raises:
        ConfigError: so.
    """
    try:
        yield
    except (ImportError, SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if isinstance(error, ImportError):
            reason = f"its driver is not installed ({reason})"
        raise ConfigError(f"search.storage={hide_password(url)} cannot be opened: {reason}; {_EXPECTED}") from error


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
