"""`heatline evidence mark`: says that a verdict is right or wrong."""

import contextlib
import re
import time
from typing import Any

import click
import msgspec
import zmq

from heatline.edge.cli.line import POLL_SECONDS, STATUS_WITHIN_SECONDS, first_status
from heatline.edge.cli.output import json_option, print_json, print_warnings, visible
from heatline.edge.delivery.client import require_authorized
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import ConfigError, DeliveryError, InputError, JournalError, MessageError
from heatline.edge.monitor.marks import combine, mark_of, merged
from heatline.edge.monitor.pictures import picture_socket, send_mark
from heatline.edge.monitor.store import EvidenceEntry, EvidenceStore, evidence_of
from heatline.edge.target import KeyFiles, endpoint_of, file_of, is_line, journal_of, key_options
from heatline.edge.wire.events import Message, ReviewEvent, StatusEvent, event_from
from heatline.edge.wire.marks import Mark, MarkKind

CONFIRMED_WITHIN_SECONDS = 5.0
MOST_REVIEWS = 100_000
KINDS: dict[str, MarkKind] = {
    "right": "right",
    "false-alarm": "false_alarm",
    "missed": "missed",
    "withdraw": "withdrawn",
}


class Position(click.ParamType[tuple[int, int]]):
    """A position in a frame, `X,Y` in px."""

    name = "x,y"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(-?[0-9]{1,9}),(-?[0-9]{1,9})", value)
        if found is None:
            self.fail(f"{value!r} is not a position; expected X,Y in px, as 640,480.", param, ctx)
        return int(found[1]), int(found[2])


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """A mark that the line has published."""

    journalled: bool
    event: ReviewEvent


@click.command(epilog="Example: heatline evidence mark line1 4f3a09c1-top-1281 missed --at 640,480 --by Ada")
@click.argument("line")
@click.argument("picture", metavar="ID")
@click.argument("kind", type=click.Choice([*KINDS]))
@click.option("--by", required=True, help="Your name. It is stored and published with the mark.")
@click.option(
    "--at",
    "at_xy",
    type=Position(),
    multiple=True,
    help="Where a missed defect is, px of the frame; may be repeated.",
)
@json_option
@key_options
def mark(
    line: str,
    picture: str,
    kind: str,
    by: str,
    at_xy: tuple[tuple[int, int], ...],
    as_json: bool,
    key_files: KeyFiles,
) -> None:
    """Say that the verdict of the stored picture ID is right or wrong.

    \b
    right        the verdict is right
    false-alarm  the verdict is DEFECT, and the part is good
    missed       the line did not find a defect, which is --at
    withdraw     take your former mark back

    The running line journals the mark and publishes it as a review event; the verdict stays as it was sent. Your last
    mark of a picture replaces your former ones. LINE is a line's name or its TOML file.
    """
    if not is_line(line):
        raise ConfigError(f"{line} is not a line, and only a running line takes a mark; name the line or its TOML file")
    store = EvidenceStore(evidence_of(line))
    entry = store.require(picture)
    if kind == "missed" and not at_xy:
        raise InputError("no position of the missed defect came; give one with --at X,Y, in px of the frame")
    if kind != "missed" and at_xy:
        raise InputError(f"--at came with {kind}; --at belongs to missed only, so leave it out")
    made = mark_of(entry.event, KINDS[kind], by, at_xy)
    if made.kind == "withdrawn":
        _require_mark(line, store, entry, made.by)
    event = _send(line, made, key_files)
    if as_json:
        print_json(Marked(journalled=event.journal_id is not None, event=event))
    if event.journal_id is None:
        raise JournalError(
            f"the line {event.line} published the mark of picture {picture}, but has no journal now, so the mark will "
            "be lost; see heatline status, and mark the picture again later"
        )
    if not as_json:
        done = (
            f"the mark of {made.by} of picture {picture} is withdrawn"
            if made.kind == "withdrawn"
            else f"picture {picture} is marked as {kind} by {made.by}"
        )
        click.echo(visible(f"{event.line}: {done}, event {event.seq}"))
    if made.kind != "withdrawn" and store.frame_path(picture, entry.day) is None:
        print_warnings(
            [f"the frame of picture {picture} is gone, so the mark counts in the report and not in a retraining"]
        )


def _require_mark(line: str, store: EvidenceStore, entry: EvidenceEntry, by: str) -> None:
    """Check that a mark of a reviewer counts for a picture. A journal that cannot be read shows nothing, so the check
    is left out then.

    Raises:
        InputError: none does.
    """
    try:
        journalled = _journalled_reviews(line, entry.picture)
    except JournalError:
        return
    # The store is written up to a second later than the journal, and keeps marks that the journal has deleted.
    stored = store.review_events(entry.picture, entry.day)
    review = combine(merged([*stored, *journalled])).get(entry.picture)
    if review is None or by not in review.reviewers:
        raise InputError(
            f"{by} has no mark of picture {entry.picture} to withdraw; heatline evidence show {line} {entry.picture} "
            "prints the marks"
        )


def _journalled_reviews(line: str, picture: str) -> list[ReviewEvent]:
    """Return the review events of a picture in the line's journal.

    Raises:
        JournalError: it cannot be read.
    """
    found = []
    with JournalReader.open_file(journal_of(line)) as reader:
        for stored in reader.newest(MOST_REVIEWS, ["review"]):
            with contextlib.suppress(MessageError):  # another version wrote it
                event = event_from(stored.record.header)
                if isinstance(event, ReviewEvent) and event.mark.picture == picture:
                    found.append(event)
    return found


def _send(line: str, made: Mark, key_files: KeyFiles) -> ReviewEvent:
    """Send a mark to the running line, and return its event.

    Raises:
        DeliveryError: the line does not run, or the event did not come.
    """
    address, keys = endpoint_of(line, "events", key_files)
    with Subscriber(address, topics=["review", "status"], timeout_s=POLL_SECONDS, keys=keys) as events:
        status = first_status(events, STATUS_WITHIN_SECONDS)
        if status is None or status.state == "STOPPED":
            require_authorized(address, keys, zmq.SUB)
            raise DeliveryError(f"nothing came from {address}, so nothing is marked; start the line, and try again")
        send_mark(picture_socket(file_of(line)), made)
        give_up_s = time.monotonic() + CONFIRMED_WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            received = events.receive()
            event = received.event if isinstance(received, Message) else None
            if isinstance(event, ReviewEvent) and event.mark.id == made.id:
                return event
            if isinstance(event, StatusEvent) and event.state == "STOPPED":
                break
    raise DeliveryError(
        f"the line {status.line} did not confirm the mark of picture {made.picture}, which may be journalled or not; "
        f"see heatline journal show {line} --topic review"
    )
