"""Triggers of one camera: assigns frames to parts, and reports parts whose trigger brought no frame.

A part is expected from the moment its trigger is sent (software) or its id is announced (hardware). A frame shows the
part that was expected last when the frame was taken: by time and not by count, a lost frame or an ignored trigger
costs its own part the verdict and no other part.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from heatline.edge.cameras.process import FireTrigger
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.frames import BadFrame, Frame, Stamp

FIRE_WITHIN_SECONDS = 0.1
_LOST = "the camera counted it and it never arrived"

Refusal = Literal["not_triggered", "busy", "camera_dead", "no_frame", "stopping"]


@dataclass(frozen=True)
class TriggerAnswer:
    """Outcome of a trigger: its frame, a refusal, or neither if it announced a part."""

    frame_id: int | None = None
    frame_number: int = 0
    """The ledger's number of the frame."""
    refused: Refusal | None = None
    detail: str = ""


@dataclass(frozen=True)
class TriggerRequest:
    part_id: str | None
    answer: Callable[[TriggerAnswer], None]
    requested_ns: int = field(default_factory=time.monotonic_ns)

    def refuse(self, refused: Refusal, detail: str) -> None:
        self.answer(TriggerAnswer(refused=refused, detail=detail))


@dataclass(frozen=True)
class ExpectedPart:
    """A part that waits for its frame. `expected_ns` and `give_up_ns` are times on the host's monotonic clock."""

    part_id: str | None
    expected_ns: int
    give_up_ns: int


