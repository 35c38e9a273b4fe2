"""One verdict for a part that several pictures show: joins the verdicts of frames, and counts each part once.

A frame joins the first part that lacks a picture of its camera, has the same part id or none, and was first captured at
most so long before or after it as `[part]` says. Each part ends in exactly one event, and what comes later for it has
none. For every line:

    announced == judged + no_verdict + open
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from heatline.edge.wire.events import BundleName, PartAccount, PartEvent, PartVerdict, PartView, VerdictEvent

LATE_NS = 60 * 10**9
"""A picture with the id of a part that ended so long ago at most belongs to that part, and is too late."""


@dataclass
class Part:
    """A part of which at least one picture came."""

    missing: list[str]
    """Cameras of the pictures that did not come yet."""
    part_id: str | None
    first_ns: int
    last_ns: int
    """Captures of its first and its last picture, monotonic."""
    views: list[PartView] = field(default_factory=list)
    setups: list[tuple[str | None, BundleName | None]] = field(default_factory=list)
    """Product and bundle of each view."""
    acting: bool = True
    has_ended: bool = False

    def add(self, event: VerdictEvent, number: int, captured_ns: int) -> None:
        """Add the picture of one of an event's frames, captured at this monotonic time."""
        self.missing.remove(event.camera)
        self.first_ns, self.last_ns = min(self.first_ns, captured_ns), max(self.last_ns, captured_ns)
        self.acting &= event.acting
        self.setups.append((event.product, event.bundle))
        self.views.append(
            PartView(
                camera=event.camera,
                boot_id=event.boot_id,
                frame_number=number,
                verdict=event.verdict,
                reason=event.reason,
                frame_score=event.frame_score,
                picture=event.picture,
                captured_at_ns=event.times.captured_at_ns,
            )
        )

    @property
    def is_complete(self) -> bool:
        """Whether nothing that may come changes its verdict."""
        return not self.missing or any(view.verdict == "DEFECT" for view in self.views)

    def verdict(self, why_missing: str) -> PartVerdict:
        """Return its verdict, with the reason why pictures did not come if any did not."""
        without = [view for view in self.views if view.verdict == "NO_VERDICT"]
        if any(view.verdict == "DEFECT" for view in self.views):
            return PartVerdict("DEFECT")
        # Between two boots, the last picture of a whole part may have come too late.
        if missing := self.missing or [view.camera for view in self.views[-1:] if why_missing]:
            cameras = ", ".join(dict.fromkeys(missing))
            return PartVerdict("NO_VERDICT", "part.missing", f"no verdict of camera {cameras} came {why_missing}")
        if without:
            causes = "; ".join(f"camera {view.camera}: {view.reason}" for view in without)
            return PartVerdict("NO_VERDICT", "part.view", f"a picture has no verdict: {causes}")
        if any(setup != self.setups[0] for setup in self.setups):
            detail = "its pictures were judged as different products or by different bundles"
            return PartVerdict("NO_VERDICT", "part.changed", detail)
        return PartVerdict("GOOD")


