"""Events: topic, JSON header, optional PNG. docs/protocol.md is the authority, schemas/ has the JSON Schemas.

`to_frames` turns a message into the parts that ZeroMQ sends, `from_frames` turns the parts into the message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from heatline.edge.errors import MessageError
from heatline.edge.wire.requests import ShortText, decode, require_printable, to_bytes

SCHEMA_VERSION = 2
"""Counts up when a reader of the version before could misread a message. A reader refuses all other versions, and
ignores fields that it does not know."""
LARGEST_PART_BYTES = 64 << 20
"""A client closes the connection to a peer that sends a larger one."""

Verdict = Literal["GOOD", "DEFECT", "NO_VERDICT"]
StepKind = Literal["labelled", "training", "stopped", "trained"]
MarkKind = Literal["right", "false_alarm", "missed", "withdrawn", "good", "defective"]
"""`right`: the verdict is right. `false_alarm`: the verdict is DEFECT, and the part is good. `missed`: the line did not
find a defect. `withdrawn`: the reviewer takes the former mark back. `good`, `defective`: what the part is, of a frame
of a line that collects; the frame is kept under this label."""
LABELS: tuple[MarkKind, ...] = ("good", "defective")
MOST_POINTS = 64
"""In a mark: points, boxes, strokes, and points of each stroke."""
LARGEST_COORDINATE = 1 << 20
PictureId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
CameraName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Coordinate = Annotated[int, Meta(ge=0, le=LARGEST_COORDINATE)]
Length = Annotated[int, Meta(ge=1, le=LARGEST_COORDINATE)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
MarkId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]

COLLECTING = "failed.collecting"
"""Reason of each frame of a line that has no bundle."""
WORDS: Mapping[str, str] = {
    "dropped.overload": "frames came faster than they could be inspected",
    "dropped.deadline": "the verdict did not come in time",
    "dropped.lost_by_camera": "frames were lost on the way from the camera",
    "dropped.no_frame": "a part was triggered, and no frame of it came",
    "dropped.changeover": "the camera was closed to change its settings",
    "dropped.stopped": "the line or the camera was stopped",
    "dropped.crashed": "the line's program had crashed",
    "failed.incomplete": "frames arrive damaged",
    "failed.unreadable": "the picture cannot be decoded",
    "failed.wrong_size": "frames do not have the expected size",
    "failed.wrong_colour": "frames do not have the expected pixel format",
    "failed.implausible": "frames do not show the product, or not in its usual light or focus",
    "failed.misaligned": "the part does not lie as its reference picture shows it",
    "failed.foreign_area": "something covers the product, or a part of the picture is lost",
    "failed.engine": "the computation failed",
    COLLECTING: "the line has no bundle yet, and collects pictures",
    "part.missing": "the verdict of a picture of the part did not come in time",
    "part.view": "a picture of the part has no verdict",
    "part.changed": "the product or the bundle changed between two pictures of the part",
    "failed.frozen": "the same picture comes again and again",
    "failed.stale": "frames are too old when they arrive",
    "failed.frame_ids": "its frame numbers run back or leap",
    "failed.silent": "no frames come",
    "failed.unresponsive": "its program does not answer",
    "failed.process": "its program ended or does not start",
    "failed.broken": "it cannot be used any longer",
    "failed.open": "it could not be opened in time",
}
"""By reason of a verdict event. After `failed.`, the alarms of cameras have the same words."""


class Millimetres(msgspec.Struct, frozen=True):
    """A defect area in mm of the part's plane, by the camera's scale."""

    box: tuple[float, float, float, float]
    """Left, top, width and height, mm."""
    centre: tuple[float, float]
    """Centre of the box in px, mm."""
    extent: float
    """Largest distance of two points of the outline, mm."""
    area: float
    """Area, mm^2."""
    error: float
    """Error of a length by the scale, mm. The outline itself is exact to one heatmap cell."""


class Region(msgspec.Struct, frozen=True, omit_defaults=True):
    """A defect area, in px of the frame."""

    box_xyxy: tuple[int, int, int, int]
    """Left, top, right, bottom; right and bottom are the first px outside the box."""
    contour_xy: list[tuple[int, int]]
    """Outline, exact to one heatmap cell."""
    area_px: int
    """Area."""
    peak_xy: tuple[int, int]
    """Position of the highest evidence."""
    score: float
    """Evidence at the peak, in logits."""
    mm: Millimetres | None = None
    """Missing if the camera has no scale, the frame another size, or no cell the evidence threshold."""
    tolerated: bool = False
    """Whether it is smaller than the camera's limit; missing if not. It makes no frame DEFECT."""


