"""Messages on the wire: what goes in comes out, newer fields do no harm, and no bytes do more than be refused."""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cameras.state import CameraState
from edge.delivery.messages import (
    SCHEMA_VERSION,
    AlarmEvent,
    BundleName,
    Change,
    ChangeEvent,
    Consumer,
    Counts,
    Event,
    Handshake,
    HeatmapPng,
    JournalEvent,
    JournalState,
    Message,
    StatusEvent,
    Times,
    VerdictEvent,
    Welcome,
    from_frames,
    to_frames,
    welcome_from,
    welcome_to_bytes,
)
from edge.errors import MessageError
from edge.geometry import Region
from edge.inspection.ledger import Account
from tests.edge.wire_examples import (
    ALARM,
    CHANGE,
    DATA,
    DEFECT,
    GOOD,
    HANDSHAKE,
    KEPT,
    LIVE_ONLY,
    LOST,
    NO_FRAME,
    NO_VERDICT,
    STATUS,
    unpack,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
INT = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**40)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
XY = st.tuples(COUNT, COUNT)
REGION = st.builds(Region, st.tuples(COUNT, COUNT, COUNT, COUNT), st.lists(XY, max_size=5), COUNT, XY, FLOAT)
BUNDLE = st.builds(BundleName, name=TEXT, version=TEXT, digest=TEXT)
VERDICT = st.builds(
    VerdictEvent,
    boot_id=TEXT,
    seq=COUNT,
    camera=NAME,
    frame_id=st.none() | COUNT,
    last_frame_id=st.none() | COUNT,
    frame_number=COUNT,
    frames=COUNT,
    source=st.none() | TEXT,
    part_id=st.none() | TEXT,
    times=st.builds(Times, captured_at_ns=INT, captured_monotonic_ns=INT, camera_timestamp_ns=st.none() | INT),
    verdict=st.sampled_from(["GOOD", "DEFECT", "NO_VERDICT"]),
    reason=st.none() | TEXT,
    detail=st.none() | TEXT,
    frame_score=st.none() | FLOAT,
    score_threshold=FLOAT,
    evidence_threshold=FLOAT,
    precision=TEXT,
    bundle=BUNDLE,
    product=st.none() | TEXT,
    journal_id=st.none() | TEXT,
    regions=st.lists(REGION, max_size=3),
    latency_ms=FLOAT,
    acting=st.booleans(),
    heatmap=st.none() | st.builds(HeatmapPng, hw=XY, cell_px=COUNT, logit_at_0=FLOAT, logit_at_255=FLOAT),
    chunks=st.dictionaries(TEXT, FLOAT, max_size=3),
)
COUNTED = {"journal_id": st.none() | TEXT, "previous_seq": st.none() | COUNT}
BINS = st.dictionaries(TEXT, COUNT, max_size=3)
CAMERA_STATE = st.builds(
    CameraState,
    state=st.sampled_from(["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]),
    reason=st.none() | TEXT,
    detail=st.none() | TEXT,
    since_at_ns=INT,
    openings=COUNT,
    counters=BINS,
)
CHANGED = {
    "change": st.sampled_from(["reload", "select"]),
    "in_force": st.booleans(),
    "detail": st.none() | TEXT,
    "at_ns": INT,
}
HANDSHAKES = st.builds(
    Handshake,
    state=st.sampled_from(["READY", "BUSY", "DEGRADED", "NOT_READY"]),
    reason=st.none() | TEXT,
    detail=st.none() | TEXT,
    heartbeat=COUNT,
)
COUNTS = st.builds(Counts, journal_id=st.none() | TEXT, journalled=BINS, unjournalled=BINS)
STATUS_EVENT = st.builds(
    StatusEvent,
    boot_id=TEXT,
    at_ns=INT,
    line=TEXT,
    state=st.sampled_from(["STARTING", "RUNNING", "STOPPED"]),
    last_seq=COUNT,
    ledger=st.dictionaries(NAME, st.builds(Account, COUNT, COUNT, BINS, BINS, COUNT), max_size=3),
    cameras=st.dictionaries(NAME, CAMERA_STATE, max_size=3),
    bundle=BUNDLE,
    engine=TEXT,
    precision=TEXT,
    acting=st.booleans(),
    product=st.none() | TEXT,
    handshake=st.none() | HANDSHAKES,
    last_change=st.none() | st.builds(Change, **CHANGED),
    journal_id=st.none() | TEXT,
    counts=st.none() | COUNTS,
    journal=st.none()
    | st.builds(
        JournalState,
        journal_id=st.none() | TEXT,
        first_seq=COUNT,
        last_seq=COUNT,
        size_bytes=COUNT,
        live_only=st.none() | TEXT,
        unjournalled=COUNT,
        discarded=COUNT,
        consumers=st.dictionaries(
            NAME, st.builds(Consumer, acked_seq=COUNT, connected=st.booleans(), seen_at_ns=st.none() | INT), max_size=2
        ),
    ),
    refused=BINS,
)
ALARM_EVENT = st.builds(
    AlarmEvent,
    boot_id=TEXT,
    seq=COUNT,
    at_ns=INT,
    line=TEXT,
    camera=NAME,
    alarm=TEXT,
    detail=TEXT,
    active=st.booleans(),
    began_at_ns=INT,
    acting=st.booleans(),
    **COUNTED,
)
CHANGE_EVENT = st.builds(
    ChangeEvent,
    boot_id=TEXT,
    seq=COUNT,
    line=TEXT,
    product=st.none() | TEXT,
    bundle=BUNDLE,
    acting=st.booleans(),
    **CHANGED,
    **COUNTED,
)
JOURNAL_EVENT = st.builds(
    JournalEvent,
    boot_id=TEXT,
    seq=COUNT,
    at_ns=INT,
    line=TEXT,
    what=TEXT,
    detail=TEXT,
    events=st.none() | COUNT,
    by_topic=BINS,
    of_boot=st.none() | TEXT,
    first_seq=st.none() | COUNT,
    last_seq=st.none() | COUNT,
    consumers=st.lists(TEXT, max_size=2),
    **COUNTED,
)


@settings(deadline=None, max_examples=150)
@given(event=VERDICT | STATUS_EVENT | ALARM_EVENT | CHANGE_EVENT | JOURNAL_EVENT, png=st.binary(max_size=50))
def test_what_is_sent_is_what_is_received(event: Event, png: bytes) -> None:
    has_picture = isinstance(event, VerdictEvent) and event.heatmap is not None
    message = Message(event, png if has_picture else None)
    parts = to_frames(message)
    assert len(parts) == (3 if has_picture else 2)
    assert all(isinstance(part, bytes) for part in parts)
    assert from_frames(parts) == message


@settings(deadline=None)
@given(st.builds(Welcome, boot_id=TEXT, line=TEXT, counts=COUNTS))
def test_a_welcome_that_is_sent_is_what_is_received(welcome: Welcome) -> None:
    assert welcome_from(welcome_to_bytes(welcome)) == welcome


WELCOME_V1 = (
    b'welcome {"type":"welcome","schema_version":1,"boot_id":"b","line":"line1","counts":{"journal_id":"j",'
    b'"journalled":{"alarm":9},"unjournalled":{}}}'
)


def test_a_welcome_of_schema_version_1_stays_readable() -> None:
    welcome = Welcome(boot_id="b", line="line1", counts=Counts(journal_id="j", journalled={"alarm": 9}))
    assert welcome_from(WELCOME_V1) == welcome
    assert welcome_to_bytes(welcome) == WELCOME_V1
    assert welcome_from(WELCOME_V1.replace(b'"boot_id"', b'"hint":{"x":1},"boot_id"')) == welcome


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (WELCOME_V1.replace(b'version":1', b'version":2'), "of schema version 2 came, this reader knows up to 1"),
        (b"welcome ", "that is no welcome"),
        (b"welcome {}", "that is no welcome"),
        (b"welcome \xff", "that is no welcome"),
    ],
)
def test_what_is_no_welcome_is_refused(part: bytes, complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        welcome_from(part)


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        (GOOD, b"verdict.top.GOOD"),
        (DEFECT, b"verdict.top.DEFECT"),
        (NO_VERDICT, b"verdict.side-2.NO_VERDICT"),
        (LOST, b"verdict.top.NO_VERDICT"),
        (STATUS, b"status"),
        (ALARM, b"alarm"),
        (CHANGE, b"change"),
        (LIVE_ONLY, b"journal"),
    ],
)
def test_the_topic_says_kind_camera_and_verdict(message: Message, topic: bytes) -> None:
    assert to_frames(message)[0] == topic