class Parts:
    """The parts of a line. For one thread at a time.

    Args:
        views: cameras of the pictures of a part; one that takes several is there several times.
        within_s: time within which all verdicts of a part come, from its first capture.
        emit: is given each part that ends, once, with its verdict.
    """

    def __init__(self, views: Sequence[str], within_s: float, emit: Callable[[Part, PartVerdict], None]) -> None:
        self._views, self._within_ns, self._emit = list(views), round(within_s * 1e9), emit
        self._parts: list[Part] = []
        """In the order of their first pictures: open ones, and those that still lack a picture that may come."""
        self.account = PartAccount()

    def add(self, event: VerdictEvent, now_ns: int) -> None:
        """Add the verdict of a frame or of a run of frames, at this monotonic time: a frame that was in flight when the
        PC was switched off may claim a later capture. Call `expire` before its event is journalled, so that the journal
        tells in which order both happened.
        """
        for part in self._joined(event, min(event.times.captured_monotonic_ns, now_ns)):
            if not part.has_ended and part.is_complete:
                self._end(part, "")

    def expire(self, now_ns: int) -> None:
        """End the parts whose time is over by the monotonic clock, and forget parts for which nothing can come."""
        for part in self._parts:
            if not part.has_ended and now_ns >= part.first_ns + self._within_ns:
                self._end(part, f"within {self._within_ns / 1e6:g} ms")
        self._forget(now_ns)

    def stop(self) -> None:
        """End all parts, as no more frames are inspected."""
        for part in self._parts:
            if not part.has_ended:
                self._end(part, "before the line was stopped")

    def resume(self, events: Iterable[VerdictEvent | PartEvent], now_ns: int, now_utc_ns: int, *, is_all: bool) -> None:
        """Go on with what the journal of former boots holds: parts that had no event yet get one now, or still wait.

        Args:
            events: the newest, in order.
            now_ns, now_utc_ns: monotonic, and since 1970.
            is_all: whether there were none before. If there were, the first ones may belong to parts that have ended.
        """
        before: dict[tuple[str, str, int], Part] = {}  # by boot, camera and number of a frame
        begin_ns: int | None = None
        for event in events:
            if isinstance(event, PartEvent):
                for view in event.views:
                    if (ended := before.get((view.boot_id, view.camera, view.frame_number))) is not None:
                        ended.has_ended = True
            elif event.camera in self._views:
                captured_ns = event.times.captured_at_ns + now_ns - now_utc_ns
                begin_ns = captured_ns if begin_ns is None else begin_ns
                self._forget(captured_ns)
                for number, part in enumerate(self._joined(event, captured_ns), event.frame_number):
                    before[event.boot_id, event.camera, number] = part
        if begin_ns is not None and not is_all:
            certain_ns = begin_ns + self._within_ns + LATE_NS
            self._parts = [part for part in self._parts if part.first_ns > certain_ns]
        self.account = PartAccount()
        for part in self._parts:
            if not part.has_ended:
                self.account = self.account.counted(announced=1, open=1)
                if part.is_complete and part.last_ns < part.first_ns + self._within_ns:
                    self._end(part, "")
        self.expire(now_ns)

    def _joined(self, event: VerdictEvent, at_ns: int) -> Iterator[Part]:
        """Add each frame of an event, captured at this monotonic time, to its part, a new one if there is none; return
        the parts.
        """
        if event.camera not in self._views:
            return
        for number in range(event.frame_number, event.frame_number + event.frames):
            part = next((each for each in self._parts if self._fits(each, event, at_ns)), None)
            if part is None:
                part = Part([*self._views], event.part_id, at_ns, at_ns)
                self._parts.append(part)
                self.account = self.account.counted(announced=1, open=1)
            part.add(event, number, at_ns)
            yield part

    def _fits(self, part: Part, event: VerdictEvent, captured_ns: int) -> bool:
        if event.camera not in part.missing or event.part_id != part.part_id:
            return False
        span_ns = max(captured_ns, part.last_ns) - min(captured_ns, part.first_ns)
        if part.part_id is not None:
            return not part.has_ended or span_ns <= self._within_ns + LATE_NS
        return span_ns <= self._within_ns

    def _forget(self, now_ns: int) -> None:
        """Forget parts that have ended and for which nothing can come any more."""
        kept_ns = self._within_ns + LATE_NS
        self._parts = [
            part for part in self._parts if not part.has_ended or (part.missing and now_ns < part.last_ns + kept_ns)
        ]

    def _end(self, part: Part, why_missing: str) -> None:
        part.has_ended = True
        verdict = part.verdict(why_missing)
        ended = {"no_verdict": 1} if verdict.verdict == "NO_VERDICT" else {"judged": 1}
        self.account = self.account.counted(open=-1, **ended)
        self._emit(part, verdict)
