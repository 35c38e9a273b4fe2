"""Counts what a line's journal tells of its shifts: yield, rejects, where defects lie, what reviewers found."""

import math
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

import msgspec

from heatline.edge.calibration.statistics import share_of
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.errors import InputError, JournalError
from heatline.edge.monitor.marks import combine
from heatline.edge.wire.events import ReviewEvent

By = Literal["shift", "hour", "product", "camera"]
SHIFTS = "06:00,14:00,22:00"
DAYS = 7
"""Reported unless the user names a beginning."""
CELLS = 64
"""Cells of a map of defects along the longer side of the frame."""
ZONES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
MINUTE = "%Y-%m-%d %H:%M"
NS = 1_000_000_000
Period = tuple[int, int]
"""Begin of a shift or an hour, and the first instant after it: UTC, ns since 1970."""
Key = tuple[Period, str, str, str, str]
"""Period, camera ("" for parts), product ("none" without), verdict and reason ("" of GOOD and DEFECT)."""


class Scope(NamedTuple):
    """What is reported. Create it with `parse`."""

    since: datetime
    until: datetime | None
    by: str
    shifts: list[time]
    """Local times at which shifts begin, in order."""
    zone: ZoneInfo

    @classmethod
    def parse(cls, since: str = "", until: str = "", by: str = "shift", shifts: str = SHIFTS, zone: str = "") -> Self:
        """Return the scope of a user's words; by default the last `DAYS` days in this machine's time zone.

        Raises:
            InputError: a word has no meaning here; the message says what was expected.
        """
        if by not in get_args(By):
            raise InputError(f"by is {by!r}; expected one of {', '.join(get_args(By))}")
        local = _zone(zone or os.environ.get("TZ", ""))
        begin = _moment("since", since or f"{datetime.now(local) - timedelta(DAYS):%Y-%m-%d}", local)
        end = _moment("until", until, local) if until else None
        if end is not None and begin.timestamp() >= end.timestamp():
            raise InputError(f"since, {begin:{MINUTE}}, is not before until, {end:{MINUTE}}; name an earlier time")
        return cls(begin, end, by, _times(shifts), local)

    def period(self, at_ns: int) -> Period:
        """Return the hour, or unless it is by hour the shift, of an instant.

        Shifts begin by the wall clock: the one across a change of the clocks has an hour more or less. Of a time that
        comes twice, the first counts; one that the clocks skip comes as much later (PEP 495, fold 0).
        """
        at_s = at_ns // NS
        moment = datetime.fromtimestamp(at_s, self.zone)
        if self.by == "hour":
            begin = int(moment.replace(minute=0, second=0).timestamp())
            return begin * NS, (begin + 3600) * NS
        begins = sorted(
            int(datetime.combine(moment.date() + timedelta(days), at, self.zone).timestamp())
            for days in (-1, 0, 1)
            for at in self.shifts
        )
        place = bisect_right(begins, at_s)
        return begins[place - 1] * NS, begins[place] * NS


def _zone(name: str) -> ZoneInfo:
    """Return a time zone; without a name, this machine's."""
    try:
        if not name and Path("/etc/localtime").exists():
            with open("/etc/localtime", "rb") as file:
                return ZoneInfo.from_file(file, key="local time")
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"there is no time zone {name!r}; expected one as Europe/Vilnius") from error


def _moment(name: str, text: str, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(zone) if moment.tzinfo else moment.replace(tzinfo=zone)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name} is {text!r}; expected a date or a time, as 2026-11-28 or 2026-11-28T06:00") from error


def _times(text: str) -> list[time]:
    try:
        times = [datetime.strptime(each.strip(), "%H:%M").time() for each in text.split(",")]
    except ValueError as error:
        raise InputError(f"shifts are {text!r}; expected the times at which they begin, as {SHIFTS}") from error
    if sorted(set(times)) != times:
        raise InputError(f"shifts are {text!r}, which are not in order; expected each time once, as {SHIFTS}")
    return times


