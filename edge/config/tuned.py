"""What `heatline bench tune` found best: a file beside the line's, which counts where the line's says nothing.

It holds for the bundle, the processor, the number of cores and the engine's version that it was measured with. On
others it is not used, and that is said: it may be any good there, and nobody knows.
"""

import json
import os
import shutil
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, replace

from edge.config.engine import EngineConfig, check_engine
from edge.errors import ConfigError
from edge.util.atomic_file import replacing
from edge.util.processor import cores, processor
from edge.util.validation import describe_misfit

SUFFIX = ".tuned.toml"
WRITTEN_BY = "heatline bench tune"
WHERE = ("kind", "device")
"""Keys of an engine that all others were measured for."""
MOST_KEPT = 16
NAMED = 12
"""Digits of a digest, for people."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best settings for one bundle, and what they were measured with."""

    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a digest of 64 hexadecimal digits")]
    """Its digest."""
    engine_version: str
    processor: str
    cores: int
    frames: list[str] = []
    """Of each camera, such as `top 2448x2048 at 5/s`, for people."""
    at_utc: str = ""
    engine: EngineConfig

    def why_not(self, engine: EngineConfig, own: Collection[str]) -> str | None:
        """Why it is not for a line on this machine, in words.

        Args:
            engine: as the line's file has it.
            own: keys that the file sets.
        """
        for key, is_now in made_with(self.engine).items():
            if (was := getattr(self, key)) != is_now:
                return f"it was measured with {key.replace('_', ' ')} {was}, and this is {is_now}"
        for key in own:
            if key in WHERE and getattr(engine, key) != getattr(self.engine, key):
                return f"it is for {getattr(self.engine, key)}, and the line's file sets engine.{key} otherwise"
        try:
            check_engine(replace(self.engine, **{key: getattr(engine, key) for key in own}))
        except ConfigError as error:
            return f"with what the line's file sets, {error}"
        return None


class TunedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it."""

    tuned: list[Tuned]


@dataclass(frozen=True)
class EngineInForce:
    """With which settings a bundle is inspected, and where from."""

    settings: EngineConfig
    tuned_by: str | None = None
    """The file that says what the line's leaves open; None: there is none, or it is not used."""
    not_tuned: str | None = None
    """Why one that is there is not used."""


@dataclass(frozen=True)
class TunedEngines:
    """What lies beside a line's file."""

    path: Path
    all: Sequence[Tuned]
    """By bundle."""
    own: frozenset[str]
    """Keys of `[engine]` that the line's file sets."""

    def in_force(self, engine: EngineConfig, digest: str) -> EngineInForce:
        """What a bundle is inspected with.

        Args:
            engine: as the line's file has it.
            digest: the bundle's.
        """
        found = next((each for each in self.all if each.bundle == digest), None)
        if found is None:
            why: str | None = f"nothing in it is for bundle {digest[:NAMED]}"
        else:
            why = found.why_not(engine, self.own)
            settings = replace(found.engine, **{key: getattr(engine, key) for key in self.own})
        if why is None:
            return EngineInForce(settings, tuned_by=str(self.path))
        return EngineInForce(engine, not_tuned=f"{self.path} is not used: {why}; run {WRITTEN_BY} again, or delete it")


def tuned_file(line: Path) -> Path:
    """Where it lies.

    >>> tuned_file(Path("/etc/heatline/line1.toml"))
    PosixPath('/etc/heatline/line1.tuned.toml')
    """
    return line.with_name(f"{line.stem}{SUFFIX}")


def read_tuned(path: Path) -> list[Tuned]:
    """What the file holds, by bundle; nothing where there is no file.

    Raises:
        ConfigError: it cannot be read, or is not what `heatline bench tune` writes.
    """
    mend = f"have {WRITTEN_BY} write it anew, or delete it"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); make it readable, or delete it") from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, and of numbers with thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}; {mend}") from error
    try:
        return msgspec.convert(tables, TunedFile).tuned
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {describe_misfit(error, tables, TunedFile)}; {mend}") from error


def write_tuned(line: Path, tuned: Tuned) -> Path:
    """Put settings into the file of a line, in place of those of the same bundle; whole or not at all.

    Whoever may read the line's file may read it.

    Raises:
        ConfigError: what is there cannot be read.
        OSError: it cannot be written.
    """
    path = tuned_file(line)
    others = [each for each in read_tuned(path) if each.bundle != tuned.bundle]
    text = (
        f"# Written by {WRITTEN_BY}, for what the line's own file leaves open under [engine]; docs/tune.md.\n"
        + "".join(f"\n{_to_toml(each)}" for each in [*others[1 - MOST_KEPT :], tuned])
    )
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
        shutil.copymode(line, new)
        if os.geteuid() == 0:
            shutil.chown(new, line.stat().st_uid, line.stat().st_gid)
    return path


def made_with(engine: EngineConfig) -> dict[str, Any]:
    """What settings hold for that are measured here and now, beside the bundle."""
    from importlib.metadata import version  # not above: a line without such a file starts the sooner

    return {"engine_version": f"{engine.kind} {version(engine.kind)}", "processor": processor(), "cores": cores()}


def _to_toml(tuned: Tuned) -> str:
    """A table of TOML, whose text, numbers and lists are written as in JSON."""
    keys = asdict(tuned)
    engine = asdict(keys.pop("engine"))
    return "\n".join(["[[tuned]]", *map(_key, keys.items()), "[tuned.engine]", *map(_key, engine.items())]) + "\n"


def _key(item: tuple[str, object]) -> str:
    return f"{item[0]} = {json.dumps(item[1])}"