class ForeignArea(msgspec.Struct, frozen=True):
    """An area of the frame that the product cannot show, in px of the frame."""

    box_xyxy: tuple[int, int, int, int]
    """Left, top, right, bottom; right and bottom are the first px outside the box."""
    why: str
    """What is unusual there, as a sentence for people."""


class Pose(msgspec.Struct, frozen=True):
    """Where the frame shows what the product's reference picture shows."""

    x_px: float
    """Shift at the frame's centre, px; positive: further right."""
    y_px: float
    """Shift at the frame's centre, px; positive: further down."""
    degrees: float
    """Turn around the frame's centre; positive: clockwise as seen."""
    confidence: float
    """0 to 1: the share of the compared places that agree with this pose."""
    error_px: float
    """Median distance of those places from this pose, px."""
    magnification: float = 1.0
    """1.01: the frame shows the part 1 % larger than the reference; 1: as large, or not known. The pose has none."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Time of capture. Both host clocks are read at capture."""

    captured_at_ns: int
    """Arrival at the line PC, or when the loss was detected: UTC, ns since 1970; 0: unknown after a crash."""
    captured_monotonic_ns: int
    """The same instant on the host's monotonic clock, ns, for durations on that host only."""
    camera_timestamp_ns: int | None = None
    """The camera's clock, ns from an arbitrary start; null if it has none."""


class BundleName(msgspec.Struct, frozen=True, kw_only=True):
    """The active bundle. The digest is the sha256 of its manifest."""

    name: str
    version: str
    digest: str
    """sha256 of its manifest."""


class HeatmapPng(msgspec.Struct, frozen=True, kw_only=True):
    """Scale of the heatmap PNG that follows the header: grey, 8 bit, linear between the two values, clipped."""

    hw: tuple[int, int]
    """Height and width of the PNG, in cells."""
    cell_px: int
    """Side of a cell, px of the frame; the cell (row, column) begins at (row, column) times this."""
    logit_at_0: float
    """Evidence of grey 0, logits."""
    logit_at_255: float
    """Evidence of grey 255, logits."""
    cleared_grey: int | None = None
    """Grey of cells that the screening stage cleared; only those that were not inspected are darker. Null: none was."""


class Screened(msgspec.Struct, frozen=True):
    """Tiles of a frame, or of all frames since the start or the last change, as the screening stage saw them."""

    tiles: int = 0
    """Number of tiles that it saw."""
    cleared: int = 0
    """Of these, the number that only it saw: surely good ones."""
    audited: int = 0
    """The number of surely good ones that ran in full all the same, but for frames that a doubtful one rejects."""
    disagreed: int = 0
    """Of these, the number that reached the score threshold: the stage would have made their frames GOOD."""