class _Peak(msgspec.Struct, gc=False):
    peak_xy: tuple[int, int]
    tolerated: bool = False


class _Judged(msgspec.Struct):
    """What is counted of an event of a frame or a part. Its other fields are skipped."""

    product: str | None = None
    frames: int = 1
    reason: str | None = None
    frame_hw: tuple[int, int] | None = None
    regions: list[_Peak] = []


class Tally:
    """The counts of a journal. They grow with periods, cameras, products and marks, not with events."""

    def __init__(self) -> None:
        self.frames, self.parts = Counter[Key](), Counter[Key]()
        self.zones = Counter[tuple[str, str]]()
        """Defects by camera and zone."""
        self.cells = defaultdict[tuple[str, str], Counter[tuple[int, int]]](Counter)
        """By camera and product: defects by row and column of square cells, `CELLS` along the frame's longer side."""
        self.frame_hw: dict[tuple[str, str], tuple[int, int]] = {}
        """By camera and product: size of the last frame with a defect, px."""
        self.reviews: list[ReviewEvent] = []
        """Marks of frames that were captured in the time of the report, whenever people made them."""

    def add_places(self, camera: str, product: str, frame_hw: tuple[int, int], regions: list[_Peak]) -> None:
        """Count where the regions of a frame lie that are not tolerated."""
        self.frame_hw[camera, product] = height, width = frame_hw
        for region in (each for each in regions if not each.tolerated):
            (x, y), side = region.peak_xy, max(frame_hw)
            self.cells[camera, product][y * CELLS // side, x * CELLS // side] += 1
            self.zones[camera, ZONES[3 * y // height * 3 + 3 * x // width]] += 1


def count(reader: JournalReader, scope: Scope) -> Tally:
    """Count a journal's events in pages, so that a line that runs does not wait.

    An event belongs to the time at which it was journalled: seconds after its capture, unless the line crashed.

    Raises:
        JournalError: the journal cannot be read.
    """
    tally, of_topic = Tally(), dict[str, list[str]]()
    counters = {"verdict": tally.frames, "part": tally.parts}
    decode, decode_review = msgspec.json.Decoder(_Judged).decode, msgspec.json.Decoder(ReviewEvent).decode
    since_ns = min(max(0, int(scope.since.timestamp() * NS)), 1 << 62)  # SQLite takes 64 bits
    until_ns = 1 << 63 if scope.until is None else int(scope.until.timestamp() * NS)
    contents, period = reader.contents(), (0, 0)
    after, last = max(0, contents.first_seq - 1), contents.last_seq
    try:
        while after < last:
            page = reader.read(after, through_seq=last, since_ns=since_ns, at_most=5000)
            for _, at_ns, topic, header, _ in page.records:
                names = of_topic.get(topic) or of_topic.setdefault(topic, topic.split("."))
                kind = names[0]
                if kind == "review":
                    if since_ns <= (review := decode_review(header)).mark.captured_at_ns < until_ns:
                        tally.reviews.append(review)
                elif kind in counters and at_ns < until_ns:
                    if not period[0] <= at_ns < period[1]:
                        period = scope.period(at_ns)
                    judged, camera = decode(header), names[-2] if kind == "verdict" else ""
                    product = judged.product or "none"
                    counters[kind][period, camera, product, names[-1], judged.reason or ""] += judged.frames
                    if judged.regions and judged.frame_hw is not None:
                        tally.add_places(camera, product, judged.frame_hw, judged.regions)
            after = page.through_seq
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise JournalError(f"{reader.path} is damaged after event {after} ({error}); report later ones") from error
    return tally


def make_report(reader: JournalReader, scope: Scope) -> tuple[dict[str, Any], Tally]:
    """Count a journal; return its report, whose fields docs/report.md describes, and the counts.

    Raises:
        InputError: it holds no verdict of that time.
        JournalError: it cannot be read.
    """
    tally = count(reader, scope)
    counts = (scope.by != "camera" and tally.parts) or tally.frames
    if not counts:
        raise InputError(
            f"{reader.path} has no verdict from {scope.since} to {scope.until or 'its end'}; widen the time"
        )
    groups = {
        "product": _rows(counts, scope, lambda key: key[2]),
        "camera": _rows(tally.frames, scope, lambda key: key[1]),
        "period": _rows(counts, scope, lambda key: key[0]),
    }
    reasons, zones, cumulative = Counter[str](), list[dict[str, Any]](), 0.0
    for key, number in counts.items():
        reasons[key[4]] += number if key[3] == "NO_VERDICT" else 0
    for (camera, zone), number in sorted(tally.zones.items(), key=lambda each: (-each[1], each[0])):
        cumulative += (share := number / tally.zones.total())
        zones.append({"camera": camera, "zone": zone, "defects": number, "share": share, "cumulative": cumulative})
    report = {
        "line": reader.contents().line,
        **scope._asdict(),
        "zone": str(scope.zone),
        "oldest": datetime.fromtimestamp(reader.read(0, at_most=1).records[0].at_ns // NS, scope.zone),
        "counted": "parts" if counts is tally.parts else "frames",
        "total": _rows(counts, scope, lambda _: "all")[0],
        "rows": groups.get(scope.by, groups["period"]),
        "trend": groups["period"],
        "by_product": groups["product"],
        "by_camera": groups["camera"],
        "zones": zones,
        "no_verdict": dict((+reasons).most_common()),
        **_reviewed(tally.reviews),
    }
    return report, tally


def p_limits(share: float, n: int) -> tuple[float, float]:
    """Return Shewhart's control limits of a share in a sample of n: p -+ 3 sqrt(p (1 - p) / n), clipped to [0, 1].

    D. C. Montgomery, Introduction to Statistical Quality Control, chapter 7: the p-chart with variable sample size.
    """
    reach = 3 * math.sqrt(share * (1 - share) / n)
    return max(0.0, share - reach), min(1.0, share + reach)


def _rows(counts: Mapping[Key, int], scope: Scope, group: Callable[[Key], Any]) -> list[dict[str, Any]]:
    """Return a row per group, in order."""
    found = defaultdict[Any, Counter[str]](Counter)
    for key, number in counts.items():
        found[group(key)][key[3]] += number
    defects, goods = (sum(each[verdict] for each in found.values()) for verdict in ("DEFECT", "GOOD"))
    rows = []
    for name, each in sorted(found.items()):
        row = {"name": name, "begin": None, "end": None}
        if isinstance(name, tuple):
            begin, end = (datetime.fromtimestamp(ns // NS, scope.zone) for ns in name)
            row = {"name": f"{begin:{MINUTE}}{' again' * begin.fold}", "begin": begin, "end": end}
        judged = each["GOOD"] + each["DEFECT"]
        share = each["DEFECT"] / judged if judged else None
        low, high = p_limits(defects / (defects + goods), judged) if judged else (None, None)
        row |= {"good": each["GOOD"], "defect": each["DEFECT"], "no_verdict": each["NO_VERDICT"]}
        rows.append({**row, "yield": None if share is None else 1 - share, "rejected": share, "low": low, "high": high})
    return rows


def _reviewed(events: list[ReviewEvent]) -> dict[str, dict[str, float] | None]:
    """Return the shares of the reviewed frames whose verdict is wrong, as docs/review.md defines them."""
    verdicts = {event.mark.picture: event.mark.verdict for event in events}
    seen = Counter(f"{verdicts[picture]} {review.truth}" for picture, review in combine(events).items())
    alarms, missed = seen["DEFECT good"], seen["GOOD defective"]
    return {
        "false_alarm": share_of(alarms, alarms + seen["DEFECT defective"]),
        "missed": share_of(missed, missed + seen["GOOD good"]),
    }
