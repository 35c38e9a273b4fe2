"""`heatline reload`."""

import os
import signal
import time

import click
import zmq

from edge.cli.formatting import describe_in_force
from edge.cli.options import reply_timeout_option
from edge.cli.output import visible
from edge.cli.target import KeyFiles, endpoint_of, key_options
from edge.delivery.client.handshake_probe import describe_refusal, require_authorized
from edge.delivery.client.subscriber import Subscriber
from edge.errors import AccessError, CommandRefusedError, ConfigError, DeliveryError
from edge.wire.events import ChangeEvent, Message, StatusEvent

HEARD_WITHIN_SECONDS = 5.0
"""A line says how it is about once a second."""
LOOK_AT_THE_CLOCK_EVERY_SECONDS = 0.5


@click.command(epilog="Example: heatline reload line.toml; of a service: systemctl reload heatline@line1")
@click.argument("line")
@click.option(
    "--pid",
    type=click.IntRange(min=2),
    envvar="MAINPID",
    help="The line's process; default: $MAINPID, else as the line says.",
)
@reply_timeout_option(60.0, "for what becomes of it")
@key_options
def reload(line: str, pid: int | None, timeout_s: float, key_files: KeyFiles) -> None:
    """Have a running line read its file again.

    Waits until the file is in force or refused.
    LINE is a line's name, its TOML file, or the address of its events. If the file or what it names cannot be used,
    what was in force still is, and the command says why.
    """
    try:
        address, keys = endpoint_of(line, "events", key_files)
    except (AccessError, ConfigError) as error:
        if pid is not None:
            _tell(pid)  # so that the line says the same to all who listen
        raise type(error)(f"{error}; what was in force still is") from error
    with Subscriber(
        address, topics=["change", "status"], timeout_s=min(timeout_s, LOOK_AT_THE_CLOCK_EVERY_SECONDS), keys=keys
    ) as events:
        heard = _first_status(events, min(timeout_s, HEARD_WITHIN_SECONDS))
        if heard is None and pid is None:
            require_authorized(address, keys, zmq.SUB)
        pid = _whose(heard, pid, address)
        _tell(pid)
        if heard is None:
            if (refused := describe_refusal(address, keys, zmq.SUB)) is not None:
                raise AccessError(f"process {pid} was told to reload, and what became of it is not known, as {refused}")
            raise DeliveryError(
                f"process {pid} was told to reload, and what became of it is not known, as nothing was heard from "
                f"{address}; if its events.bind was changed, restart the line; its log says more"
            )
        change = _outcome(events, heard, timeout_s)
    if not change.applied:
        raise CommandRefusedError(None, change.detail or "the line's log says why")
    click.echo(visible(f"{change.line}: in force is {describe_in_force(change.product, change.bundle)}"))


def _whose(heard: StatusEvent | None, pid: int | None, address: str) -> int:
    """The process to tell: who is told to reload and is no line would end."""
    if heard is None:
        if pid is None:
            raise DeliveryError(
                f"nothing was heard from {address}, and nothing was told to reload; is the line running?"
            )
        return pid
    if pid not in (None, heard.pid):
        raise DeliveryError(f"process {pid} is not line {heard.line}'s, which is {heard.pid}; leave out --pid")
    return heard.pid


def _tell(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise DeliveryError(
            f"process {pid} cannot be told to reload ({error.strerror}); is it the line's, and is this user the line's "
            "or root?"
        ) from error


def _first_status(events: Subscriber, timeout_s: float) -> StatusEvent | None:
    """The line's word that it is there: from then on nothing that it says is missed."""
    until_s = time.monotonic() + timeout_s
    while True:
        heard = events.receive()
        if isinstance(heard, Message) and isinstance(heard.event, StatusEvent):
            return heard.event
        if time.monotonic() >= until_s:
            return None


def _outcome(events: Subscriber, heard: StatusEvent, timeout_s: float) -> ChangeEvent:
    until_s = time.monotonic() + timeout_s
    while True:
        came = events.receive()
        event = came.event if isinstance(came, Message) else None
        if isinstance(event, ChangeEvent) and event.change == "reload":
            return event
        if isinstance(event, StatusEvent) and (event.state == "STOPPED" or event.boot_id != heard.boot_id):
            raise DeliveryError(
                f"line {heard.line} stopped before it said what became of the reload; its log says more"
            )
        if time.monotonic() >= until_s:
            raise DeliveryError(
                f"line {heard.line} did not say within {timeout_s:g} s what became of the reload, and may still do it; "
                "its change events and its log say"
            )