class _CountedEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Fields of every event that has a number."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    """Id of the run of the service; new at each start."""
    seq: int
    """Its number in the count of all events except statuses: 1, 2, 3, ... without a gap."""
    journal_id: str | None = None
    """The journal that holds the event and counts `seq`; null: none, and `seq` counts such events of the boot."""
    previous_seq: int
    """`seq` of the event before it under its topic and in the same count; 0 if there is none."""


class _LineEvent(_CountedEvent, frozen=True, kw_only=True):
    """Fields of every event that has a number and is not a verdict."""

    at_ns: int
    """UTC, ns since 1970."""
    line: str

    @property
    def topic(self) -> str:
        return str(self.__struct_config__.tag)


class VerdictEvent(_CountedEvent, frozen=True, kw_only=True, tag="verdict"):
    """The verdict of a frame, or the reason why a run of frames has none.

    Scores and thresholds are in logits, positions in px.
    """

    camera: str
    """The camera's name, without dots."""
    frame_id: int | None
    """The camera's number of the frame, which may wrap and restart; null: none came, or it is unknown after a crash."""
    last_frame_id: int | None = None
    """The camera's number of the last frame of a run, which may be less than `frame_id`; null for one frame."""
    frame_number: int
    """The line's number of the frame, or of the first of a run: 1, 2, 3, ... per camera and boot."""
    frames: int = 1
    """Number of frames that this event stands for."""
    source: str | None = None
    """File name of the frame, for cameras that read files."""
    part_id: str | None = None
    """Id of the part that the frame shows, if its trigger named one."""
    times: Times
    frame_hw: tuple[int, int] | None = None
    """Height and width of the frame, px, to which boxes and contours refer; null if it was not inspected."""
    verdict: Verdict
    reason: str | None = None
    """Reason why there is no verdict: `KIND.REASON` as in the ledger; null for GOOD and DEFECT."""
    detail: str | None = None
    """The reason as a sentence for people, or of a GOOD frame its tolerated regions; do not parse it."""
    frame_score: float | None = None
    """The highest logit of the frame's tiles that ran in full; null without a verdict."""
    score_threshold: float | None
    """The score threshold that was applied, logits. This and the next three are null on a line that has no bundle."""
    evidence_threshold: float | None
    """The evidence threshold that was applied, logits."""
    precision: str | None
    """Precision in which the engine computed: `f32`, `bf16` or `int8`."""
    bundle: BundleName | None
    product: str | None = None
    """Product that the frame was inspected as; null if the line has no products."""
    regions: list[Region] = []
    """The defects, highest score first; empty unless DEFECT, or GOOD as all of them are tolerated."""
    foreign_areas: list[ForeignArea] = []
    """Areas that the product cannot show. Unless the verdict is DEFECT, it is NO_VERDICT because of them."""
    latency_ms: float
    """Time from capture to the hand-over to the publisher, ms."""
    acting: bool
    """False while the line is being commissioned: do not act on this event."""
    heatmap: HeatmapPng | None = None
    """How to read the PNG in part 3; null: there is none."""
    chunks: dict[str, float] = {}
    """Values that the camera measured with the frame, by name of the chunk."""
    picture: str | None = None
    """Id of the frame's picture, by which the evidence store and the page find it; null if its pixels did not come."""
    screened: Screened | None = None
    """Null: all tiles ran in full."""
    pose: Pose | None = None
    """Null if the bundle has no reference picture, or the frame was not compared with it. Of a misaligned frame, the
    best pose that was found, which is not to be relied on."""

    @property
    def topic(self) -> str:
        return f"verdict.{self.camera}.{self.verdict}"

    @property
    def tolerated(self) -> int:
        """The number of tolerated regions."""
        return sum(region.tolerated for region in self.regions)

    @property
    def longest(self) -> Millimetres | None:
        """The longest region in mm; None: none was measured."""
        return max((region.mm for region in self.regions if region.mm), key=lambda mm: mm.extent, default=None)

    @property
    def description(self) -> str | None:
        """`detail`, or in words the areas that the product of a DEFECT frame cannot show; None: neither."""
        return self.detail or "; ".join(f"foreign area: {area.why}" for area in self.foreign_areas) or None


