"""Triggers of one camera: who wants a frame, which part it shows, and what becomes of those that bring none.

A software trigger is fired at once or not at all: fired later, it would show whatever has moved under the camera since.
One part waits at a time, so that no frame is taken for another part's. With hardware triggers parts are announced.

A part is expected from the moment its trigger is sent (software) or its id is announced (hardware). A frame shows the
part that was expected last when the frame was taken: by time and not by counting, so that a lost frame or a trigger
that was not heard costs its own part its verdict and no other one.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from edge.cameras.frame_ids import Gap
from edge.cameras.settings import CameraSettings
from edge.frames import BadFrame, Frame, Stamp

FIRE_WITHIN_SECONDS = 0.1
_LOST = "the camera counted it and it never arrived"

Refusal = Literal["not_triggered", "busy", "camera_dead", "no_frame", "stopping"]


@dataclass(frozen=True)
class TriggerAnswer:
    """What became of a trigger: its frame; or none yet, as its part's id was announced; or why there is none."""

    frame_id: int | None = None
    frame_number: int = 0
    """The ledger's."""
    refused: Refusal | None = None
    detail: str = ""


@dataclass(frozen=True)
class TriggerRequest:
    """A part whose frame is wanted."""

    part_id: str | None
    answer: Callable[[TriggerAnswer], None]
    asked_ns: int = field(default_factory=time.monotonic_ns)
    """The host's monotonic clock."""


@dataclass(frozen=True)
class Part:
    """A part whose frame is waited for. `expected_ns` and `until_ns` are the host's monotonic clock."""

    part_id: str | None
    expected_ns: int
    until_ns: int


