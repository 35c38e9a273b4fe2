"""`heatline watch`."""

import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Self

import click
import msgspec
import zmq
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from heatline.edge.cli.fitted_table import fitted_table
from heatline.edge.cli.formatting import (
    describe_account,
    describe_active,
    describe_camera,
    describe_handshake,
    local_time,
)
from heatline.edge.cli.options import FiniteRange, topic_option
from heatline.edge.cli.output import json_option, make_empty, print_json, table_console, visible
from heatline.edge.delivery.client.gap_detector import Gap
from heatline.edge.delivery.client.handshake_probe import require_authorized
from heatline.edge.delivery.client.subscriber import LineLost, NewBoot, Notice, Subscriber
from heatline.edge.errors import MessageError
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.util.files import writing
from heatline.edge.wire.events import (
    AlarmEvent,
    ChangeEvent,
    CountedEvent,
    DriftEvent,
    Event,
    JournalEvent,
    Message,
    ReviewEvent,
    StatusEvent,
    VerdictEvent,
)

MAX_ROWS = 200
LINES_BESIDE_ROWS = 8
ALWAYS_SUBSCRIBED = "status", "alarm", "drift", "change", "journal"
"""These events report that the line has stopped, a camera's death, the active setup, and whether events are stored."""
SILENT_SECONDS = 5.0
"""A line publishes its status about once a second: after this silence it is down, or refuses this client."""
HEADINGS = "seq", "time", "camera", "frame", "verdict", "score", "regions", "peak x,y", "ms"
NUMBERS = "seq", "score", "regions", "ms"
GO_FIRST = "peak x,y", "ms", "score", "seq"
"""Columns that a narrow terminal does not show."""
MAY_BE_CUT = {"regions": 24, "frame": 12}
"""Columns of sentences and file names, and the characters that are left at least; --json prints all of them."""
STYLES = {"GOOD": "green", "DEFECT": "bold red", "NO_VERDICT": "bold yellow"}
STATE_STYLES = {"READY": "bold green", "BUSY": "bold yellow", "DEGRADED": "bold yellow", "NOT_READY": "bold red"}


@click.command(epilog="Example: heatline watch line1")
@click.argument("line")
@topic_option
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many verdicts.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0), help="Stop after so many seconds without an event.")
@click.option("--save", type=click.Path(path_type=Path), help="New folder for events.jsonl and heatmaps (SEQ.png).")
@key_options
@json_option
def watch(
    line: str,
    topics: tuple[str, ...],
    count: int | None,
    timeout_s: float | None,
    save: Path | None,
    key_files: KeyFiles,
    as_json: bool,
) -> None:
    """Show LINE's events as they come.

    The newest event is at the bottom. With --json, prints each event's header on one line.
    LINE is a line's name, its TOML file, or the address of its events.

    Ends when the line reports that it has stopped.
    """
    table = EventTable()
    address, keys = endpoint_of(line, "events", key_files)
    require_authorized(address, keys, zmq.SUB)
    with (
        _Saver(save) as saver,
        Subscriber(
            address,
            topics={*topics, *ALWAYS_SUBSCRIBED},
            timeout_s=SILENT_SECONDS if timeout_s is None and keys is not None else timeout_s,
            keys=keys,
        ) as events,
        table.live(hidden=as_json) as live,
    ):
        verdicts = 0
        while True:
            try:
                received = events.receive()
            except MessageError as error:  # a message of another program must not end the watch
                click.echo(f"heatline: {error}", err=True)
                continue
            if received is None:
                require_authorized(address, keys, zmq.SUB)  # its key may have been revoked
                if timeout_s is None:
                    continue
                return
            if not isinstance(received, Message):
                if as_json:
                    click.echo(f"heatline: {visible(str(received))}", err=True)
                else:
                    table.add_notice(received)
                    live.update(table)
                continue
            event = received.event
            if event.topic.startswith(topics):
                saver.save(received)
                if as_json:
                    print_json(event)
            if not as_json:
                table.add(event)
                live.update(table)
            verdicts += isinstance(event, VerdictEvent)
            if (count and verdicts >= count) or (isinstance(event, StatusEvent) and event.state == "STOPPED"):
                return


