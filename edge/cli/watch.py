"""`heatline watch`, `view` and `label`: show a line at work, in a terminal or as a page, and label its pictures."""

import contextlib
import time
from pathlib import Path

import click
import msgspec
import zmq

from heatline.edge.cli.output import FiniteRange, json_option, make_empty, print_json, say, topic_option
from heatline.edge.delivery.client import require_authorized
from heatline.edge.delivery.subscriber import Gap, NewBoot, Notice, Subscriber
from heatline.edge.describe import (
    EventText,
    describe_event,
    describe_frames,
    describe_state,
    happened_at_ns,
    local_time,
)
from heatline.edge.errors import InputError, MessageError
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import writing
from heatline.edge.util.text import on_one_line
from heatline.edge.wire.events import Message, StatusEvent, VerdictEvent

ALWAYS_SUBSCRIBED = "status", "alarm", "drift", "change", "journal"
"""These events report that the line has stopped, a camera's death, the active setup, and whether events are stored."""
SILENT_SECONDS = 5.0
"""A line publishes its status about once a second: after this silence it is down, or refuses this client."""


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

    Prints each event on one line, and the line's state when it changes. With --json, prints each event's header.
    LINE is a line's name, its TOML file, or the address of its events.

    Ends when the line reports that it has stopped.
    """
    address, keys = endpoint_of(line, "events", key_files)
    require_authorized(address, keys, zmq.SUB)
    with contextlib.ExitStack() as stack:
        saved = None
        if save is not None:
            stack.enter_context(writing(save))
            make_empty(save, "--save")
            saved = stack.enter_context((save / "events.jsonl").open("wb"))
        events = stack.enter_context(
            Subscriber(
                address,
                topics={*topics, *ALWAYS_SUBSCRIBED},
                timeout_s=SILENT_SECONDS if timeout_s is None and keys is not None else timeout_s,
                keys=keys,
            )
        )
        verdicts, state = 0, ""
        while True:
            try:
                received = events.receive()
            except MessageError as error:  # a message of another program must not end the watch
                say(f"heatline: {error}", err=True)
                continue
            if received is None:
                require_authorized(address, keys, zmq.SUB)  # its key may have been revoked
                if timeout_s is None:
                    continue
                return
            if not isinstance(received, Message):
                say(f"heatline: {received}", err=True) if as_json else click.echo(_notice_line(received))
                continue
            event = received.event
            if event.topic.startswith(topics):
                if save is not None and saved is not None:
                    saved.write(msgspec.json.encode(event) + b"\n")
                    saved.flush()
                    if received.png is not None and isinstance(event, VerdictEvent):
                        (save / f"{event.seq:06d}.png").write_bytes(received.png)
                if as_json:
                    print_json(event)
            if isinstance(event, StatusEvent):
                state, before = f"{event.line}: {event.state}, {describe_state(event)}", state
                if state != before and not as_json:
                    say("\n".join([state, *(f"{camera} {describe_frames(event, camera)}" for camera in event.ledger)]))
            elif not as_json:
                click.echo(line_of(event.seq, happened_at_ns(event), describe_event(event)))
            verdicts += isinstance(event, VerdictEvent)
            if (count and verdicts >= count) or (isinstance(event, StatusEvent) and event.state == "STOPPED"):
                return


def line_of(seq: object, at_ns: int, told: EventText) -> str:
    """Return an event as one line for a terminal."""
    subject, what, detail = map(on_one_line, (told.subject, told.what, told.detail))
    styled = click.style(what, fg=None if told.colour == "default" else told.colour, bold=True)
    parts = [f"{seq:>6}", local_time(at_ns, "%H:%M:%S"), told.camera, subject, styled, detail]
    return "  ".join(filter(None, parts))


def _notice_line(notice: Notice) -> str:
    """Return what is printed of missed events, a restart of the line, or its silence."""
    seq, what, detail = "", "new boot" if isinstance(notice, NewBoot) else "silence", str(notice)
    if isinstance(notice, Gap):
        seq, what, detail = f"after {notice.after_seq} up to {notice.through_seq}", "missed", notice.topic
    return line_of(seq, time.time_ns(), EventText("", "", what, detail, "yellow"))


@click.command(epilog="Example: heatline view line1")
@click.argument("line")
@click.option(
    "--listen", help="Address of the page, HOST:PORT; port 0: any free one. Default: web.listen of the line's file."
)
def view(line: str, listen: str | None) -> None:
    """Serve a page that shows LINE at work, until Ctrl-C.

    The page shows pictures, verdicts, and why. The line need not run: then the page shows the last verdicts of its
    journal, with their pictures in its evidence store. LINE is a line's name or its TOML file, on this PC.
    """
    require_extra("view")
    from heatline.edge.monitor.page import serve

    serve(line, listen, lambda url: click.echo(f"open {url} (Ctrl-C ends the page)"))


@click.command(epilog="Example: heatline label pictures")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--listen", default="127.0.0.1:8422", show_default=True, help="Address of the page, HOST:PORT; port 0: any free."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token that the page asks for.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Private key of this machine, beside the folder allowed/ of people who may label from others.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="Run whose model doubts the labels. Default: the newest in runs/ that was trained on FOLDER.",
)
def label(folder: Path, listen: str, token_file: Path | None, key: Path | None, run: Path | None) -> None:
    """Serve a page that labels the pictures in FOLDER, until Ctrl-C.

    A label is the subfolder that a picture lies in: good/, defective/ or unlabelled/, as `heatline train FOLDER` reads
    it. Boxes and brush strokes over defects are stored in labelme/.
    """
    require_extra("view")
    from heatline.edge.labels.folder import LabelFolder
    from heatline.edge.labels.training import read_scores
    from heatline.edge.monitor.label_page import serve_labels

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder of pictures")
    if run is not None:
        read_scores(run)
    labels = LabelFolder(folder)
    serve_labels(labels, listen, token_file, key, run, lambda url: click.echo(f"open {url} (Ctrl-C ends it)"))
