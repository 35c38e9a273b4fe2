"""The messages of the MQTT bridge say what the line's events say, under topics that MQTT allows."""

import json
import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bridge.mqtt.bridge import NO_SUBSCRIBERS, OF_THE_MESSAGE
from heatline.edge.bridge.mqtt.messages import Kind, Messages, Publication
from heatline.edge.errors import ConfigError, EventsLostError, SchemaVersionError
from heatline.edge.wire.events import Message, ReviewEvent, VerdictEvent, header_of
from heatline.edge.wire.following import Delivered
from heatline.edge.wire.mqtt import (
    AlarmPayload,
    ChangePayload,
    LostKind,
    LostPayload,
    Payload,
    ResultPayload,
    ReviewPayload,
)
from tests.edge.wire_examples import ALARM, CHANGE, GOLDEN, LIVE_ONLY, REFUSED_CHANGE

MESSAGES = Messages("acme/plant1", "line1", heatmaps=True)
VERDICTS = [name for name, message in GOLDEN.items() if isinstance(message.event, VerdictEvent)]
EVALUATIONS = {"GOOD": 1, "DEFECT": 2, "NO_VERDICT": 3}
SAME = {"camera", "verdict", "part_id", "product", "frame_id", "last_frame_id", "frame_number", "frames", "reason"} | {
    *("source", "frame_hw", "detail", "score_threshold", "evidence_threshold", "regions", "precision", "bundle"),
    *("latency_ms", "chunks", "picture", "boot_id", "seq"),
}


def delivered(message: Message, seq: int = 7) -> Delivered:
    event = msgspec.structs.replace(message.event, seq=seq, journal_id="j")
    return Delivered("j", seq, header_of(event), message.png)


def payload(publication: Publication) -> Payload:
    """Return the payload, which must fit the schema."""
    return msgspec.json.decode(publication.payload, type=Payload, strict=True)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_result_says_what_the_verdict_event_says(name: str) -> None:
    message = GOLDEN[name]
    given = delivered(message)
    header, (result, *rest) = json.loads(given.header), MESSAGES.of(given)
    said = json.loads(result.payload)
    assert isinstance(payload(result), ResultPayload)
    assert result.topic == f"acme/plant1/line1/result/{header['camera']}"
    assert (said["id"], result.id, said["line"]) == ("j-7", "j-7", "line1")
    assert said["evaluation"] == EVALUATIONS[header["verdict"]]
    assert said["is_simulated"] is not header["acting"]
    assert said["score"] == header["frame_score"]
    assert {key: said[key] for key in SAME} == {key: header[key] for key in SAME}
    at = datetime.fromisoformat(said["captured_at"])
    assert at.tzinfo == UTC
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86400 + since.seconds) * 10**6 + since.microseconds == header["times"][
        "captured_at_ns"
    ] // 1000
    assert [(each.topic, each.payload, each.id, each.content_type) for each in rest] == (
        []
        if message.png is None
        else [(f"acme/plant1/line1/heatmap/{header['camera']}", message.png, "j-7", "image/png")]
    )
    assert said["heatmap"] == (None if message.png is None else header["heatmap"])
    assert not result.retain


def test_a_result_comes_without_its_heatmap_where_none_was_asked_for() -> None:
    (result,) = Messages("heatline", "line1").of(delivered(GOLDEN["verdict-defect"]))
    assert json.loads(result.payload)["heatmap"] is None


@pytest.mark.parametrize(
    ("message", "kind", "of"),
    [
        (ALARM, "alarm", AlarmPayload),
        (CHANGE, "change", ChangePayload),
        (REFUSED_CHANGE, "change", ChangePayload),
        (GOLDEN["review"], "review", ReviewPayload),
        (LIVE_ONLY, "lost", LostPayload),
    ],
)
def test_other_events_have_topics_of_their_own(message: Message, kind: str, of: type) -> None:
    (made,) = MESSAGES.of(delivered(message))
    said, header = json.loads(made.payload), json.loads(delivered(message).header)
    assert isinstance(payload(made), of)
    assert (made.topic, said["id"], made.retain) == (f"acme/plant1/line1/{kind}", "j-7", False)
    if isinstance(message.event, ReviewEvent):
        assert said["mark"] == header["mark"]
    else:
        assert said["detail"] == header["detail"]
    assert {key: said[key] for key in ("alarm", "active", "applied", "change", "camera") if key in header} == {
        key: header[key] for key in ("alarm", "active", "applied", "change", "camera") if key in header
    }


def test_an_event_that_concerns_nobody_in_the_plant_makes_no_message() -> None:
    assert MESSAGES.of(delivered(GOLDEN["journal-discarded"])) == []


def test_an_unknown_event_is_told_and_one_of_another_version_is_an_error() -> None:
    (made,) = MESSAGES.of(Delivered("j", 7, b'{"type":"weather","schema_version":2,"journal_id":"j","seq":7}'))
    said = payload(made)
    assert isinstance(said, LostPayload)
    assert (said.kind, said.first_seq, said.last_seq, said.events) == ("unreadable", 7, 7, 1)
    with pytest.raises(SchemaVersionError):
        MESSAGES.of(Delivered("j", 7, b'{"type":"verdict","schema_version":3}'))


def test_lost_events_are_named_and_reported_under_the_same_id_again() -> None:
    lost = EventsLostError("they are gone", journal_id="j", after_seq=3, through_seq=9)
    said = payload(MESSAGES.lost(lost))
    assert isinstance(said, LostPayload)
    assert (said.kind, said.first_seq, said.last_seq, said.detail) == ("deleted", 4, 9, "they are gone")
    assert MESSAGES.lost(lost).id == said.id


@given(st.text())
def test_a_lines_name_is_one_level_of_a_topic_or_refused(name: str) -> None:
    if not name or set("+#/") & set(name) or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        with pytest.raises(ConfigError):
            Messages("acme", name)
    else:
        topic = Messages("acme", name).topic("result", "top")
        assert topic.split("/") == ["acme", name, "result", "top"]
        topic.encode()


def test_the_topics_are_those_that_the_document_lists() -> None:
    text = (Path(__file__).parents[2] / "docs" / "plant-mqtt.md").read_text()
    documented = re.findall(r"^\| `(\{prefix\}.*?)` \| (yes|no) \|", text, flags=re.MULTILINE)
    messages = Messages("{prefix}", "{line}")
    exist = [messages.topic(kind, "{camera}" if kind in ("result", "heatmap") else None) for kind in get_args(Kind)]
    assert documented == [(topic, "yes" if topic.endswith("/state") else "no") for topic in exist]


def test_the_kinds_of_loss_and_the_codes_of_refusals_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "plant-mqtt.md").read_text()
    section = text.partition("## Kinds of loss")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == set(get_args(LostKind))
    answers = text.partition("### What a broker answers")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"\b(\d+), (?:packet|payload)", answers)} == OF_THE_MESSAGE
    assert f"| {NO_SUBSCRIBERS}, no matching subscribers |" in answers