class Account(msgspec.Struct, frozen=True):
    """Frames of a camera since boot, by outcome."""

    captured: int = 0
    """Frames that the camera announced, and parts whose trigger brought none."""
    inspected: int = 0
    """Frames judged GOOD or DEFECT."""
    dropped: dict[str, int] = {}
    """Frames that were dropped before their inspection, by reason."""
    failed: dict[str, int] = {}
    """Frames that could not be inspected, by reason."""
    in_flight: int = 0
    """Frames in flight; 0 in an orderly `STOPPED`."""

    @property
    def balanced(self) -> bool:
        """Whether the bins add up to the captured frames, and no more frames are booked than were captured."""
        booked = self.inspected + sum(self.dropped.values()) + sum(self.failed.values())
        return self.captured == booked + self.in_flight and self.in_flight >= 0


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a camera. IDLE: it is open and waits for a trigger."""

    state: Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]
    reason: str | None = None
    """While it is dead: the present fault, one word."""
    detail: str | None = None
    """The same as a sentence for people."""
    since_at_ns: int
    """When this state began: UTC, ns since 1970."""
    openings: int = 0
    """Number of times it was opened since the start."""
    counters: dict[str, int] = {}
    """Counters of its transport since it was opened, as far as the transport reports them."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The last `seq` of each topic, so that a subscriber to some topics can detect missed events."""

    journal_id: str | None = None
    """The journal in use; null if there is none."""
    journalled: dict[str, int] = {}
    """By topic, the last `seq` that the journal counted."""
    unjournalled: dict[str, int] = {}
    """By topic, the last `seq` of this boot's events that no journal holds."""


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer."""

    acked_seq: int
    """All events up to this one were acknowledged."""
    connected: bool
    """Whether a client follows under this name now."""
    seen_at_ns: int | None = None
    """Time of its last request: UTC, ns since 1970."""


class JournalState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the journal."""

    journal_id: str | None
    """Null: the journal cannot be read."""
    first_seq: int = 0
    """The oldest event that it holds; 0 if it holds none."""
    last_seq: int = 0
    """The newest event that it counted."""
    size_bytes: int = 0
    """Size of its events, plus what an open read transaction made `journal.db-wal` grow."""
    live_only: str | None = None
    """Why events are not journalled now, as a sentence; null while they are."""
    unjournalled: int = 0
    """Number of this boot's events that no journal holds."""
    discarded: int = 0
    """Number of events that were deleted, since boot, before every durable consumer had acknowledged them."""
    consumers: dict[str, Consumer] = {}
    """The durable consumers, by name."""


class EvidenceState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the evidence store."""

    kept: int = 0
    """Number of pictures stored since the line started."""
    skipped: int = 0
    """Number of pictures that were to be stored since the line started, and were not."""
    stored: int = 0
    """Number of pictures in the store."""
    size_bytes: int = 0
    """Size of the store."""
    oldest_at_ns: int | None = None
    """When the frame of the oldest picture was captured: UTC, ns since 1970; null if there is none."""
    fault: str | None = None
    """Why no pictures are stored now, as a sentence; null while they are."""


class WebState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the line's page."""

    fault: str | None = None
    """Why the page is not served now, as a sentence; null while it is."""


class CollectState(msgspec.Struct, frozen=True, kw_only=True):
    """State of what a line without a bundle keeps by itself."""

    skipped: int = 0
    """Number of pictures that were to be kept since the line started, and were not."""
    fault: str | None = None
    """Why no pictures are kept now, as a sentence; null while they are."""


class PartAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Parts since the start: `announced == judged + no_verdict + open`."""

    announced: int = 0
    """At least one picture came."""
    judged: int = 0
    """GOOD or DEFECT."""
    no_verdict: int = 0
    open: int = 0
    """Pictures are missing, and their time is not over."""

    def counted(self, **more: int) -> "PartAccount":
        """Return the account with more of these."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) + count for name, count in more.items()})


class ShadowState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the shadow bundle, which judges the line's frames in idle time."""

    bundle: BundleName | None = None
    """Null: it is not in use yet."""
    judged: int = 0
    """Number of frames that it judged since it was started."""
    dropped: int = 0
    """Number of frames that it left out since then, as it was busy."""
    fault: str | None = None
    """Why it judges no frames now, as a sentence; null while it does, or is being started."""


class DriftReading(msgspec.Struct, frozen=True, kw_only=True):
    """The present value of a measure of a camera's frames."""

    value: float
    """Median of the last measured frames."""
    calibrated: float
    """Median of the calibration frames."""
    low: float
    high: float | None
    """The lowest and the highest value to expect after the calibration; null: no limit."""
    frames: int
    """Number of frames that the value comes from."""
    drifted: bool
    """Whether it lies outside. It ends only once the value lies well inside."""


