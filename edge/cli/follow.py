"""`heatline follow`."""

import contextlib
import re
from pathlib import Path

import click
import zmq

from heatline.edge.cli.follow_sinks import Command, Heatmaps, JsonLines, Sink, Standard
from heatline.edge.cli.options import FiniteRange, topic_option
from heatline.edge.cli.output import visible
from heatline.edge.delivery.client.follower import Follower, forget
from heatline.edge.delivery.client.handshake_probe import require_authorized
from heatline.edge.errors import EventsLostError
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.util.process import sigterm_as_ctrl_c
from heatline.edge.util.text import format_count
from heatline.edge.wire.following import CONSUMER_NAME, Start


def _name(_: click.Context, __: click.Parameter, name: str) -> str:
    if not re.fullmatch(CONSUMER_NAME, name):
        raise click.BadParameter(
            f"{name!r} is not valid; expected 1 to 64 letters, digits, dots, hyphens and underscores."
        )
    return name


@click.command(epilog="Example: heatline follow line1 --name mes1 --jsonl events.jsonl")
@click.argument("line")
@click.option(
    "--name", required=True, callback=_name, help="The consumer's name: the line stores its position under this name."
)
@topic_option
@click.option("--exec", "command", help="Command to run for each event, until it succeeds.")
@click.option("--jsonl", type=click.Path(path_type=Path), help="File to which each event is appended once.")
@click.option("--heatmaps", type=click.Path(path_type=Path), help="Folder for heatmaps (KEY.png).")
@click.option(
    "--from",
    "start",
    type=click.Choice(["first", "next"]),
    default="first",
    show_default=True,
    help="Where a new name starts: at the first event in the journal, or at the next event.",
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0), help="Stop after so many seconds without an event.")
@click.option("--forget", "to_forget", is_flag=True, help="Delete this consumer: the line keeps no events for it.")
@key_options
def follow(
    line: str,
    name: str,
    topics: tuple[str, ...],
    command: str | None,
    jsonl: Path | None,
    heatmaps: Path | None,
    start: Start,
    count: int | None,
    timeout_s: float | None,
    to_forget: bool,
    key_files: KeyFiles,
) -> None:
    """Receive every event of LINE, also those of an outage.

    Starts at the first event that was not acknowledged under this name.
    LINE is a line's name, its TOML file, or the address at which it serves its journal.

    Prints one event per line, as JSON. With --jsonl, appends each event once to a file, and acknowledges it when it is
    on the disk. With --exec, runs a command for each event. The command gets the event on its standard input, and its
    key, topic and picture in HEATLINE_KEY, HEATLINE_TOPIC and HEATLINE_HEATMAP. If it fails, it is run again after a
    pause, until it succeeds.

    Events that are lost are reported on standard error, and at the end the number of events received.
    """
    if command is not None and jsonl is not None:
        raise click.UsageError("--exec and --jsonl exclude each other; follow under two names")
    if command is not None and not command.strip():
        raise click.UsageError("--exec is empty; name a command to run for each event")
    address, keys = endpoint_of(line, "journal", key_files)
    if to_forget:
        forget(address, name, keys=keys)
        click.echo(f"consumer {name} is deleted")
        return
    require_authorized(address, keys, zmq.DEALER)
    with contextlib.ExitStack() as open_:
        open_.enter_context(sigterm_as_ctrl_c())  # the events at hand are finished
        pictures = None if heatmaps is None else Heatmaps(heatmaps)
        sink: Sink
        if jsonl is not None:
            sink = open_.enter_context(contextlib.closing(JsonLines(jsonl)))
        else:
            sink = Standard() if command is None else Command(command, pictures)
        events = open_.enter_context(
            Follower(
                address,
                name,
                topics=topics,
                heatmaps=pictures is not None,
                start=start,
                timeout_s=timeout_s,
                keys=keys,
            )
        )
        _follow(events, sink, pictures, count)


def _follow(events: Follower, sink: Sink, pictures: Heatmaps | None, count: int | None) -> None:
    received, last = 0, ""
    while count is None or received < count:
        try:
            batch = events.receive_batch(sink.at_most if count is None else min(count - received, sink.at_most))
        except EventsLostError as lost:
            click.echo(f"heatline: {visible(str(lost))}", err=True)
            continue
        if not batch:
            break
        if pictures is not None:
            pictures.write(batch)
        sink.take(batch)
        received, last = received + len(batch), f", the last is {visible(batch[-1].key)}"
        interrupted = isinstance(sink, Command) and sink.interrupted
        if received == count or interrupted:
            events.acknowledge()
        if interrupted:
            raise KeyboardInterrupt
    click.echo(f"{format_count(received, 'event')} received{last}", err=True)
