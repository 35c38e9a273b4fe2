"""Changes the bundle in a line's file, and nothing else of it."""

import contextlib
import copy
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heatline.edge.bundle import open_bundle
from heatline.edge.config.line import load_config
from heatline.edge.errors import CommandRefusedError, ConfigError, HeatlineError, Interrupted
from heatline.edge.util.files import replacing, writing

_BUNDLE_LINE = re.compile(r"""^([ \t]*bundle[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.MULTILINE)


class BundleChange:
    """A change of a line's file that is undone if the line does not use it."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """Keep the change, unless the line refuses it: it has been asked to read the file."""
        self.kept = True


@contextlib.contextmanager
def changed_bundle(file: Path, bundle: Path, product: str | None) -> Iterator[BundleChange]:
    """Write a bundle into a line's file. After an error in the context, the file is restored, unless the line has been
    asked to read it and has not refused it, or somebody has changed the file.

    Args:
        product: whose bundle is written; None: the line's own.
    Raises:
        BundleError: the bundle is none.
        ConfigError: the file cannot be used or changed.
        Interrupted: Ctrl-C.
    """
    load_config(file)
    open_bundle(bundle)
    before = file.read_bytes()
    after = with_bundle(before.decode("utf-8-sig"), bundle, product, file).encode()
    change = BundleChange()
    try:
        _replace(file, after)
        yield change
    except BaseException as error:
        if change.kept and not isinstance(error, CommandRefusedError):
            state = f"{file} names {bundle} now"
        else:
            state = _restore(file, before, after)
        if isinstance(error, CommandRefusedError):
            raise CommandRefusedError(error.reason, f"{error.detail}; {state}") from error
        if isinstance(error, HeatlineError):
            raise type(error)(f"{error}; {state}") from error
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped; {state}") from error
        raise


def _restore(file: Path, before: bytes, after: bytes) -> str:
    """Restore a file, unless somebody has changed it since. Return a phrase that says what it holds."""
    found = file.read_bytes()
    if found not in (before, after):
        return f"{file} was changed meanwhile, and is left so: correct its bundle by hand"
    if found == after:
        _replace(file, before)
    return f"{file} is as before"


def with_bundle(text: str, bundle: Path, product: str | None, file: Path) -> str:
    """Return the text of a line's file with another bundle. Comments, order and all other keys stay.

    Of all lines that could be the key, it changes the one whose change gives the wanted tables, so that it needs no
    TOML parser that writes.

    Args:
        product: whose bundle is changed; None: the line's own.
        file: for messages.
    Raises:
        ConfigError: no line is the key.
    """
    wanted = copy.deepcopy(tomllib.loads(text))
    _owner(wanted, product, file)["bundle"] = str(bundle)
    for found in _BUNDLE_LINE.finditer(text):
        # TOML has no surrogate pairs, so only the characters that must be escaped are.
        changed = f"{text[: found.start(2)]}{json.dumps(str(bundle), ensure_ascii=False)}{text[found.end(2) :]}"
        with contextlib.suppress(tomllib.TOMLDecodeError, UnicodeEncodeError):
            changed.encode()
            if tomllib.loads(changed) == wanted:
                return changed
    where = "bundle" if product is None else f"bundle of product {product}"
    raise ConfigError(f'{file} has no line that sets {where}; write it there by hand: bundle = "{bundle}"')


def _owner(tables: dict[str, Any], product: str | None, file: Path) -> dict[str, Any]:
    if product is None:
        return tables
    for each in tables.get("products", []):
        if each.get("name") == product:
            found: dict[str, Any] = each
            return found
    if not tables.get("products"):
        raise ConfigError(f"{file} has no product {product!r}, as the line has no products; leave out --product")
    raise ConfigError(f"{file} has no product {product!r}; name one that it has, or leave --product out")


def _replace(file: Path, data: bytes) -> None:
    """Replace a file. It keeps its mode and owner, so that the line's user can still read it."""
    with writing(file, ConfigError), replacing(file) as new:
        status = file.stat()
        new.write_bytes(data)
        new.chmod(status.st_mode & 0o7777)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(new, status.st_uid, status.st_gid)