class Parts:
    """The parts that one camera's frames are waited for, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Part] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_until_ns(self) -> int | None:
        """When the first of them has waited long enough."""
        return self._waiting[0].until_ns if self._waiting else None

    def expect(self, part: Part) -> None:
        """The next frame that is taken from now on shows this part."""
        self._waiting.append(part)

    def frame(self, taken_ns: int) -> tuple[Part | None, list[Part]]:
        """A frame came: the part that it shows, or None where none was expected; and the parts that it passed over,
        whose frames will not come any more.
        """
        passed: list[Part] = []
        while self._waiting and self._waiting[0].expected_ns <= taken_ns:
            passed.append(self._waiting.popleft())
        return (passed.pop() if passed else None), passed

    def expired(self, now_ns: int) -> list[Part]:
        """Those that have waited long enough; they wait no more."""
        gone: list[Part] = []
        while self._waiting and self._waiting[0].until_ns <= now_ns:
            gone.append(self._waiting.popleft())
        return gone

    def all(self) -> list[Part]:
        """All of them; they wait no more."""
        gone = list(self._waiting)
        self._waiting.clear()
        return gone


class Triggering:
    """Keeps the parts of one camera. Any thread requests; all else is done by the one that grabs.

    Args:
        announce: takes each frame that was wanted, or counted, and did not come.
        announced: tells how many frames have been announced so far, with those.
    """

    def __init__(
        self, settings: CameraSettings, announce: Callable[[BadFrame], None], announced: Callable[[], int]
    ) -> None:
        self._settings, self._announce, self._announced = settings, announce, announced
        self._requests: deque[TriggerRequest] = deque()
        self._parts = Parts()
        self._fired: TriggerRequest | None = None
        self._missed = 0
        """Parts that waited in vain since the last frame: what the next gap in frame ids shows has been told of."""
        self._fires = 0
        self._came_in_time = False
        self._quiet_until_ns = 0
        """Until then no trigger is fired: see `expire`."""

    def request(self, request: TriggerRequest) -> None:
        """Have a frame taken of a part, or say whose the next one is."""
        if self._settings.triggered == "free":
            _refuse(request, "not_triggered", f"camera {self._settings.name} runs freely")
        else:
            self._requests.append(request)

    def serve(self, now_ns: int, fire: Callable[[int, int], None] | None) -> None:
        """Announce the parts that were requested, or fire their triggers.

        Args:
            fire: triggers the camera, under a number and up to a time; None: it is not there.
        """
        hardware = self._settings.triggered == "hardware"
        while self._requests:
            request = self._requests.popleft()
            begun_ns = request.asked_ns if hardware else now_ns
            part = Part(request.part_id, begun_ns, begun_ns + round(self._settings.part_within_s * 1e9))
            if fire is None:
                self._turn_away(request, part, "camera_dead", "the camera is not there")
            elif hardware:
                self._parts.expect(part)
                request.answer(TriggerAnswer())
            elif len(self._parts):
                self._turn_away(request, part, "busy", "the frame of the trigger before it had not come yet")
            elif now_ns < self._quiet_until_ns:
                self._turn_away(request, part, "busy", "the frame of a trigger before it may still be on its way")
            elif now_ns - request.asked_ns > FIRE_WITHIN_SECONDS * 1e9:
                self._turn_away(request, part, "busy", "the line could not fire it in time")
            else:
                self._parts.expect(part)
                self._fired = request
                self._fires += 1
                fire(self._fires, request.asked_ns + round(FIRE_WITHIN_SECONDS * 1e9))

    def fired(self, number: int, error: str | None) -> None:
        """What became of a trigger that was fired."""
        if error is not None and number == self._fires:
            self.give_up(error)

    @property
    def next_until_ns(self) -> int | None:
        """When the first part has waited long enough for its frame."""
        return self._parts.next_until_ns

    def expire(self, now_ns: int) -> int:
        """Tell of the parts that have waited long enough; returns how many.

        A camera that takes longer than that to show a frame would show each part's under the next one's id. So until a
        frame has come in time since the camera was opened, the next trigger waits for twice as long.
        """
        expired = self._parts.expired(now_ns)
        if expired and not self._came_in_time and self._settings.triggered == "software":
            self._quiet_until_ns = now_ns + round(self._settings.part_within_s * 1e9)
        for part in expired:
            self._miss(part, f"no frame came within {self._settings.part_within_s * 1e3:g} ms of its trigger")
        return len(expired)

    def give_up(self, why: str) -> None:
        """No frame will come of what has been triggered so far."""
        for part in self._parts.all():
            self._miss(part, why)

    def refuse_all(self, refused: Refusal, why: str) -> None:
        """Refuse what has been requested and not been begun."""
        while self._requests:
            _refuse(self._requests.popleft(), refused, why)

    def opened_again(self) -> None:
        """The camera counts its frames anew."""
        self._missed = 0
        self._came_in_time = False
        self._quiet_until_ns = 0

    def frame(self, item: Frame | BadFrame, gap: Gap | None, taken_ns: int) -> Frame | BadFrame:
        """A frame came: tell first of those that are missing before it; returns it with the part that it shows."""
        part, passed = self._parts.frame(taken_ns)
        self._account_for(gap, passed, item.stamp)
        self._quiet_until_ns = 0
        if part is not None:
            self._came_in_time = True
            self._answer(item.stamp)
        return replace(item, stamp=self._with_part(item.stamp, part))

    def _account_for(self, gap: Gap | None, passed: list[Part], before: Stamp) -> None:
        """Tell of the frames that are missing before this one, each with the part that it would have shown."""
        ids = gap.ids[self._missed :] if gap else []
        self._missed = 0
        for part in passed:
            if ids:
                lost = replace(self._with_part(_at(before), part), frame_id=ids.pop(0))
                self._announce(BadFrame(lost, "lost_by_camera", _LOST, "dropped"))
            else:
                self._tell_missed(part, "the next part's frame came first")
        if ids:
            run = replace(self._with_part(_at(before), None), frame_id=ids[0], frames=len(ids))
            self._announce(
                BadFrame(
                    replace(run, last_frame_id=ids[-1] if len(ids) > 1 else None), "lost_by_camera", _LOST, "dropped"
                )
            )

    def _answer(self, stamp: Stamp) -> None:
        """Tell who triggered it of the frame that came of it."""
        request, self._fired = self._fired, None
        if request is None:
            return
        if stamp.frame_id is None:  # its first packet was lost, and with it its id
            _refuse(request, "no_frame", f"camera {self._settings.name}: its frame came damaged, without its id")
        else:
            request.answer(TriggerAnswer(frame_id=stamp.frame_id, frame_number=self._announced() + 1))

    def _turn_away(self, request: TriggerRequest, part: Part, refused: Refusal, why: str) -> None:
        self._tell_missed(part, why)
        _refuse(request, refused, f"camera {self._settings.name}: {why}")

    def _miss(self, part: Part, why: str) -> None:
        self._missed += 1
        self._tell_missed(part, why)
        request, self._fired = self._fired, None
        if request is not None:
            _refuse(request, "no_frame", f"camera {self._settings.name}: {why}")

    def _tell_missed(self, part: Part, why: str) -> None:
        stamp = self._with_part(Stamp(self._settings.name, None), part)
        self._announce(BadFrame(stamp, "no_frame", why, "dropped"))

    def _with_part(self, stamp: Stamp, part: Part | None) -> Stamp:
        deadline_ms = self._settings.deadline_ms
        begun_ns = stamp.captured_monotonic_ns if part is None else part.expected_ns
        return replace(
            stamp,
            part_id=part.part_id if part else None,
            due_monotonic_ns=None if deadline_ms is None else begun_ns + round(deadline_ms * 1e6),
        )


def _refuse(request: TriggerRequest, why: Refusal, detail: str) -> None:
    request.answer(TriggerAnswer(refused=why, detail=detail))


def _at(stamp: Stamp) -> Stamp:
    """A frame that was lost just before this one. Of its own time nothing is known."""
    return Stamp(
        stamp.camera, None, captured_at_ns=stamp.captured_at_ns, captured_monotonic_ns=stamp.captured_monotonic_ns
    )