@pytest.mark.parametrize("name", KEPT)
def test_bytes_kept_of_schema_version_1_stay_readable_and_equal(name: str) -> None:
    assert from_frames(unpack((DATA / name).read_bytes())) == KEPT[name]


@pytest.mark.parametrize("kind", [VerdictEvent, StatusEvent, AlarmEvent, ChangeEvent, JournalEvent])
def test_kept_bytes_name_their_schema_version_and_together_every_field(kind: type[Event]) -> None:
    headers = [
        msgspec.json.decode(unpack((DATA / name).read_bytes())[1])
        for name, message in KEPT.items()
        if isinstance(message.event, kind)
    ]
    assert {header["schema_version"] for header in headers} == {1}
    assert {field for header in headers for field in header} == {"type", *kind.__struct_fields__}


@pytest.mark.parametrize("message", KEPT.values(), ids=KEPT)
def test_every_field_is_written_whatever_it_holds(message: Message) -> None:
    header = msgspec.json.decode(to_frames(message)[1])
    assert list(header) == ["type", *type(message.event).__struct_fields__], "a reader in another language sees all"


def changed(message: Message, change: Callable[[dict[str, Any]], Any]) -> list[bytes]:
    """A message's parts with a header changed by hand."""
    topic, header, *rest = to_frames(message)
    content = msgspec.json.decode(header)
    change(content)
    return [topic, msgspec.json.encode(content), *rest]


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    def add(header: dict[str, Any]) -> None:
        header["torque_nm"] = 3
        header["bundle"]["signature"] = {"by": ["someone"]}
        header["times"]["exposed_at_ns"] = None
        header["regions"][0]["area_mm2"] = 0.5

    assert from_frames(changed(DEFECT, add)) == DEFECT


