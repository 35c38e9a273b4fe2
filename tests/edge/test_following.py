"""The durable protocol on the wire: what goes in comes out, and no bytes do more than be refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.delivery.durable.following import (
    CONSUMER_NAME,
    SCHEMA_VERSION,
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Former,
    Reason,
    Refused,
    ReplayRequest,
    Reply,
    Request,
    batch_parts,
    events_of,
    refusal,
    reply_from,
    request_from,
    to_bytes,
)
from edge.delivery.messages import AlarmEvent, VerdictEvent
from edge.errors import MessageError
from tests.edge.follow_examples import DATA, EVENTS, HEADERS, JOURNAL, PNG, REPLIES, REQUESTS, parts_of
from tests.edge.wire_examples import unpack

DOCUMENT = Path(__file__).parents[2] / "docs" / "durable.md"

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
NAME = st.from_regex(CONSUMER_NAME.replace("$", r"\Z"))
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=64)
JOURNAL_ID = st.from_regex("[A-Za-z0-9_-]{1,64}", fullmatch=True)
SEQ = st.integers(0, 2**63 - 1)
ID = st.none() | ANY_TEXT
TOPICS = st.lists(ANY_TEXT, min_size=1, max_size=5).map(tuple)
REQUEST = (
    st.builds(
        FollowRequest,
        name=NAME,
        client=PRINTABLE,
        window=st.integers(1, 1000),
        topics=TOPICS,
        heatmaps=st.booleans(),
        start=st.sampled_from(["first", "next"]),
    )
    | st.builds(AckRequest, name=NAME, journal_id=PRINTABLE, seq=SEQ)
    | st.tuples(SEQ, SEQ).flatmap(
        lambda seqs: st.builds(
            ReplayRequest,
            request_id=ID,
            journal_id=PRINTABLE,
            after_seq=st.just(min(seqs)),
            through_seq=st.just(max(seqs)),
            topics=TOPICS,
            heatmaps=st.booleans(),
        )
    )
    | st.builds(ForgetRequest, request_id=ID, name=NAME)
)
REPLY = (
    st.builds(
        Following,
        name=NAME,
        journal_id=JOURNAL_ID,
        acked_seq=SEQ,
        first_seq=SEQ,
        last_seq=SEQ,
        heartbeat_s=st.floats(0.001, 3600),
        former=st.none() | st.builds(Former, journal_id=JOURNAL_ID, acked_seq=SEQ),
    )
    | st.builds(
        Batch,
        request_id=ID,
        journal_id=JOURNAL_ID,
        after_seq=SEQ,
        through_seq=SEQ,
        last_seq=SEQ,
        events=st.integers(0, 1000),
        lost_through=st.none() | SEQ,
    )
    | st.builds(Forgotten, request_id=ID, name=NAME)
    | st.builds(Refused, request_id=ID, reason=ANY_TEXT, detail=ANY_TEXT)
)
FOLLOW, ACK = FollowRequest(name="mes1", client="c"), AckRequest(name="mes1", journal_id=JOURNAL, seq=7)
REPLAY = ReplayRequest(request_id="r", journal_id=JOURNAL, after_seq=1, through_seq=9)
FORGET = ForgetRequest(request_id="r", name="mes1")
REQUESTS_BY_HAND = [FOLLOW, ACK, REPLAY, FORGET]


@settings(deadline=None, max_examples=200)
@given(REQUEST)
def test_a_request_that_is_written_is_the_one_that_is_read(request: Request) -> None:
    assert request_from(to_bytes(request)) == request


@settings(deadline=None, max_examples=200)
@given(REPLY)
def test_a_reply_that_is_written_is_the_one_that_is_read(reply: Reply) -> None:
    assert reply_from(to_bytes(reply)) == reply


# Bytes of version 1.


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_kept_of_schema_version_1_stay_readable_and_equal(name: str) -> None:
    (part,) = unpack((DATA / name).read_bytes())
    assert request_from(part) == REQUESTS[name]


@pytest.mark.parametrize("name", REPLIES)
def test_replies_kept_of_schema_version_1_stay_readable_and_equal(name: str) -> None:
    parts = unpack((DATA / name).read_bytes())
    reply = reply_from(parts[0])
    assert reply == REPLIES[name]
    if isinstance(reply, Batch):
        assert events_of(reply, parts) == EVENTS[: reply.events]
    else:
        assert len(parts) == 1


@pytest.mark.parametrize("kind", [*get_args(Request), *get_args(Reply), Former])
def test_kept_bytes_name_their_schema_version_and_together_every_field(kind: type[msgspec.Struct]) -> None:
    kept = [json.loads(unpack((DATA / name).read_bytes())[0]) for name in [*REQUESTS, *REPLIES]]
    assert {each["schema_version"] for each in kept} == {SCHEMA_VERSION}
    if kind is Former:
        seen = [each["former"] for each in kept if each.get("former")]
    else:
        seen = [each for each in kept if each["type"] == kind.__struct_config__.tag]
    for field in msgspec.structs.fields(kind):
        values = [each[field.encode_name] for each in seen]
        assert values
        if not field.required and field.name != "schema_version":
            default = json.loads(msgspec.json.encode(field.default))
            assert any(value != default for value in values), f"{field.name} always has its default"


@pytest.mark.parametrize("message", [*REQUESTS.values(), *REPLIES.values()], ids=[*REQUESTS, *REPLIES])
def test_every_field_is_written_whatever_it_holds(message: Request | Reply) -> None:
    assert json.loads(to_bytes(message)).keys() == {"type", *message.__struct_fields__}


def test_fields_that_a_later_line_adds_to_replies_are_ignored_and_reasons_too() -> None:
    for name, reply in REPLIES.items():
        (part, *_) = unpack((DATA / name).read_bytes())
        assert reply_from(part[:-1] + b',"later":[{"x":1}]}') == reply
    later = reply_from(b'{"type":"refused","schema_version":1,"reason":"asleep","detail":"It is night."}')
    assert later == Refused(reason="asleep", detail="It is night.")


def test_a_reply_of_a_newer_version_is_refused() -> None:
    with pytest.raises(MessageError, match="schema version 2 came, this client knows up to 1; update heatline"):
        reply_from(b'{"type":"following","schema_version":2}')


# What is none.


def changed(change: Callable[[dict[str, Any]], Any], request: Request = FOLLOW) -> bytes:
    """A request changed by hand."""
    content = json.loads(to_bytes(request))
    change(content)
    return json.dumps(content).encode()


REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "malformed", "truncated"),
    (b"follow", "malformed", "JSON is malformed"),
    (b"[]", "malformed", "Expected `object`, got `array`"),
    (b"{}", "malformed", "missing required field `schema_version`"),
    (b'{"type":"follow","schema_version":1,"name":"\xff"}', "malformed", "utf-8"),
    (b'{"x":' + b"[" * 60_000, "malformed", "recursion"),
    (changed(lambda r: r.pop("type")), "malformed", "missing required field `type`"),
    (changed(lambda r: r.update(type="trigger")), "malformed", "Invalid value 'trigger'"),  # it goes to another address
    (changed(lambda r: r.update(type="batch")), "malformed", "Invalid value"),  # a reply is no request
    (changed(lambda r: r.pop("schema_version")), "malformed", "missing required field `schema_version`"),
    (changed(lambda r: r.update(schema_version=0)), "malformed", "Expected `int` >= 1"),
    (changed(lambda r: r.update(schema_version=2)), "version", "schema version 2 came, this line knows up to 1"),
    (changed(lambda r: r.update(schema_version=2, type="x", y=1)), "version", "update heatline"),
    (changed(lambda r: r.pop("name")), "malformed", "missing required field `name`"),
    (changed(lambda r: r.update(name="")), "malformed", "at `$.name`"),
    (changed(lambda r: r.update(name="x" * 65)), "malformed", "at `$.name`"),
    (changed(lambda r: r.update(name="mes 1")), "malformed", "at `$.name`"),
    (changed(lambda r: r.update(name="mes/1")), "malformed", "at `$.name`"),
    (changed(lambda r: r.update(name="mes1\n")), "malformed", "at `$.name`"),
    (changed(lambda r: r.update(name="m\u00e9s")), "malformed", "at `$.name`"),
    (changed(lambda r: r.pop("client")), "malformed", "missing required field `client`"),
    (changed(lambda r: r.update(client="")), "malformed", "length >= 1 - at `$.client`"),
    (changed(lambda r: r.update(client="x" * 65)), "malformed", "length <= 64 - at `$.client`"),
    (changed(lambda r: r.update(client="\x1b[2J")), "malformed", "printable characters"),
    (changed(lambda r: r.update(window=0)), "malformed", "Expected `int` >= 1 - at `$.window`"),
    (changed(lambda r: r.update(window=1001)), "malformed", "Expected `int` <= 1000 - at `$.window`"),
    (changed(lambda r: r.update(window=1.5)), "malformed", "Expected `int`"),
    (changed(lambda r: r.update(topics="verdict.")), "malformed", "Expected `array`"),
    (changed(lambda r: r.update(topics=[])), "malformed", "length >= 1 - at `$.topics`"),
    (changed(lambda r: r.update(topics=["x"] * 65)), "malformed", "length <= 64 - at `$.topics`"),
    (changed(lambda r: r.update(topics=["x" * 201])), "malformed", "length <= 200"),
    (changed(lambda r: r.update(topics=[1])), "malformed", "Expected `str`"),
    (changed(lambda r: r.update(heatmaps=1)), "malformed", "Expected `bool`"),
    (changed(lambda r: r.update(start="last")), "malformed", "Invalid enum value 'last'"),
    (changed(lambda r: r.update(begin="next")), "malformed", "unknown field `begin`"),
    (changed(lambda r: r.update(seq=-1), ACK), "malformed", "Expected `int` >= 0 - at `$.seq`"),
    (changed(lambda r: r.update(seq=2**63), ACK), "malformed", "at `$.seq`"),
    (changed(lambda r: r.update(seq=2**64), ACK), "malformed", "at `$.seq`"),
    (changed(lambda r: r.update(seq=None), ACK), "malformed", "Expected `int`"),
    (changed(lambda r: r.pop("journal_id"), ACK), "malformed", "missing required field `journal_id`"),
    (changed(lambda r: r.update(request_id="r"), ACK), "malformed", "unknown field `request_id`"),
    (changed(lambda r: r.update(through_seq=0), REPLAY), "malformed", "Expected `int` >= 1 - at `$.through_seq`"),
    (changed(lambda r: r.update(name="*"), FORGET), "malformed", "at `$.name`"),
]


@pytest.mark.parametrize(("data", "reason", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_request_is_refused_in_one_short_sentence(data: bytes, reason: str, words: str) -> None:
    reply = request_from(data)
    assert isinstance(reply, Refused)
    assert reply.reason == reason
    assert words in reply.detail
    assert "\n" not in reply.detail
    assert len(to_bytes(reply)) < 1000


def test_a_refusal_names_the_request_where_its_id_can_be_read() -> None:
    assert request_from(changed(lambda r: r.update(x=1), REPLAY)).request_id == "r"  # type: ignore[union-attr]
    assert request_from(changed(lambda r: r.update(schema_version=2), FORGET)).request_id == "r"  # type: ignore[union-attr]
    assert request_from(changed(lambda r: r.update(x=1), FOLLOW)).request_id is None  # type: ignore[union-attr]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=100))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    assert isinstance(request_from(data), Refused)
    with pytest.raises(MessageError):
        reply_from(data)


@settings(deadline=None, max_examples=300)
@given(request=st.sampled_from(REQUESTS_BY_HAND), place=st.integers(0, 10**4), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_request_or_a_refusal_and_nothing_else(request: Request, place: int, value: int) -> None:
    data = bytearray(to_bytes(request))
    data[place % len(data)] = value
    came = request_from(bytes(data))
    assert isinstance(came, type(request) | Refused)
    to_bytes(came)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(request=st.sampled_from(REQUESTS_BY_HAND), data=st.data())
def test_any_value_in_place_of_a_field_gives_a_request_or_a_refusal_and_nothing_else(
    request: Request, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(["type", *request.__struct_fields__]))
    value = data.draw(JSON)
    came = request_from(changed(lambda content: content.update({field: value}), request))
    assert isinstance(came, Request | Refused)
    to_bytes(came)


def test_a_long_detail_is_cut() -> None:
    assert len(refusal("malformed", "x" * 10_000).detail) == 300


# Batches.


def batch(**changes: Any) -> Batch:
    return msgspec.structs.replace(REPLIES["batch-v1.bin"], **changes)


def test_events_come_as_they_were_journalled() -> None:
    first, second = events_of(batch(), parts_of(batch()))
    assert (first.key, first.seq, first.header, first.png) == (f"{JOURNAL}-8", 8, HEADERS[0], PNG)
    assert (second.key, second.seq, second.header, second.png) == (f"{JOURNAL}-10", 10, HEADERS[1], None)
    assert isinstance(first.event, VerdictEvent)
    assert isinstance(second.event, AlarmEvent)
    assert (first.topic, second.topic) == (first.event.topic, second.event.topic) == ("verdict.top.DEFECT", "alarm")


def test_events_of_types_and_versions_to_come_are_handed_on_as_they_are() -> None:
    header = b'{"type":"weather","schema_version":9,"journal_id":"j","seq":1,"camera":[1]}'
    one = Batch(journal_id="j", after_seq=0, through_seq=1, last_seq=1, events=1)
    (event,) = events_of(one, batch_parts(one, [(header, None)]))
    assert (event.header, event.key, event.topic) == (header, "j-1", "weather")
    with pytest.raises(MessageError, match="update heatline"):
        _ = event.event


WRONG: list[tuple[Batch, list[bytes], str]] = [
    (batch(), parts_of(batch())[:-1], "a batch of 4 part"),
    (batch(), [*parts_of(batch()), b""], "a batch of 6 part"),
    (batch(events=1), parts_of(batch()), "1 events have 3"),
    (batch(events=0), parts_of(batch()), "0 events have 1"),
    (batch(through_seq=9), parts_of(batch()), "event .*-10 came after 8 in a batch up to .*-9"),
    (batch(after_seq=8), parts_of(batch()), "event .*-8 came after 8"),
    (batch(journal_id="other"), parts_of(batch()), "event .*-8 came"),
    (batch(after_seq=12), parts_of(batch()), "a batch after 12 up to 11"),
    (batch(lost_through=8), parts_of(batch()), "event .*-8 came after 8"),
    (batch(lost_through=7), parts_of(batch()), "those up to 7 are gone"),
    (batch(lost_through=12), parts_of(batch()), "those up to 12 are gone"),
    (batch(), [b"", HEADERS[1], b"", HEADERS[0], PNG], "event .*-8 came after 10"),
    (batch(), [b"", HEADERS[0], b"", HEADERS[0], b""], "event .*-8 came after 8"),
    (batch(), [b"", b"{}", b"", HEADERS[0], b""], "no event"),
    (batch(), [b"", b"\xff", b"", HEADERS[0], b""], "no event"),
]


@pytest.mark.parametrize(("announced", "parts", "words"), WRONG, ids=range(len(WRONG)))
def test_a_batch_that_is_not_what_it_says_is_no_batch(announced: Batch, parts: list[bytes], words: str) -> None:
    with pytest.raises(MessageError, match=words):
        events_of(announced, parts)


@settings(deadline=None, max_examples=200)
@given(
    after=st.integers(0, 20), steps=st.lists(st.integers(1, 5), max_size=6), rest=st.integers(0, 3), pngs=st.randoms()
)
def test_any_run_of_events_is_read_as_it_was_written(after: int, steps: list[int], rest: int, pngs: Any) -> None:
    seqs = [after + sum(steps[: count + 1]) for count in range(len(steps))]
    events = [
        Delivered("j", seq, b'{"journal_id":"j","seq":%d}' % seq, b"png" if pngs.random() < 0.5 else None)
        for seq in seqs
    ]
    through = max([after, *seqs]) + rest
    one = Batch(journal_id="j", after_seq=after, through_seq=through, last_seq=through, events=len(events))
    assert events_of(one, batch_parts(one, [(event.header, event.png) for event in events])) == events


# The document.


def section(heading: str) -> str:
    level = heading.count("#")
    below = f"\n{DOCUMENT.read_text()}".partition(f"\n{heading}\n")[2]
    assert below, heading
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### Follow", FollowRequest),
        ("### Acknowledge", AckRequest),
        ("### Replay", ReplayRequest),
        ("### Forget", ForgetRequest),
        ("### Following", Following),
        ("### Batch", Batch),
        ("### Forgotten", Forgotten),
        ("### Refused", Refused),
    ],
)
def test_every_field_is_documented_with_its_default(heading: str, kind: type[msgspec.Struct]) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|([^|]*)\|([^|]*)\|[^|]+\|$", section(heading), flags=re.MULTILINE)
    table = {name: (kind.strip(), default.strip()) for name, kind, default in rows}
    assert table.pop("type") == (f'`"{kind.__struct_config__.tag}"`', "")
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if "former" in fields:
        assert {name for name in table if "." in name} == {f"former.{name}" for name in Former.__struct_fields__}
    assert {name: default.strip("`") for name, (_, default) in table.items() if "." not in name} == {
        name: "" if field.required else json.dumps(field.default) for name, field in fields.items()
    }


def test_every_reason_is_documented() -> None:
    documented = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section("### Refused"), flags=re.MULTILINE)
    assert documented == list(get_args(Reason))


def test_the_worked_exchange_is_what_goes_over_the_wire() -> None:
    messages = re.findall(r"^```json\n(.*?)\n```$", section("## A worked exchange"), flags=re.MULTILINE | re.DOTALL)
    kinds: list[str] = []
    refused: Refused | None = None
    announced: Batch | None = None
    parts: list[bytes] = []
    for text in messages:
        content = json.loads(text)
        kinds.append(content["type"])
        if "boot_id" in content:  # an event, which documents may break into lines
            parts += [json.dumps(content).encode(), b""]
        elif content["type"] in ("follow", "ack", "replay", "forget"):
            request = request_from(text.encode())
            refused = request if isinstance(request, Refused) else None
            assert refused or to_bytes(request) == text.encode()
        else:
            assert announced is None or len(events_of(announced, [b"", *parts])) == announced.events
            reply = reply_from(text.encode())
            assert to_bytes(reply) == text.encode()
            assert refused is None or reply == refused
            announced, parts = (reply, []) if isinstance(reply, Batch) else (None, [])
    assert announced is None
    assert {"follow", "following", "batch", "ack", "alarm", "replay", "refused"} <= set(kinds)


def test_the_document_is_of_this_schema_version() -> None:
    assert f"**schema version {SCHEMA_VERSION}**" in DOCUMENT.read_text()


@pytest.mark.parametrize("odd", ["", "../../etc/passwd", "a/b", "j\n", "x" * 65])
def test_a_journal_whose_id_could_be_a_path_is_refused(odd: str) -> None:
    following = Following(name="mes1", journal_id=odd, acked_seq=0, first_seq=0, last_seq=0, heartbeat_s=1.0)
    with pytest.raises(MessageError, match="journal_id"):
        reply_from(to_bytes(following))


def test_an_event_that_does_not_say_what_it_is_has_no_topic() -> None:
    with pytest.raises(MessageError, match="j-1 does not say what it is"):
        _ = Delivered("j", 1, b'{"journal_id":"j","seq":1}').topic