class Intake:
    """Numbers the frames of one camera over all its openings as the ledger does, assigns the part that each shows, and
    reports frames and parts that did not come. Any thread may request a part; the thread that grabs does all else.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self.waiting: deque[Frame | BadFrame] = deque()
        """Items for `grab`: frames, and reports of frames that were announced and cannot be delivered."""
        self.number = 0
        """The ledger's number of the last frame in `waiting` so far."""
        self._requests: deque[TriggerRequest] = deque()
        self.parts: deque[ExpectedPart] = deque()
        """Those that wait for their frames, oldest first. The next frame that is taken shows the last one."""
        self._fired: TriggerRequest | None = None
        self._trigger_number = 0
        self._answers: deque[tuple[int, Callable[[], None]]] = deque()
        """What answers a trigger, by the number of its frame, once the frame is logged."""
        self.restart()

    def restart(self) -> None:
        """Forget missed parts: the camera was opened again and has restarted its frame ids."""
        self._missed = 0
        """Parts without a frame since the last frame. They are reported; the next gap in frame ids includes them."""
        self._frame_came_in_time = False
        self._quiet_until_ns = 0
        """No trigger is sent before this time: see `expire`."""

    # Triggers.

    def request(self, request: TriggerRequest) -> None:
        if self._settings.triggered == "free":
            request.refuse("not_triggered", f"camera {self._settings.name} runs freely")
        else:
            self._requests.append(request)

    def serve(self, now_ns: int, fire: Callable[[FireTrigger], None] | None) -> None:
        """Send the triggers that were requested, or record the parts that were announced.

        A trigger is sent at once or refused: sent later, its frame would show what has moved under the camera since.
        One part waits at a time. `fire` is None while the camera is not open.
        """
        hardware = self._settings.triggered == "hardware"
        while self._requests:
            request = self._requests.popleft()
            begun_ns = request.requested_ns if hardware else now_ns
            part = ExpectedPart(request.part_id, begun_ns, begun_ns + round(self._settings.part_within_s * 1e9))
            if fire is None:
                self._refuse(request, part, "camera_dead", "the camera is not there")
            elif hardware:
                self.parts.append(part)
                request.answer(TriggerAnswer())
            elif self.parts:
                self._refuse(request, part, "busy", "the frame of the trigger before it had not come yet")
            elif now_ns < self._quiet_until_ns:
                self._refuse(request, part, "busy", "the frame of a trigger before it may still be on its way")
            elif now_ns - request.requested_ns > FIRE_WITHIN_SECONDS * 1e9:
                self._refuse(request, part, "busy", "the line could not fire it in time")
            else:
                self.parts.append(part)
                self._fired = request
                self._trigger_number += 1
                fire(FireTrigger(self._trigger_number, request.requested_ns + round(FIRE_WITHIN_SECONDS * 1e9)))

    def record_result(self, number: int, error: str | None) -> None:
        if error is not None and number == self._trigger_number:
            self.give_up(error)

    def expire(self, now_ns: int) -> int:
        """Report the parts whose wait has ended; return their number.

        A camera whose frames take longer than that would show each part under the id of the next one. So until a frame
        has come in time since the camera was opened, the next trigger waits for twice as long.
        """
        expired = self._pop_while(lambda part: part.give_up_ns <= now_ns)
        if expired and not self._frame_came_in_time and self._settings.triggered == "software":
            self._quiet_until_ns = now_ns + round(self._settings.part_within_s * 1e9)
        self._miss(expired, f"no frame came within {self._settings.part_within_s * 1e3:g} ms of its trigger")
        return len(expired)

    def give_up(self, reason: str) -> None:
        """Report all parts that wait: no frame will come for them."""
        self._miss(self._pop_while(lambda _part: True), reason)

    def refuse_all(self, refused: Refusal, detail: str) -> None:
        while self._requests:
            self._requests.popleft().refuse(refused, detail)

    def _refuse(self, request: TriggerRequest, part: ExpectedPart, refused: Refusal, detail: str) -> None:
        self._report_no_frame(part, detail)
        request.refuse(refused, f"camera {self._settings.name}: {detail}")

    def _miss(self, parts: Sequence[ExpectedPart], detail: str) -> None:
        for part in parts:
            self._missed += 1
            self._report_no_frame(part, detail)
            request, self._fired = self._fired, None
            if request is not None:
                request.refuse("no_frame", f"camera {self._settings.name}: {detail}")

    # Frames.

    def add(
        self, item: Frame | BadFrame, missing_ids: Sequence[int], taken_ns: int, instead: BadFrame | None = None
    ) -> None:
        """Queue a frame with the part that it shows, after reports of the frames that are missing before it.

        Args:
            taken_ns: when it was taken, on the host's monotonic clock.
            instead: why the frame cannot be inspected; None: it can. Its stamp does not count.
        """
        passed = self._pop_while(lambda part: part.expected_ns <= taken_ns)
        part = passed.pop() if passed else None  # the one that the frame shows; the earlier ones get no frame
        self._report_lost(list(missing_ids[self._missed :]), passed, item.stamp)
        self._missed = self._quiet_until_ns = 0
        if part is not None:
            self._frame_came_in_time = True
            request, self._fired = self._fired, None
            if request is not None and item.stamp.frame_id is None:  # lost with the first packet of the frame
                request.refuse("no_frame", f"camera {self._settings.name}: its frame came damaged, without its id")
            elif request is not None:
                came = TriggerAnswer(frame_id=item.stamp.frame_id, frame_number=self.number + 1)
                self._answers.append((self.number + 1, partial(request.answer, came)))
        stamp = self._with_part(item.stamp, part)
        if instead is not None and isinstance(item, Frame):
            item.release()
            item = instead
        self._queue(replace(item, stamp=stamp))

    def logged(self, number: int) -> None:
        """Answer the triggers of the frames up to this number: a crash cannot take their events any more."""
        while self._answers and self._answers[0][0] <= number:
            self._answers.popleft()[1]()

    def _pop_while(self, condition: Callable[[ExpectedPart], bool]) -> list[ExpectedPart]:
        parts: list[ExpectedPart] = []
        while self.parts and condition(self.parts[0]):
            parts.append(self.parts.popleft())
        return parts

    def _queue(self, item: Frame | BadFrame) -> None:
        self.number += item.stamp.frames
        self.waiting.append(item)

    def _report_lost(self, ids: list[int], passed: Sequence[ExpectedPart], before: Stamp) -> None:
        """Report the frames that are missing before this one, each with the part that it would have shown."""
        # The times of a lost frame are unknown, so it has those of the frame after it.
        times = before.captured_at_ns, before.captured_monotonic_ns
        for part in passed:
            if ids:
                lost = Stamp(before.camera, ids.pop(0), None, None, *times)
                self._queue(BadFrame(self._with_part(lost, part), "lost_by_camera", _LOST, "dropped"))
            else:
                self._report_no_frame(part, "the next part's frame came first")
        if ids:
            last = ids[-1] if len(ids) > 1 else None
            run = Stamp(before.camera, ids[0], None, None, *times, last_frame_id=last, frames=len(ids))
            self._queue(BadFrame(self._with_part(run, None), "lost_by_camera", _LOST, "dropped"))

    def _report_no_frame(self, part: ExpectedPart, detail: str) -> None:
        self._queue(BadFrame(self._with_part(Stamp(self._settings.name, None), part), "no_frame", detail, "dropped"))

    def _with_part(self, stamp: Stamp, part: ExpectedPart | None) -> Stamp:
        deadline_ms = self._settings.deadline_ms
        begun_ns = stamp.captured_monotonic_ns if part is None else part.expected_ns
        return replace(
            stamp,
            part_id=part.part_id if part else None,
            due_monotonic_ns=None if deadline_ms is None else begun_ns + round(deadline_ms * 1e6),
        )
