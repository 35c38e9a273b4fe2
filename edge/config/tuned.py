"""The best engine settings that `heatline bench tune` found, in a file beside the line's, which overrides them.

They are used only with the bundle, processor, number of cores and engine version that they were measured with. With
others their effect is unknown, so a warning says that they are not used.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, replace

from heatline.edge.config.engine import EngineConfig, check_engine
from heatline.edge.errors import ConfigError
from heatline.edge.util.files import read_toml, replacing
from heatline.edge.util.process import cores, processor
from heatline.edge.util.validation import describe_misfit

SUFFIX = ".tuned.toml"
WRITTEN_BY = "heatline bench tune"
WHERE = ("kind", "device")
"""Keys of an engine for which all other settings were measured."""
MAX_BUNDLES = 16
DIGEST_DIGITS = 12
"""Digits of a digest in messages."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best settings for one bundle, and what they were measured with."""

    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a digest of 64 hexadecimal digits")]
    """The bundle's digest."""
    engine_version: str
    processor: str
    cores: int
    frames: list[str] = []
    """One entry per camera, such as `top 2448x2048 at 5/s`; for information only."""
    at_utc: str = ""
    engine: EngineConfig

    def find_mismatch(self, engine: EngineConfig, own: Collection[str]) -> str | None:
        """Return why these settings do not fit a line on this machine; None if they fit.

        Args:
            engine: the settings in the line's file.
            own: the keys that the file sets.
        """
        for key, is_now in measured_with(self.engine).items():
            if (was := getattr(self, key)) != is_now:
                return f"it was measured with {key.replace('_', ' ')} {was}, and this is {is_now}"
        for key in own:
            if key in WHERE and getattr(engine, key) != getattr(self.engine, key):
                return f"it is for {getattr(self.engine, key)}, and the line's file sets another engine.{key}"
        try:
            check_engine(replace(self.engine, **{key: getattr(engine, key) for key in own}))
        except ConfigError as error:
            return f"with the settings in the line's file, {error}"
        return None


class TunedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of the file of tuned settings."""

    tuned: list[Tuned]


@dataclass(frozen=True)
class EngineSelection:
    """The engine settings for a bundle, and where they come from."""

    settings: EngineConfig
    tuned_by: str | None = None
    """The file of tuned settings; None: there is no file, or it is not used."""
    not_tuned: str | None = None
    """Why the file of tuned settings is not used."""


@dataclass(frozen=True)
class TunedEngines:
    """The tuned settings beside a line's file."""

    path: Path
    all: Sequence[Tuned]
    """One for each bundle."""
    own: frozenset[str]
    """The keys of `[engine]` that the line's file sets."""

    def select(self, engine: EngineConfig, digest: str) -> EngineSelection:
        """Return the engine settings for a bundle.

        Args:
            engine: the settings in the line's file.
            digest: the bundle's digest.
        """
        found = next((each for each in self.all if each.bundle == digest), None)
        if found is None:
            mismatch: str | None = f"it holds nothing for bundle {digest[:DIGEST_DIGITS]}"
        else:
            mismatch = found.find_mismatch(engine, self.own)
            settings = replace(found.engine, **{key: getattr(engine, key) for key in self.own})
        if mismatch is None:
            return EngineSelection(settings, tuned_by=str(self.path))
        return EngineSelection(
            engine, not_tuned=f"{self.path} is not used: {mismatch}; run {WRITTEN_BY} again, or delete the file"
        )


def tuned_file(line: Path) -> Path:
    """Return the path of a line's file of tuned settings.

    >>> tuned_file(Path("/etc/heatline/line1.toml"))
    PosixPath('/etc/heatline/line1.tuned.toml')
    """
    return line.with_name(f"{line.stem}{SUFFIX}")


def read_tuned(path: Path) -> list[Tuned]:
    """Return the tuned settings of each bundle; none if there is no file.

    Raises:
        ConfigError: the file cannot be read, or is not one of `heatline bench tune`.
    """
    remedy = f"run {WRITTEN_BY} again, or delete the file"
    try:
        tables = read_toml(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); make it readable, or delete it") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; {remedy}") from error
    try:
        return msgspec.convert(tables, TunedFile).tuned
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {describe_misfit(error, tables, TunedFile)}; {remedy}") from error


def write_tuned(line: Path, tuned: Tuned) -> Path:
    """Write settings to a line's file of tuned settings, in place of those of the same bundle. The write is atomic.

    The file gets the permissions of the line's file.

    Raises:
        ConfigError: the existing file cannot be read.
        OSError: the file cannot be written.
    """
    path = tuned_file(line)
    others = [each for each in read_tuned(path) if each.bundle != tuned.bundle]
    text = (
        f"# Written by {WRITTEN_BY}. The line's own file overrides these settings of [engine]; see docs/tune.md.\n"
        + "".join(f"\n{_to_toml(each)}" for each in [*others[1 - MAX_BUNDLES :], tuned])
    )
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
        shutil.copymode(line, new)
        if os.geteuid() == 0:
            shutil.chown(new, line.stat().st_uid, line.stat().st_gid)
    return path


def measured_with(engine: EngineConfig) -> dict[str, Any]:
    """Return the engine version, processor and cores of this machine, for which settings measured here are valid."""
    from importlib.metadata import version  # imported here: a line without tuned settings starts faster

    return {"engine_version": f"{engine.kind} {version(engine.kind)}", "processor": processor(), "cores": cores()}


def _to_toml(tuned: Tuned) -> str:
    """Return a TOML table. TOML writes text, numbers and lists as JSON does."""
    keys = asdict(tuned)
    engine = asdict(keys.pop("engine"))
    return "\n".join(["[[tuned]]", *map(_key, keys.items()), "[tuned.engine]", *map(_key, engine.items())]) + "\n"


def _key(item: tuple[str, object]) -> str:
    return f"{item[0]} = {json.dumps(item[1])}"
