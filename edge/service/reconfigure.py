"""Changes the cameras of a running line, and refuses changes that need a restart.

Cameras whose own settings change, such as the exposure, are closed and opened again, so that each frame has the right
one.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import asdict

from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.config import LineConfig
from heatline.edge.config.products import SET_IN_THE_CAMERA
from heatline.edge.errors import CameraError, ConfigError

EXCHANGEABLE = {"roi", "exclude", *SET_IN_THE_CAMERA}
"""Keys of cameras that can change without a restart."""

HELD_AT_MOST_SECONDS = 60.0


@contextlib.contextmanager
def reconfigure(
    cameras: Mapping[str, SupervisedCamera], before: Sequence[CameraSettings], after: Sequence[CameraSettings]
) -> Iterator[None]:
    """Open the cameras whose own settings differ with the new settings. They send no frame before the block ends.

    Frames that were announced before still come, with the old settings.

    Raises:
        CameraError: a camera cannot be opened with its new settings; all cameras have the old ones again.
    """
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if _own_settings(old) != _own_settings(new)]
    proceed = threading.Event()
    errors = _wait_for_results(_request(cameras, [new for _, new in pairs], proceed), len(pairs))
    if errors:
        at_once = threading.Event()
        at_once.set()
        # Requested before the others proceed, so that no frame with the refused settings is inspected.
        results = _request(cameras, [old for old, _ in pairs], at_once, keep_frames=False)
        proceed.set()
        _wait_for_results(results, len(pairs))
        raise CameraError("; ".join(errors))
    try:
        yield
    finally:
        proceed.set()


def _request(
    cameras: Mapping[str, SupervisedCamera],
    wanted: Sequence[CameraSettings],
    proceed: threading.Event,
    *,
    keep_frames: bool = True,
) -> "queue.SimpleQueue[str | None]":
    """Have cameras opened with these settings. Each reports its result, then sends no frame until it may proceed."""
    results: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for settings in wanted:

        def opened(error: str | None, name: str = settings.name) -> None:
            results.put(None if error is None else f"camera {name}: {error}")
            proceed.wait(HELD_AT_MOST_SECONDS)

        cameras[settings.name].reconfigure(settings, opened, keep_frames=keep_frames)
    return results


def _wait_for_results(results: "queue.SimpleQueue[str | None]", count: int) -> list[str]:
    """Return the errors once all cameras have reported. Each one does, as opening a camera has a time limit."""
    return [error for error in [results.get() for _ in range(count)] if error is not None]


def _own_settings(settings: CameraSettings) -> dict[str, object]:
    """Return the settings that the camera itself holds."""
    return {key: getattr(settings, key, None) for key in SET_IN_THE_CAMERA}


def require_reversible(now: LineConfig, wanted: LineConfig) -> None:
    """Check that both values of each camera setting that changes are known: otherwise it could not be set back.

    Raises:
        ConfigError: a value is not known.
    """
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        for key in sorted(SET_IN_THE_CAMERA):
            if (getattr(old, key, None) is None) != (getattr(new, key, None) is None):
                was, is_now = ("not set", "set") if getattr(old, key) is None else ("set", "not set")
                raise ConfigError(
                    f"{key} of camera {old.name} was {was} and is {is_now} now; restart the line to activate this"
                )


def require_exchangeable(now: LineConfig, wanted: LineConfig) -> None:
    """Check that nothing differs that needs a restart.

    Raises:
        ConfigError: something does.
    """
    ours, theirs = _set_at_start(now), _set_at_start(wanted)
    for key in ours:
        if ours[key] != theirs[key]:
            raise ConfigError(f"{key} was {ours[key]!r} and is {theirs[key]!r} now; restart the line to activate this")
    names = [[camera.name for camera in config.cameras] for config in (now, wanted)]
    if names[0] != names[1]:
        raise ConfigError(
            f"the cameras were {', '.join(names[0])} and are {', '.join(names[1])} now; "
            "restart the line to activate this"
        )
    for old, new in zip(now.cameras, wanted.cameras, strict=True):
        if type(old) is not type(new):
            raise ConfigError(f"camera {old.name} is of another kind now; restart the line to activate this")
        differing = [
            key for key in old.__struct_fields__ if key not in EXCHANGEABLE and getattr(old, key) != getattr(new, key)
        ]
        if differing:
            raise ConfigError(f"{', '.join(differing)} of camera {old.name} changed; restart the line to activate this")


def _set_at_start(config: LineConfig) -> dict[str, object]:
    """Return the addresses and the tables of a line that only a start reads, by their keys in its file."""
    found: dict[str, object] = {"events.bind": config.events.bind, "commands.bind": config.commands.bind}
    for name in ("journal", "security", "evidence", "web"):
        table = getattr(config, name)
        found[f"[{name}]"] = "absent" if table is None else "present"
        for key, value in ({} if table is None else asdict(table)).items():
            found[f"{name}.{key}"] = str(value) if isinstance(value, Path) else value
    return found