State = Literal["STARTING", "RUNNING", "STOPPED"]
HandshakeState = Literal["READY", "BUSY", "DEGRADED", "NOT_READY"]


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the line is ready for the next part. A PLC program waits for it."""

    state: HandshakeState
    """Whether parts may come."""
    reason: str | None = None
    """The most severe reason why the line is not READY, one word."""
    detail: str | None = None
    """All reasons, as a sentence for people; do not parse it."""
    heartbeat: int
    """Counts frames whose verdict was sent and, while no frames come, probe tiles that went the same way. It stops when
    inspection stops."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the last reload or selection of a product."""

    change: Literal["reload", "select"]
    applied: bool
    """False: it was refused, and the setup before it is still active."""
    detail: str | None = None
    """Why it was refused, as a sentence for people."""
    by: str | None = None
    """Who asked for it: a name; null if none is known."""
    at_ns: int
    """UTC, ns since 1970."""


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, tag="status", tag_field="type"):
    """State of the service, sent about once a second and once at the end."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    """As in this boot's verdict events."""
    at_ns: int
    """UTC, ns since 1970."""
    line: str
    state: State
    """State of the service."""
    last_seq: int
    """`seq` of the last event that is not a status; 0 before the first."""
    ledger: dict[str, Account]
    """Per camera, its frames since the start by outcome."""
    cameras: dict[str, CameraState]
    """Per camera, its state."""
    bundle: BundleName | None
    """Null: the line has none, and inspects nothing."""
    engine: str | None
    """`openvino` or `onnxruntime`; null without a bundle."""
    precision: str | None
    """As in verdict events."""
    acting: bool
    """As in verdict events."""
    product: str | None = None
    """The active product; null if the line has no products."""
    pid: int
    """Process id of the service."""
    handshake: Handshake
    last_change: Change | None = None
    """Outcome of the last reload or selection; null before the first."""
    journal_id: str | None = None
    """The journal that counts `last_seq`. Null: `last_seq` counts this boot's events that no journal holds."""
    counts: Counts
    journal: JournalState | None = None
    """Null if the line has no journal."""
    refused: dict[str, int] = {}
    """Number of refusals since the start, by socket and reason, such as `events.auth`."""
    evidence: EvidenceState | None = None
    """Null if the line stores no pictures."""
    web: WebState | None = None
    """Null if the line serves no page."""
    collect: CollectState | None = None
    """Null if the line keeps no pictures by itself."""
    shadow: ShadowState | None = None
    """Null if the line has no shadow bundle."""
    parts: PartAccount | None = None
    """Null if the line knows no parts of several pictures."""
    screened: Screened | None = None
    """Null: every tile ran in full since the start."""
    drift: dict[str, dict[str, DriftReading]] = {}
    """By camera and measure. A camera that is not watched is missing, and so is a measure that is not judged yet."""

    @property
    def topic(self) -> str:
        return "status"


class AlarmEvent(_LineEvent, frozen=True, kw_only=True, tag="alarm"):
    """A camera died, or is back; one event each. While it is dead, nothing that it sees is inspected."""

    camera: str
    alarm: str
    """The first fault, one word; the same in both events."""
    detail: str
    """The same as a sentence for people; do not parse it."""
    active: bool
    """True: the camera is dead. False: it is back."""
    began_at_ns: int
    """When the fault was detected: UTC, ns since 1970. The same in both events, so it links them."""
    acting: bool
    """As in verdict events."""
    product: str | None = None
    """The active product; null if the line has no products."""


class DriftEvent(_LineEvent, frozen=True, kw_only=True, tag="drift"):
    """A measure of a camera's frames differs from the calibration, or no longer; one event each. A warning: the frames
    still get their verdicts.
    """

    camera: str
    measure: str
    """`brightness`, `sharpness`, `saturation`, `shift_x`, `shift_y`, `turn`, `scale`, `match`, `score`, `evidence` or
    `cleared`; `screening`: a frame would have been GOOD by the screening stage, and is DEFECT."""
    active: bool
    """True: it differs. False: it does not any more."""
    value: float
    """Median of the last measured frames."""
    low: float
    """Lowest value to expect."""
    high: float | None
    """The lowest and the highest value to expect after the calibration; null: no limit."""
    frames: int
    """Number of frames that the value comes from."""
    detail: str
    """What changed, what it usually means, and what to do, as a sentence for people; do not parse it."""
    bundle: BundleName | None
    """The bundle whose calibration the frames are compared with; null: the line has none any more."""
    product: str | None = None
    """The product that the frames were inspected as; null if the line has no products."""
    acting: bool
    """As in verdict events."""


