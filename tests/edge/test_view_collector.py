"""What the page reads of a line: each verdict once, from the journal and from the events, also those that it missed."""

import time
from collections.abc import Callable
from pathlib import Path

from heatline.edge.delivery.publisher import Publisher
from heatline.edge.monitor.collector import Collector
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.wire.events import Message
from tests.command import WITHIN_SECONDS
from tests.edge.journals import good, make_writer
from tests.edge.reviewed import review_of


def until(fact: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WITHIN_SECONDS
    while not fact():
        assert time.monotonic() < give_up


def numbers(memory: Memory) -> list[int]:
    return [row["frame_number"] for row in memory.rows(100)]


def collector(folder: Path, address: str, memory: Memory, metrics: Metrics | None = None) -> Collector:
    journal, pictures = folder / "journal.db", folder / "no-pictures"
    return Collector(memory, metrics or Metrics(memory), address=address, keys=None, journal=journal, pictures=pictures)


def test_verdicts_that_did_not_come_live_are_read_in_the_journal(tmp_path: Path, address: str) -> None:
    writer, memory, publisher = make_writer(tmp_path), Memory(), Publisher(address)
    held = _verdicts(writer.commit([good(number=number) for number in (1, 2)]))
    publisher.start()
    try:
        with collector(tmp_path, address, memory):
            until(lambda: numbers(memory) == [1, 2])
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            for message in (held[1], *_verdicts(writer.commit([good(number=3)]))):  # it has read the first already
                publisher.send(message)
            until(lambda: 3 in numbers(memory))
            publisher.send(_verdicts(writer.commit([good(number=number) for number in (4, 5, 6)]))[2])
            until(lambda: 6 in numbers(memory))
    finally:
        publisher.close()
        writer.close()
    assert numbers(memory) == [1, 2, 3, 4, 5, 6]


def test_verdicts_that_a_line_sends_before_it_is_heard_are_read_in_its_journal(tmp_path: Path, address: str) -> None:
    memory, publisher = Memory(), Publisher(address)
    publisher.start()
    try:
        with collector(tmp_path, address, memory):
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            writer = make_writer(tmp_path)
            sent = _verdicts(writer.commit([good(number=number) for number in (1, 2, 3)]))
            writer.close()
            publisher.send(sent[2])
            until(lambda: 3 in numbers(memory))
    finally:
        publisher.close()
    assert numbers(memory) == [1, 2, 3]


def test_a_new_journal_begins_again_at_its_first_event(tmp_path: Path, address: str) -> None:
    former, other, memory, publisher = make_writer(tmp_path), tmp_path / "other", Memory(), Publisher(address)
    former.commit([good(number=number) for number in range(1, 6)])
    former.close()
    other.mkdir()
    writer = make_writer(other)
    publisher.start()
    try:
        with collector(tmp_path, address, memory):
            until(lambda: len(numbers(memory)) == 5)
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            for message in _verdicts(writer.commit([good(number=11)])):
                publisher.send(message)
            until(lambda: 11 in numbers(memory))
    finally:
        publisher.close()
        writer.close()


def test_marks_come_from_the_journal_and_live_and_those_that_were_missed_are_read_in_it(
    tmp_path: Path, address: str
) -> None:
    writer, memory, publisher = make_writer(tmp_path), Memory(), Publisher(address)
    reviews = [Message(review_of(by, number=number)) for number in (1, 2, 3, 4) for by in ("Anna", "Ben")]

    def reviewers(number: int) -> list[str]:
        found = memory.review_of(f"01234567-top-{number}")
        return [] if found is None else found.by

    writer.commit([good(), *reviews[:2]])
    publisher.start()
    metrics = Metrics(memory)
    try:
        with collector(tmp_path, address, memory, metrics):
            until(lambda: reviewers(1) == ["Anna", "Ben"])
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            (live,) = [each for each in writer.commit([reviews[2]]) if each.event.topic == "review"]
            publisher.send(live)
            until(lambda: reviewers(2) == ["Anna"])
            publisher.send([each for each in writer.commit(reviews[3:]) if each.event.topic == "review"][-1])
            until(lambda: reviewers(4) == ["Anna", "Ben"])
    finally:
        publisher.close()
        writer.close()
    assert [reviewers(number) for number in (1, 2, 3)] == [["Anna", "Ben"]] * 3
    assert 'heatline_reviews_total{camera="top",kind="right"} 6.0' in metrics.exposition().decode()


def test_missing_pictures_are_a_sentence(tmp_path: Path, address: str) -> None:
    memory = Memory()
    with collector(tmp_path, address, memory):
        until(lambda: memory.pictures_fault is not None)
    assert memory.pictures_fault is not None
    assert "check that the line runs" in memory.pictures_fault


def _verdicts(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message.event.topic.startswith("verdict.")]