def test_fields_with_a_default_may_be_missing() -> None:
    def leave_out(header: dict[str, Any]) -> None:
        for name in (
            "last_frame_id",
            "frame_number",
            "frames",
            "source",
            "part_id",
            "reason",
            "detail",
            "frame_score",
            "product",
            "journal_id",
            "regions",
            "heatmap",
            "chunks",
        ):
            del header[name]

    came = from_frames(changed(GOOD, leave_out)).event
    assert isinstance(came, VerdictEvent)
    assert (came.frame_score, came.regions, came.heatmap) == (None, [], None)
    assert (came.frame_number, came.frames, came.last_frame_id, came.chunks) == (0, 1, None, {})


def test_a_status_of_an_older_line_has_no_handshake() -> None:
    def leave_out(header: dict[str, Any]) -> None:
        for name in ("product", "handshake", "last_change"):
            del header[name]

    came = from_frames(changed(HANDSHAKE, leave_out)).event
    assert isinstance(came, StatusEvent)
    assert (came.product, came.handshake, came.last_change) == (None, None, None)


def test_a_part_without_a_frame_says_so_and_does_not_leave_the_frame_out() -> None:
    assert msgspec.json.decode(to_frames(NO_FRAME)[1])["frame_id"] is None
    assert from_frames(to_frames(NO_FRAME)) == NO_FRAME
    with pytest.raises(MessageError, match="missing required field `frame_id`"):
        from_frames(changed(NO_FRAME, lambda header: header.pop("frame_id")))


