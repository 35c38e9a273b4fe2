"""What of a line's configuration can change while it runs.

Cameras whose own settings change, such as their exposure, are closed and opened, so that no frame has the wrong one.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import asdict

from edge.cameras.settings import CameraSettings
from edge.cameras.supervisor import SupervisedCamera
from edge.config import LineConfig
from edge.config.products import SET_IN_THE_CAMERA
from edge.errors import CameraError, ConfigError

EXCHANGEABLE = {"roi", "exclude", *SET_IN_THE_CAMERA}
"""Keys of cameras that need no restart."""

HELD_AT_MOST_SECONDS = 60.0


@contextlib.contextmanager
def reconfigure(
    cameras: Mapping[str, SupervisedCamera], before: Sequence[CameraSettings], after: Sequence[CameraSettings]
) -> Iterator[None]:
    """Cameras whose settings differ, opened with the new ones; they bring no frame before the end of the block.

    Frames that they announced before are brought, and are of the old settings.

    Raises:
        CameraError: one cannot be opened so; all have the settings before again.
    """
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if _own(old) != _own(new)]
    go_on = threading.Event()
    errors = _answers(_want(cameras, [new for _, new in pairs], go_on), len(pairs))
    if errors:
        at_once = threading.Event()
        at_once.set()
        # Wanted before the others go on, so that no frame of the refused settings is inspected.
        back = _want(cameras, [old for old, _ in pairs], at_once, keep_frames=False)
        go_on.set()
        _answers(back, len(pairs))
        raise CameraError("; ".join(errors))
    try:
        yield
    finally:
        go_on.set()


def _want(
    cameras: Mapping[str, SupervisedCamera],
    wanted: Sequence[CameraSettings],
    go_on: threading.Event,
    *,
    keep_frames: bool = True,
) -> "queue.SimpleQueue[str | None]":
    """Have cameras opened with these settings; each answers, and brings nothing until they may go on."""
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for settings in wanted:

        def opened(error: str | None, name: str = settings.name) -> None:
            said.put(None if error is None else f"camera {name}: {error}")
            go_on.wait(HELD_AT_MOST_SECONDS)

        cameras[settings.name].reconfigure(settings, opened, keep_frames=keep_frames)
    return said


def _answers(said: "queue.SimpleQueue[str | None]", count: int) -> list[str]:
    """What went wrong, once all have answered; each does, as an opening has its limit."""
    return [error for error in [said.get() for _ in range(count)] if error is not None]


def _own(settings: CameraSettings) -> dict[str, object]:
    """What the camera itself keeps."""
    return {key: getattr(settings, key, None) for key in SET_IN_THE_CAMERA}


def require_known(now: LineConfig, wanted: LineConfig) -> None:
    """See that of each setting of a camera that changes both values are known: else it could not be set back.

    Raises:
        ConfigError: one is not.
    """
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        for key in sorted(SET_IN_THE_CAMERA):
            if (getattr(old, key, None) is None) != (getattr(new, key, None) is None):
                was, is_now = ("not set", "is") if getattr(old, key) is None else ("set", "is not")
                raise ConfigError(
                    f"{key} of camera {old.name} was {was} and {is_now} now; restart the line to put that in force"
                )


def require_exchangeable(now: LineConfig, wanted: LineConfig) -> None:
    """See that nothing differs that only a restart can put in force.

    Raises:
        ConfigError: something does.
    """
    ours, theirs = _set_at_start(now), _set_at_start(wanted)
    for key in ours:
        if ours[key] != theirs[key]:
            raise ConfigError(
                f"{key} was {ours[key]!r} and is {theirs[key]!r} now; restart the line to put that in force"
            )
    names = [[camera.name for camera in config.cameras] for config in (now, wanted)]
    if names[0] != names[1]:
        raise ConfigError(
            f"the cameras were {', '.join(names[0])} and are {', '.join(names[1])} now; "
            "restart the line to put that in force"
        )
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        if type(old) is not type(new):
            raise ConfigError(f"camera {old.name} is of another kind now; restart the line to put that in force")
        differing = [
            key for key in old.__struct_fields__ if key not in EXCHANGEABLE and getattr(old, key) != getattr(new, key)
        ]
        if differing:
            raise ConfigError(
                f"{', '.join(differing)} of camera {old.name} changed; restart the line to put that in force"
            )


def _set_at_start(config: LineConfig) -> dict[str, object]:
    """Where the line's sockets and its journal are, and by which keys, by their names in its file."""
    tables = {"journal": config.journal, "security": config.security}
    found: dict[str, object] = {"events.bind": config.events.bind, "commands.bind": config.commands.bind}
    for name, table in tables.items():
        for key, value in asdict(table).items():
            found[f"{name}.{key}"] = str(value) if isinstance(value, Path) else value
    return found
