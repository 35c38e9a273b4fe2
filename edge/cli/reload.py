"""`heatline reload`."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import click
import zmq

from heatline.edge.cli.first_status import POLL_SECONDS, STATUS_WITHIN_SECONDS, first_status
from heatline.edge.cli.formatting import describe_active
from heatline.edge.cli.options import reply_timeout_option
from heatline.edge.cli.output import visible
from heatline.edge.config.bundle_key import changed_bundle
from heatline.edge.delivery.client.handshake_probe import describe_refusal, require_authorized
from heatline.edge.delivery.client.subscriber import Subscriber
from heatline.edge.errors import AccessError, CommandRefusedError, ConfigError, DeliveryError
from heatline.edge.target import KeyFiles, endpoint_of, file_of, key_options
from heatline.edge.wire.events import ChangeEvent, Message, StatusEvent

EXAMPLES = """
Example:

\b
  heatline reload line.toml
  heatline reload line1 --bundle /var/lib/bundles/boards-retrain1.bundle
  systemctl reload heatline@line1
"""


@click.command(epilog=EXAMPLES)
@click.argument("line")
@click.option(
    "--pid",
    type=click.IntRange(min=2),
    envvar="MAINPID",
    help="The line's process. Default: $MAINPID, else the process that the line's status names.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="First write this bundle into the line's file, as `bundle`. If the line refuses it, the file is restored.",
)
@click.option("--product", help="With --bundle: the product whose `bundle` is written. Default: the line's own.")
@reply_timeout_option(60.0, "until the file is active or refused")
@key_options
def reload(
    line: str, pid: int | None, bundle: Path | None, product: str | None, timeout_s: float, key_files: KeyFiles
) -> None:
    """Have a running line read its file again.

    Waits until the file is active or refused.
    LINE is a line's name, its TOML file, or the address of its events. If the file or what it names cannot be used,
    nothing changes, and the command prints the reason.
    """
    if bundle is None:
        if product is not None:
            raise click.UsageError("--product needs --bundle")
        _reload(line, pid, timeout_s, key_files)
        return
    if "://" in line:
        raise click.UsageError(f"--bundle changes a line's file, and {line} is an address; name the line or its file")
    with changed_bundle(file_of(line), bundle.absolute(), product) as change:
        _reload(line, pid, timeout_s, key_files, on_request=change.keep)


def _reload(
    line: str, pid: int | None, timeout_s: float, key_files: KeyFiles, on_request: Callable[[], None] = lambda: None
) -> None:
    """Reload the line's file.

    Args:
        on_request: called once the line is asked.
    Raises:
        CommandRefusedError: the line refuses the file.
        AccessError, ConfigError, DeliveryError: the line was not asked, or its answer is not known.
    """
    try:
        address, keys = endpoint_of(line, "events", key_files)
    except (AccessError, ConfigError) as error:
        if pid is not None:
            _request_reload(pid)  # the line then publishes the same error to all its clients
        raise type(error)(f"{error}; nothing has changed") from error
    with Subscriber(address, topics=["change", "status"], timeout_s=min(timeout_s, POLL_SECONDS), keys=keys) as events:
        status = first_status(events, min(timeout_s, STATUS_WITHIN_SECONDS))
        if status is None and pid is None:
            require_authorized(address, keys, zmq.SUB)
        pid = _find_process(status, pid, address)
        _request_reload(pid)
        on_request()
        if status is None:
            if (refused := describe_refusal(address, keys, zmq.SUB)) is not None:
                raise AccessError(f"process {pid} was asked to reload, but the result is not known, as {refused}")
            raise DeliveryError(
                f"process {pid} was asked to reload, but the result is not known, as nothing came from {address}; if "
                "its events.bind was changed, restart the line, else see its log"
            )
        change = _wait_for_change(events, status, timeout_s)
    if not change.applied:
        raise CommandRefusedError(None, change.detail or "the line's log says why")
    click.echo(visible(f"{change.line}: {describe_active(change.product, change.bundle)} is active"))


def _find_process(status: StatusEvent | None, pid: int | None, address: str) -> int:
    """Return the line's process. Any other process would be ended by the signal."""
    if status is None:
        if pid is None:
            raise DeliveryError(f"nothing came from {address}, so no line was asked to reload; is the line running?")
        return pid
    if pid not in (None, status.pid):
        raise DeliveryError(f"process {pid} is not line {status.line}'s, which is {status.pid}; leave out --pid")
    return status.pid


def _request_reload(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise DeliveryError(
            f"process {pid} cannot be asked to reload ({error.strerror}); check that it is the line's, and run this as "
            "the line's user or as root"
        ) from error


def _wait_for_change(events: Subscriber, status: StatusEvent, timeout_s: float) -> ChangeEvent:
    deadline_s = time.monotonic() + timeout_s
    while True:
        received = events.receive()
        event = received.event if isinstance(received, Message) else None
        if isinstance(event, ChangeEvent) and event.change == "reload":
            return event
        if isinstance(event, StatusEvent) and (event.state == "STOPPED" or event.boot_id != status.boot_id):
            raise DeliveryError(
                f"the line {status.line!r} stopped before it reported the result of the reload; see its log"
            )
        if time.monotonic() >= deadline_s:
            raise DeliveryError(
                f"the line {status.line!r} did not report the result of the reload within {timeout_s:g} s, and may "
                "still apply it; see its change events and its log"
            )
