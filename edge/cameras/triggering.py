"""Triggers of one camera: assigns frames to parts, and reports parts whose trigger brought no frame.

A part is expected from the moment its trigger is sent (software) or its id is announced (hardware). A frame shows the
part that was expected last when the frame was taken: by time and not by count, a lost frame or an ignored trigger
costs its own part the verdict and no other part.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from heatline.edge.cameras.process import FireTrigger
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire import commands

FIRE_WITHIN_SECONDS = 0.1
_LOST = "the camera counted it and it never arrived"


@dataclass(frozen=True)
class PartRequest:
    """A part that shall get a frame. `answer` takes one reply: once its frame is logged, or when it gets none."""

    part_id: str | None
    answer: Callable[[commands.Reply], None]
    since_ns: int = field(default_factory=time.monotonic_ns)
    """When it was requested, or its trigger sent, on the host's monotonic clock."""

    def refuse(self, reason: commands.Reason, detail: str) -> None:
        self.answer(commands.refusal(reason, utf8_safe(detail)))


class Intake:
    """Assigns to the frames of one camera, over all its openings, the parts that they show, and reports frames and
    parts that did not come. Any thread may request a part; the thread that grabs does all else.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self.within_ns = round(settings.part_within_s * 1e9)
        """How long a part waits for its frame."""
        self.waiting: deque[tuple[Frame | BadFrame, Callable[[int], None]]] = deque()
        """Items for `grab`: frames, and reports of frames that were announced and cannot be delivered; each with what
        to call with its number in the ledger once it is logged, as a crash cannot take its event any more."""
        self._requests: deque[PartRequest] = deque()
        self.parts: deque[PartRequest] = deque()
        """Those that wait for their frames, oldest first. The next frame that is taken shows the last one."""
        self._trigger_number = 0
        self.restart()

    def restart(self) -> None:
        """Forget missed parts: the camera was opened again and has restarted its frame ids."""
        self._missed = 0
        """Parts without a frame since the last frame. They are reported; the next gap in frame ids includes them."""
        self._frame_came_in_time = False
        self._quiet_until_ns = 0
        """No trigger is sent before this time: see `expire`."""

    # Triggers.

    def request(self, request: PartRequest) -> None:
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
            part = request if hardware else replace(request, since_ns=now_ns)
            fire_by_ns = request.since_ns + round(FIRE_WITHIN_SECONDS * 1e9)
            if fire is None:
                self._report_no_frame(part, "the camera is not there", "camera_dead")
            elif hardware:
                self.parts.append(replace(part, answer=lambda _reply: None))
                request.answer(commands.Announced(camera=self._settings.name, part_id=part.part_id))
            elif self.parts:
                self._report_no_frame(part, "the frame of the trigger before it had not come yet", "busy")
            elif now_ns < self._quiet_until_ns:
                self._report_no_frame(part, "the frame of a trigger before it may still be on its way", "busy")
            elif now_ns > fire_by_ns:
                self._report_no_frame(part, "the line could not fire it in time", "busy")
            else:
                self.parts.append(part)
                self._trigger_number += 1
                fire(FireTrigger(self._trigger_number, fire_by_ns))

    def record_result(self, number: int, error: str | None) -> None:
        if error is not None and number == self._trigger_number:
            self.give_up(error)

    def expire(self, now_ns: int) -> int:
        """Report the parts whose wait has ended; return their number.

        A camera whose frames take longer than that would show each part under the id of the next one. So until a frame
        has come in time since the camera was opened, the next trigger waits for twice as long.
        """
        expired = self._pop_while(lambda part: part.since_ns + self.within_ns <= now_ns)
        if expired and not self._frame_came_in_time and self._settings.triggered == "software":
            self._quiet_until_ns = now_ns + self.within_ns
        self._miss(expired, f"no frame came within {self._settings.part_within_s * 1e3:g} ms of its trigger")
        return len(expired)

    def give_up(self, reason: str) -> None:
        """Report all parts that wait: no frame will come for them."""
        self._miss(self._pop_while(lambda _part: True), reason)

    def refuse_all(self, reason: commands.Reason, detail: str) -> None:
        while self._requests:
            self._requests.popleft().refuse(reason, detail)

    def _miss(self, parts: Sequence[PartRequest], detail: str) -> None:
        self._missed += len(parts)
        for part in parts:
            self._report_no_frame(part, detail)

    # Frames.

    def add(
        self, item: Frame | BadFrame, missing_ids: Sequence[int], taken_ns: int, instead: BadFrame | None = None
    ) -> None:
        """Queue a frame with the part that it shows, after reports of the frames that are missing before it.

        Args:
            taken_ns: when it was taken, on the host's monotonic clock.
            instead: why the frame cannot be inspected; None: it can. Its stamp does not count.
        """
        passed = self._pop_while(lambda part: part.since_ns <= taken_ns)
        part = passed.pop() if passed else None  # the one that the frame shows; the earlier ones get no frame
        self._report_lost(list(missing_ids[self._missed :]), passed, item.stamp)
        self._missed = self._quiet_until_ns = 0
        stamp = self._with_part(item.stamp, part)
        if instead is not None and isinstance(item, Frame):
            item.release()
            item = instead

        def logged(number: int) -> None:
            camera, frame_id = stamp.camera, stamp.frame_id
            if part is not None and frame_id is None:  # lost with the first packet of the frame
                part.refuse("no_frame", f"camera {camera}: its frame came damaged, without its id")
            elif part is not None and frame_id is not None:
                reply = commands.Triggered(camera=camera, part_id=part.part_id, frame_id=frame_id, frame_number=number)
                part.answer(reply)

        self._frame_came_in_time |= part is not None
        self.waiting.append((replace(item, stamp=stamp), logged))

    def _pop_while(self, condition: Callable[[PartRequest], bool]) -> list[PartRequest]:
        parts: list[PartRequest] = []
        while self.parts and condition(self.parts[0]):
            parts.append(self.parts.popleft())
        return parts

    def _report_lost(self, ids: list[int], passed: Sequence[PartRequest], before: Stamp) -> None:
        """Report the frames that are missing before this one, each with the part that it would have shown."""
        # The times of a lost frame are unknown, so it has those of the frame after it.
        times = before.captured_at_ns, before.captured_monotonic_ns
        for part in passed:
            if ids:
                lost = Stamp(before.camera, ids.pop(0), None, None, *times)
                self._report(lost, part, "lost_by_camera", _LOST)
            else:
                self._report_no_frame(part, "the next part's frame came first")
        if ids:
            last = ids[-1] if len(ids) > 1 else None
            run = Stamp(before.camera, ids[0], None, None, *times, last_frame_id=last, frames=len(ids))
            self._report(run, None, "lost_by_camera", _LOST)

    def _report_no_frame(self, part: PartRequest, detail: str, why: commands.Reason = "no_frame") -> None:
        self._report(Stamp(self._settings.name, None), part, "no_frame", detail)
        part.refuse(why, f"camera {self._settings.name}: {detail}")

    def _report(self, stamp: Stamp, part: PartRequest | None, reason: str, detail: str) -> None:
        bad = BadFrame(self._with_part(stamp, part), reason, detail, "dropped")
        self.waiting.append((bad, lambda _number: None))

    def _with_part(self, stamp: Stamp, part: PartRequest | None) -> Stamp:
        deadline_ms = self._settings.deadline_ms
        begun_ns = stamp.captured_monotonic_ns if part is None else part.since_ns
        return replace(
            stamp,
            part_id=part.part_id if part else None,
            due_monotonic_ns=None if deadline_ms is None else begun_ns + round(deadline_ms * 1e6),
        )