class ChangeEvent(_LineEvent, frozen=True, kw_only=True, tag="change"):
    """A reload or a selection of a product applies from the next frames on, or was refused."""

    change: Literal["reload", "select"]
    applied: bool
    """True: the line inspects by it now. False: it was refused, and the line inspects as before."""
    detail: str | None = None
    """Why it was refused, as a sentence for people; do not parse it."""
    by: str | None = None
    """Who asked for it: the name of a key or of a user, or as entered on the page; null if none is known."""
    product: str | None
    """The product that is active now; null if the line has no products."""
    bundle: BundleName | None
    """The bundle that is active now; null: none."""
    acting: bool
    """As in verdict events from now on."""


class JournalEvent(_LineEvent, frozen=True, kw_only=True, tag="journal"):
    """A change of the journal that its users must know."""

    kind: str
    """`begun`: a new journal. `live_only`: from now on events are not journalled. `recording`: events are journalled
    again. `unrecorded`: the boot before sent events that are not in the journal."""
    detail: str
    """The same as a sentence for people; do not parse it."""
    events: int | None = None
    """Number of events concerned; null if unknown."""
    by_topic: dict[str, int] = {}
    """Number of events concerned, by topic."""
    of_boot: str | None = None
    """`boot_id` of the events concerned, if no journal holds them."""
    first_seq: int | None = None
    """The first of the events concerned."""
    last_seq: int | None = None
    """The last of the events concerned."""


class Stroke(msgspec.Struct, frozen=True):
    """The stroke of a round brush, px of the frame."""

    points_xy: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Meta(min_length=1, max_length=MOST_POINTS)]
    """The path of the brush's centre; one point is a disc."""
    width_px: Annotated[int, Meta(ge=1, le=1024)]
    """Diameter of the brush."""


class Areas(msgspec.Struct, frozen=True, kw_only=True):
    """Areas of missed defects, px of the frame."""

    boxes_xywh: list[tuple[int, int, int, int]] = []
    """Left, top, width, height: the defect lies somewhere in it."""
    strokes: list[Stroke] = []
    """What they cover is defective."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a verdict, with the facts of the verdict that it is about."""

    id: MarkId
    """Chosen by the program that sends it, which recognises by it that the mark is journalled."""
    picture: PictureId
    """Id of the frame's picture, as in its verdict event."""
    camera: CameraName
    """The camera of the frame."""
    captured_at_ns: Annotated[int, Meta(ge=0)]
    """UTC, ns since 1970, as in the verdict event."""
    verdict: Verdict
    """The verdict that is marked; `NO_VERDICT` only if the line collects."""
    bundle: Digest | None
    """Digest of the bundle that gave the verdict; null: the line collects."""
    kind: MarkKind
    """What the reviewer says."""
    at_xy: Annotated[list[tuple[Coordinate, Coordinate]], Meta(max_length=MOST_POINTS)] = []
    """Where missed defects are, px of the frame. `missed` has at least one point, box or stroke, other kinds none."""
    boxes_xywh: Annotated[list[tuple[Coordinate, Coordinate, Length, Length]], Meta(max_length=MOST_POINTS)] = []
    """Left, top, width and height of boxes around missed defects, px of the frame."""
    strokes: Annotated[list[Stroke], Meta(max_length=MOST_POINTS)] = []
    """Brush strokes over missed defects."""
    by: ShortText
    """The reviewer's name, as the reviewer entered it."""

    def __post_init__(self) -> None:
        require_printable(by=self.by)
        if self.by != self.by.strip():
            raise ValueError(f"Expected a name without spaces at its ends, got {self.by!a} - at `$.by`")
        if self.kind == "false_alarm" and self.verdict != "DEFECT":
            raise ValueError(f"Expected a DEFECT as false alarm, got {self.verdict} - at `$.verdict`")
        if self.kind != "withdrawn" and (self.kind in LABELS) != (self.verdict == "NO_VERDICT"):
            raise ValueError(f"Expected a label if and only if there is no verdict, got {self.kind} of {self.verdict}")
        places = len(self.at_xy) + len(self.boxes_xywh) + len(self.strokes)
        if (self.kind == "missed") != bool(places):
            raise ValueError(f"Expected positions for `missed` only, got {places} for {self.kind}")