class _Saver:
    """Saves messages in a folder, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lines: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._folder is not None:
            with writing(self._folder):
                make_empty(self._folder, "--save")
                self._lines = (self._folder / "events.jsonl").open("wb")
        return self

    def save(self, message: Message) -> None:
        if self._folder is None or self._lines is None:
            return
        with writing(self._folder):
            self._lines.write(msgspec.json.encode(message.event) + b"\n")
            self._lines.flush()
            if message.png is not None and isinstance(message.event, VerdictEvent):
                (self._folder / f"{message.event.seq:06d}.png").write_bytes(message.png)

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()


class EventTable:
    """A table of the last events, with the line's status below it."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Text | str, ...]] = deque(maxlen=MAX_ROWS)
        self._status = Text("waiting for the line", style="dim")

    def live(self, hidden: bool) -> Live:
        """Return a live display of the table; if `hidden`, nothing is drawn."""
        return Live(self, console=table_console(quiet=hidden), refresh_per_second=8)

    def add(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, StatusEvent):
            self._status = _status(event)
        elif isinstance(event, AlarmEvent):
            self._add_other(event, event.camera, "", f"DEAD: {event.alarm}" if event.active else "is back", "red")
        elif isinstance(event, DriftEvent):
            what, colour = ("drift", "yellow") if event.active else ("drift over", "green")
            self._add_other(event, event.camera, event.measure, what, colour, event.detail)
        elif isinstance(event, ChangeEvent):
            what, colour = ("active", "green") if event.applied else ("refused", "red")
            detail = describe_active(event.product, event.bundle) if event.applied else event.detail or ""
            self._add_other(event, "", event.change, what, colour, detail)
        elif isinstance(event, JournalEvent):
            colour = "green" if event.kind in ("begun", "recording") else "red"
            self._add_other(event, "", "journal", event.kind, colour, event.detail)
        elif isinstance(event, ReviewEvent):
            mark = event.mark
            sentence = f"{mark.verdict} of {mark.picture}, marked by {mark.by}"
            self._add_other(event, mark.camera, "review", mark.kind.replace("_", " "), "", sentence)
        else:
            self._add_verdict(event)

    def _add_other(self, event: CountedEvent, camera: str, of: str, what: str, colour: str, detail: str = "") -> None:
        assert not isinstance(event, VerdictEvent)
        style = f"bold {colour}".strip()
        row = str(event.seq), _clock(event.at_ns), camera, of, Text(what, style=style), "", Text(detail), "", ""
        self._rows.append(row)

    def _add_verdict(self, event: VerdictEvent) -> None:
        highest = event.regions[0] if event.regions else None
        self._rows.append(
            (
                str(event.seq),
                _clock(event.times.captured_at_ns),
                event.camera,
                Text(_frame(event)),  # as Text: a name may hold brackets
                Text(event.verdict, style=STYLES[event.verdict]),
                "" if event.frame_score is None else f"{event.frame_score:.2f}",
                Text(_reason(event) or "; ".join(filter(None, [str(len(event.regions) or ""), event.description]))),
                f"{highest.peak_xy[0]},{highest.peak_xy[1]}" if highest else "",
                f"{event.latency_ms:.0f}",
            )
        )

    def add_notice(self, notice: Notice) -> None:
        """Add a row for missed events, a restart of the line, or its silence."""
        seq, detail = "", visible(str(notice))
        match notice:
            case Gap():
                what, seq = "missed", f"after {notice.after_seq} up to {notice.through_seq}"
                detail = visible(notice.topic)
            case NewBoot():
                what = "new boot"
            case LineLost():
                what = "silence"
        row = Text(what, style="bold yellow"), "", Text(detail), "", ""
        self._rows.append((seq, _clock(time.time_ns()), "", "", *row))

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        # A live display must fit the screen, so it shows the newest rows; a file gets all rows.
        is_screen = console.is_terminal
        rows = list(self._rows)[-max(console.height - LINES_BESIDE_ROWS, 5) :] if is_screen else list(self._rows)
        yield fitted_table(HEADINGS, rows, console.width, numbers=NUMBERS, go_first=GO_FIRST, may_be_cut=MAY_BE_CUT)
        yield self._status
        if not console.is_terminal:
            yield ""


def _status(event: StatusEvent) -> Text:
    """Describe the line: whether it is ready for the next part, the active product, and each camera's frames."""
    text = Text(f"{event.line}: {event.state}", style="bold")
    text.append(", ").append(describe_handshake(event.handshake), style=STATE_STYLES[event.handshake.state])
    if event.product is not None:
        text.append(f", product {event.product}")
    if event.handshake.detail is not None:
        text.append(f"\n{event.handshake.detail}", style="not bold")
    if event.web is not None and event.web.fault is not None:
        text.append(f"\nthe page is not served: {event.web.fault}", style="not bold")
    for camera, account in event.ledger.items():
        state = event.cameras.get(camera)
        suffix = "" if state is None else f" {describe_camera(state)}"
        text.append(f"\n{camera}{suffix}: {describe_account(account)}", style="not bold")
    return text


def _reason(event: VerdictEvent) -> str | None:
    """Return why there is no verdict; for a frame that failed, with the details."""
    if event.reason is None or event.detail is None or not event.reason.startswith("failed."):
        return event.reason
    return f"{event.reason}: {event.detail}"


def _frame(event: VerdictEvent) -> str:
    """Describe the frame, or the run of frames, with its part."""
    name = event.source or ("none" if event.frame_id is None else str(event.frame_id))
    if event.frames > 1:
        name += f" to {event.last_frame_id} ({event.frames})"
    return name if event.part_id is None else f"{name} [{event.part_id}]"


def _clock(at_ns: int) -> str:
    return local_time(at_ns, "%H:%M:%S")
