"""A supervised camera in its real process, which the test grabs from."""

import array
import contextlib
import fcntl
import os
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from heatline.edge.cameras import liveness, supervisor, triggering
from heatline.edge.cameras.base import EndOfFrames, FrameSource
from heatline.edge.cameras.pattern import frame_id_of, pattern
from heatline.edge.cameras.process import FrameReady
from heatline.edge.cameras.settings import CameraSettings, PatternSettings
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.cameras.triggering import PartRequest
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.wire.commands import Reply
from tests.edge.secured import until

WITHIN_SECONDS = 60.0
"""Time limit for what would hang otherwise; never a measured time."""

_FRAME_BYTES = len(msgspec.msgpack.encode(FrameReady(Stamp("top", 1), 0, (5, 12), "Mono8", None)))
"""Size of a frame's message; timestamps and digest add less than a tenth."""


def wait_ns(from_ns: int, seconds: float) -> None:
    """Wait until this long after a time, without grabbing."""
    until(lambda: time.monotonic_ns() > from_ns + seconds * 1e9, "time going by")


def stop(pid: int) -> None:
    """Send SIGSTOP, and wait until all threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    until(lambda: all(_state_of(task) == "T" for task in tasks.iterdir()), "stopping it")


def _state_of(task: Path) -> str:
    """Return the kernel's letter for the state; T is stopped."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def held() -> set[str]:
    """Return all resources of this process: descriptors, frame memories, Python's threads, children and zombies."""
    found = {line for line in Path("/proc/self/maps").read_text().splitlines() if "heatline-frames" in line}
    found |= {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= {f"child {pid}" for pid in (task / "children").read_text().split()}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(f"descriptor {fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return {one for one in found if "/proc/" not in one}


def grabbed(camera: FrameSource[Any]) -> Frame | BadFrame:
    """Return the next item of a camera, which must come."""
    one = camera.grab(WITHIN_SECONDS)
    assert one is not None, "no frame came"
    return one


@contextlib.contextmanager
def opened_camera(camera: FrameSource[Any]) -> Iterator[Any]:
    """Open a camera in this process, and close it at the end."""
    with contextlib.closing(camera):
        assert camera.open().found
        yield camera


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Run a function on a thread, which has started on return."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True)
class Seen:
    """An item that `grab` returned."""

    stamp: Stamp
    reason: str | None = None
    """Reason of a bad frame; None: a frame."""
    kind: Literal["dropped", "failed"] | None = None
    shows: int | None = None
    """The frame id of its pixels, all of which were compared."""
    detail: str = ""


class Watched:
    """Records everything that a supervised camera reports and returns. `drawn`: whether its frames are those of the
    pattern camera, whose pixels are known."""

    def __init__(self, settings: CameraSettings, *, drawn: bool = True) -> None:
        self.alarms: list[CameraAlarm] = []
        self.seen: list[Seen] = []
        self.answers: dict[str | None, list[Reply]] = {}
        self.camera = SupervisedCamera(settings, self.alarms.append)
        self._drawn = drawn

    @property
    def pid(self) -> int:
        assert self.camera._process is not None, "it is dead"
        return self.camera._process.pid

    def until_unread(self, frames: int) -> None:
        """Wait until its process has sent this many frames, without grabbing any."""
        assert self.camera._process is not None, "it is dead"
        fileno, count = self.camera._process.fileno(), array.array("i", [0])

        def there() -> bool:
            fcntl.ioctl(fileno, termios.FIONREAD, count)
            return count[0] >= frames * _FRAME_BYTES

        until(there, f"{frames} frames in the socket")

    @property
    def frames(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.reason is None]

    @property
    def bad(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.reason is not None]

    @property
    def parts(self) -> list[tuple[str | None, str | None, int | None]]:
        """Return of each item: the part, the reason of a missing frame, and the picture that the frame shows."""
        return [(seen.stamp.part_id, seen.reason, seen.shows) for seen in self.seen]

    @property
    def states(self) -> list[tuple[str, bool]]:
        """Its alarms: the reason, and whether the alarm began or ended."""
        return [(alarm.reason, alarm.active) for alarm in self.alarms]

    def grab(self, timeout_s: float = 0.05) -> Seen | None:
        """Grab once; frames are released after their pixels were checked."""
        item = self.camera.grab(timeout_s)
        if item is None:
            return None
        self.camera.logged(1 + len(self.seen))
        if isinstance(item, BadFrame):
            seen = Seen(item.stamp, item.reason, item.kind, detail=item.detail)
        else:
            seen = Seen(item.stamp, shows=shown_by(item) if self._drawn else None)
            item.release()
        self.seen.append(seen)
        return seen

    def until(self, done: Callable[[], bool], what: str = "it") -> None:
        """Grab until a condition holds."""
        give_up = time.monotonic() + WITHIN_SECONDS
        while not done():
            assert time.monotonic() < give_up, f"{what} did not happen; came: {self.seen[-5:]}, alarms: {self.alarms}"
            self.grab()

    def until_frames(self, count: int) -> None:
        """Grab until this many more frames have come."""
        wanted = len(self.frames) + count
        self.until(lambda: len(self.frames) >= wanted, f"{count} more frames")

    def to_the_end(self) -> list[Seen]:
        """Grab until the end; return what came."""
        before = len(self.seen)
        with contextlib.suppress(EndOfFrames):
            self.until(lambda: False, "the end of frames")
        return self.seen[before:]

    def triggered(self, *part_ids: str) -> None:
        """Trigger the parts one by one, each after the result of the one before is known."""
        for part_id in part_ids:
            came = len(self.seen)
            self.trigger(part_id)
            self.until(lambda: self.answered(part_id) and len(self.seen) > came, f"part {part_id}")  # noqa: B023

    def trigger(self, part_id: str | None) -> None:
        """Request a frame; its answer goes to `answers`."""
        self.camera.trigger(PartRequest(part_id, self.answers.setdefault(part_id, []).append))

    def answered(self, part_id: str | None) -> bool:
        return bool(self.answers[part_id])

    def answer_to(self, part_id: str | None) -> Any:
        """Return the only answer."""
        (answer,) = self.answers[part_id]
        return answer

    def ids(self) -> list[int]:
        """Return every reported frame id in order, runs expanded; ids wrap after 65535."""
        ids: list[int] = []
        for seen in self.seen:
            if seen.stamp.frame_id is not None:
                run = [(seen.stamp.frame_id + n - 1) % 65535 + 1 for n in range(seen.stamp.frames)]
                assert (seen.stamp.last_frame_id or seen.stamp.frame_id) == run[-1]
                ids += run
        return ids


def shown_by(frame: Frame) -> int:
    """Return which picture a frame shows, after a check of all its pixels."""
    grey = frame.image[..., 0].astype(np.uint8, copy=False)
    shown = frame_id_of(grey)
    drawn = pattern(shown, grey.shape)
    assert np.array_equal(frame.image, np.stack([drawn] * 3, -1)), f"frame {frame.stamp.frame_id} is torn"
    return shown


def give_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a camera of this process to be slow on a busy machine, and open it again without delay."""
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "MAX_BACKOFF_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "HEALTH_WITHIN_SECONDS", WITHIN_SECONDS)
    monkeypatch.setattr(liveness, "MIN_SILENCE_SECONDS", WITHIN_SECONDS)
    monkeypatch.setattr(triggering, "FIRE_WITHIN_SECONDS", WITHIN_SECONDS)


@contextlib.contextmanager
def watched(settings: CameraSettings, *, drawn: bool = True, opened: bool = True) -> Iterator[Watched]:
    """Create a camera, open it if requested, and close it at the end."""
    camera = Watched(settings, drawn=drawn)
    with contextlib.closing(camera.camera):
        if opened:
            camera.camera.open()
        yield camera


class Edges(PatternSettings, frozen=True, kw_only=True, tag="pattern"):
    """A camera that takes a frame at every external edge, here of its own clock."""

    @property
    def triggered(self) -> Literal["hardware"]:
        return "hardware"


def drawn_camera(**keys: object) -> PatternSettings:
    """Return settings of a pattern camera with small pictures."""
    return PatternSettings(**{"name": "top", "draw_size": (12, 5)} | keys)  # type: ignore[arg-type]
