"""Cameras whose own settings change, such as their exposure: closed and opened, so that no frame has the wrong one."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

from edge.cameras.settings import CameraSettings
from edge.cameras.supervisor import SupervisedCamera
from edge.errors import CameraError
from edge.products import SET_IN_THE_CAMERA

HELD_AT_MOST_SECONDS = 60.0


@contextlib.contextmanager
def set_anew(
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

        cameras[settings.name].change(settings, opened, keep_frames=keep_frames)
    return said


def _answers(said: "queue.SimpleQueue[str | None]", count: int) -> list[str]:
    """What went wrong, once all have answered; each does, as an opening has its limit."""
    return [error for error in [said.get() for _ in range(count)] if error is not None]


def _own(settings: CameraSettings) -> dict[str, object]:
    """What the camera itself keeps."""
    return {key: getattr(settings, key, None) for key in SET_IN_THE_CAMERA}