REFUSED: list[tuple[list[bytes], str]] = [
    ([], "message of 0 part"),
    ([b"status"], "message of 1 part"),
    ([*to_frames(DEFECT), b"more"], "message of 4 part"),
    ([b"status", b""], "is no event"),
    ([b"status", b"hello"], "is no event"),
    ([b"status", b"[]"], "is no event"),
    ([b"status", b"{}"], "missing required field `schema_version`"),
    ([b"status", b'{"schema_version": 1}'], "missing required field `type`"),
    ([b"status", b'{"schema_version": 1, "type": "torque"}'], "Invalid value 'torque'"),
    ([b"status", b'{"schema_version": "1"}'], "Expected `int`"),
    ([b"status", b'\xff\xfe{"schema_version": 1}'], "is no event"),
    ([b"status", b'{"schema_version": 1, "type": "status", "line": "\xff"}'], "is no event"),
    ([b"status", b'{"schema_version": 1, "x": ' + b"[" * 100_000], "is no event"),  # deeper than any reader goes
    ([b"status", b'{"schema_version": 1, "x": ' + b'{"a":' * 100_000], "is no event"),
    (changed(STATUS, lambda h: h.update(schema_version=SCHEMA_VERSION + 1)), "update heatline"),
    (changed(STATUS, lambda h: h.update(schema_version=10**30)), "update heatline"),
    (changed(GOOD, lambda h: h.update(verdict="MAYBE")), "Invalid enum value 'MAYBE'"),
    (changed(GOOD, lambda h: h.update(frame_id="1")), "Expected `int | null`, got `str` - at `$.frame_id`"),
    (changed(GOOD, lambda h: h["times"].pop("captured_at_ns")), "missing required field `captured_at_ns`"),
    (changed(GOOD, lambda h: h.pop("acting")), "missing required field `acting`"),  # nobody's ejector guesses
    (changed(GOOD, lambda h: h.update(score_threshold=None)), "Expected `float`"),
    (changed(ALARM, lambda h: h.pop("active")), "missing required field `active`"),  # nor whether a camera is back
    (changed(CHANGE, lambda h: h.pop("in_force")), "missing required field `in_force`"),  # nor what is in force
    (changed(CHANGE, lambda h: h.pop("product")), "missing required field `product`"),
    (changed(HANDSHAKE, lambda h: h["handshake"].pop("state")), "missing required field `state`"),
    (changed(HANDSHAKE, lambda h: h["handshake"].update(state="FINE")), "Invalid enum value 'FINE'"),
    (changed(HANDSHAKE, lambda h: h["handshake"].pop("heartbeat")), "missing required field `heartbeat`"),
    ([b"verdict.top.GOOD", to_frames(DEFECT)[1], b"png"], "belongs under 'verdict.top.DEFECT'"),  # a defect as good
    ([b"verdict.side.GOOD", to_frames(GOOD)[1]], "belongs under 'verdict.top.GOOD'"),
    ([b"", to_frames(STATUS)[1]], "belongs under 'status'"),
    ([b"status", to_frames(ALARM)[1]], "belongs under 'alarm'"),
    ([b"status", to_frames(CHANGE)[1]], "belongs under 'change'"),
    (to_frames(DEFECT)[:2], "message of 2 parts came, its header announces 3"),  # the picture is lost
    ([*to_frames(GOOD), b"png"], "message of 3 parts came, its header announces 2"),
    ([*to_frames(STATUS), b"png"], "message of 3 parts came, its header announces 2"),
    ([*to_frames(ALARM), b"png"], "message of 3 parts came, its header announces 2"),
    ([*to_frames(CHANGE), b"png"], "message of 3 parts came, its header announces 2"),
]


@pytest.mark.parametrize(("parts", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_message_of_ours_is_refused(parts: list[bytes], words: str) -> None:
    with pytest.raises(MessageError) as caught:
        from_frames(parts)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500, "a refusal does not repeat all of a long message"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_no_bytes_do_more_than_be_refused(parts: list[bytes]) -> None:
    with pytest.raises(MessageError):
        from_frames(parts)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(KEPT)), place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_message_or_a_refusal_and_nothing_else(name: str, place: int, value: int) -> None:
    topic, header, *rest = to_frames(KEPT[name])
    damaged = bytearray(header)
    damaged[place % len(damaged)] = value
    try:
        message = from_frames([topic, bytes(damaged), *rest])
    except MessageError:
        return
    assert message.event.topic.encode() == topic
    if isinstance(message.event, VerdictEvent):
        assert math.isfinite(message.event.score_threshold)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(KEPT)), data=st.data())
def test_any_value_in_place_of_a_field_gives_a_message_or_a_refusal_and_nothing_else(
    name: str, data: st.DataObject
) -> None:
    message = KEPT[name]
    field = data.draw(st.sampled_from(type(message.event).__struct_fields__))
    value = data.draw(JSON)
    try:
        came = from_frames(changed(message, lambda header: header.update({field: value})))
    except MessageError:
        return
    assert isinstance(came.event, type(message.event))
    to_frames(came)