class ReviewEvent(_LineEvent, frozen=True, kw_only=True, tag="review"):
    """A person marked a verdict. docs/review.md says what marks mean together."""

    mark: Mark
    """The mark. `at_ns` is its time."""


class PartVerdict(NamedTuple):
    """What a line says of a part."""

    verdict: Verdict
    reason: str | None = None
    detail: str | None = None


class PartView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of a part, and what its verdict event says."""

    camera: str
    boot_id: str
    frame_number: int
    """Boot, camera and number name the frame, also across restarts."""
    verdict: Verdict
    reason: str | None = None
    frame_score: float | None = None
    """Logits."""
    picture: str | None = None
    captured_at_ns: int
    """UTC, ns since 1970."""


class PartEvent(_LineEvent, frozen=True, kw_only=True, tag="part"):
    """The verdict of a part, from all of its pictures; exactly one per part. docs/parts.md has the rules."""

    part_id: str | None
    """As in the triggers of its frames; null: they had none."""
    verdict: Verdict
    """`DEFECT` as soon as one picture is, `GOOD` if all are, else `NO_VERDICT`."""
    reason: str | None = None
    """Why there is no verdict: `part.missing`, `part.view` or `part.changed`; null for GOOD and DEFECT."""
    detail: str | None = None
    """The reason as a sentence for people, which names the camera; do not parse it."""
    views: list[PartView]
    """Its pictures until then, in the order of their verdicts."""
    missing: list[str]
    """Cameras whose pictures had not come. A DEFECT does not wait for them."""
    began_at_ns: int
    """Capture of the first picture: UTC, ns since 1970."""
    latency_ms: float
    """From that capture to the hand-over to the publisher, ms."""
    bundle: BundleName | None
    """Of the last picture."""
    product: str | None = None
    """Of the last picture."""
    acting: bool
    """As in verdict events; false if it is false for one of the pictures."""

    @property
    def topic(self) -> str:
        return f"part.{self.verdict}"


class StepEvent(_LineEvent, frozen=True, kw_only=True, tag="step"):
    """A person labelled or trained on the line's page."""

    step: StepKind
    """`labelled` a picture, began a `training`, `stopped` it, or it ended (`trained`)."""
    by: str | None
    """The name of the person's key, or as entered on the page; null if none is known."""
    detail: str
    """Which picture and label, how long, or what the training gave, as a sentence for people; do not parse it."""


CountedEvent = VerdictEvent | PartEvent | AlarmEvent | DriftEvent | ChangeEvent | JournalEvent | ReviewEvent | StepEvent
Event = CountedEvent | StatusEvent
"""Events that have a `seq` and are journalled."""


@dataclass(frozen=True)
class Message:
    """An event and, if the line sends it, the heatmap as PNG."""

    event: Event
    png: bytes | None = None


_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def event_from(header: bytes) -> Event:
    """Return the event in a header. The errors are those of `decode`."""
    return decode(header, _decoder, SCHEMA_VERSION, "an event", "this reader", "the line that sent it")


def to_frames(message: Message) -> list[bytes]:
    """Return the parts of a message: topic, JSON header, PNG if there is one."""
    parts = [message.event.topic.encode(), to_bytes(message.event)]
    return parts if message.png is None else [*parts, message.png]


def from_frames(parts: Sequence[bytes]) -> Message:
    """Return the message in these parts.

    Raises:
        MessageError: they are not a message of this schema version.
    """
    if len(parts) not in (2, 3):
        raise MessageError(f"a message of {len(parts)} part(s) came, expected topic, header and at most one picture")
    event = event_from(parts[1])
    if parts[0] != event.topic.encode():
        raise MessageError(f"a message came under topic {parts[0][:80]!r}, its header belongs under {event.topic!r}")
    has_png = isinstance(event, VerdictEvent) and event.heatmap is not None
    if has_png != (len(parts) == 3):
        raise MessageError(f"a message of {len(parts)} parts came, its header announces {3 if has_png else 2}")
    return Message(event, parts[2] if len(parts) == 3 else None)


def in_words(reason: str) -> str:
    """Return a reason in plain words; one of a newer line stays as it is."""
    return WORDS.get(reason, reason)
