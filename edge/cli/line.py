"""`heatline run`, `status`, `reload`, `select` and `trigger`: a line, and what it is asked and told to do."""

import contextlib
import json
import os
import re
import signal
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import zmq
from msgspec.structs import asdict

from heatline.edge import describe
from heatline.edge.bundle import open_bundle
from heatline.edge.cli.output import exit_immediately, json_option, print_report, reply_timeout_option, say
from heatline.edge.config import load_config
from heatline.edge.delivery.client import Commander, require_authorized
from heatline.edge.delivery.subscriber import Subscriber, next_status
from heatline.edge.errors import CommandRefusedError, ConfigError, DeliveryError
from heatline.edge.target import KeyFiles, endpoint_of, file_of, key_options, name_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.wire.commands import Announced
from heatline.edge.wire.events import ChangeEvent, Handshake, HandshakeState, Message, StatusEvent

EXIT_CODES: Mapping[HandshakeState, int] = {"READY": 0, "BUSY": 16, "DEGRADED": 17, "NOT_READY": 18}
"""Of `status`. Different from those of errors, so that a script can tell a line that is not ready from a failure."""
STATUS_WITHIN_SECONDS = 5.0
"""A running line publishes its status about once a second."""
BUNDLE_LINE = re.compile(r"""^([ \t]*bundle[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.MULTILINE)
POLL_SECONDS = 0.5
"""Longest wait of the subscriber for a message."""


@click.command(epilog="Example: heatline run /etc/heatline/line1.toml")
@click.argument("line", type=click.Path(path_type=Path))
def run(line: Path) -> None:
    """Run the inspection service that LINE, a TOML file, describes.

    Ends when every camera has sent its last frame. At SIGTERM or Ctrl-C, ends after the frames in flight are published.
    At SIGHUP, reads LINE again; if it cannot be used, nothing changes.
    """
    # Imported here, as the other commands do not need it.
    from heatline.edge.service.lifecycle import Service, signal_handlers
    from heatline.edge.util.process import raise_limits

    raise_limits()
    service = Service(line, load_config(line))
    with signal_handlers(service):
        service.run()
        if service.leaves_change_running:
            exit_immediately(0)


@click.command(epilog="Example: heatline status line1")
@click.argument("line")
@reply_timeout_option(3.0, "for the line's status, which comes about once a second")
@key_options
@json_option
def status(line: str, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Print whether LINE is ready for the next part, and if not, why.

    The state is READY, BUSY, DEGRADED or NOT_READY.
    LINE is a line's name, its TOML file, or the address of its events. Exit codes: 0 READY, 16 BUSY, 17 DEGRADED,
    18 NOT_READY, also if no status came from the line.
    """
    address, keys = endpoint_of(line, "events", key_files)
    began_s = time.monotonic()
    event = next_status(address, timeout_s, keys)
    if event is None:
        require_authorized(address, keys, zmq.SUB)
        handshake = Handshake(
            state="NOT_READY",
            reason="unreachable",
            detail=f"no status came from {address} within {time.monotonic() - began_s:.1f} s; check that the line "
            "runs, that this is its events.bind, and that this user may connect",
            heartbeat=0,
        )
        report = {**asdict(handshake), "heartbeat": None, "address": address, "status": None}
    else:
        handshake = event.handshake
        report = {**asdict(handshake), "address": address, "status": event}
    name = name_of(line) if event is None else event.line
    reason = "" if handshake.reason is None else f" ({handshake.reason})"
    facts = {"why": handshake.detail} | ({} if event is None else _facts(event))
    print_report(report, as_json, f"{name}: {handshake.state}{reason}", facts)
    click.get_current_context().exit(EXIT_CODES[handshake.state])


def _facts(event: StatusEvent) -> dict[str, object]:
    journal = event.journal
    consumers = {} if journal is None else journal.consumers
    return {
        "product": event.product,
        "bundle": describe.describe_bundle(event.bundle),
        "engine": f"{event.engine} in {event.precision}",
        "acting": "yes" if event.acting else "no: an ejector must not act on its verdicts",
        "heartbeat": event.handshake.heartbeat,
        **{f"camera {name}": describe.describe_frames(event, name) for name in event.ledger},
        "journal": journal and describe.describe_journal(journal),
        **{f"consumer {name}": journal and describe.describe_consumer(one, journal) for name, one in consumers.items()},
        "evidence": event.evidence and describe.describe_evidence(event.evidence),
        "page": event.web and describe.describe_web(event.web),
        "shadow": event.shadow and describe.describe_shadow(event.shadow),
        "refused": ", ".join(f"{count} {reason}" for reason, count in event.refused.items()) or None,
        "last change": event.last_change and describe.describe_change(event.last_change),
    }


@click.command(
    epilog="\n\nExample:\n\n\b\n  heatline reload line.toml\n"
    "  heatline reload line1 --bundle /var/lib/bundles/boards-retrain1.bundle\n  systemctl reload heatline@line1"
)
@click.argument("line")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="First write this bundle into the line's file, as `bundle`. If the line refuses it, the file is restored.",
)
@click.option("--product", help="With --bundle: the product whose `bundle` is written. Default: the line's own.")
@reply_timeout_option(60.0, "until the file is active or refused")
@key_options
def reload(line: str, bundle: Path | None, product: str | None, timeout_s: float, key_files: KeyFiles) -> None:
    """Have a running line read its file again.

    Waits until the file is active or refused.
    LINE is a line's name, its TOML file, or the address of its events. If the file or what it names cannot be used,
    nothing changes, and the command prints the reason.
    """
    if bundle is None:
        if product is not None:
            raise click.UsageError("--product needs --bundle")
        _reload(line, timeout_s, key_files)
        return
    if "://" in line:
        raise click.UsageError(f"--bundle changes a line's file, and {line} is an address; name the line or its file")
    file, bundle = file_of(line), bundle.absolute()
    config = load_config(file)
    config.of_product(product or config.product)
    open_bundle(bundle)
    before = file.read_bytes()
    after = with_bundle(before.decode("utf-8-sig"), bundle, product, file).encode()
    try:
        _reload(line, timeout_s, key_files, partial(_rewrite, file, after))
    except CommandRefusedError as error:
        is_ours = file.read_bytes() == after
        if is_ours:
            _rewrite(file, before)
        state = "is as before" if is_ours else "was changed meanwhile, and is left so: correct its bundle by hand"
        raise CommandRefusedError(error.reason, f"{error.detail}; {file} {state}") from error


def with_bundle(text: str, bundle: Path, product: str | None, file: Path) -> str:
    """Return the text of a line's file with another bundle. Comments, order and all other keys stay.

    Of all lines that could be the key, it changes the one whose change gives the wanted tables, so that it needs no
    TOML parser that writes.

    Args:
        product: one that the file has, whose bundle is changed; None: the line's own.
        file: for messages.
    """
    wanted = tomllib.loads(text)
    owner = wanted if product is None else next(each for each in wanted["products"] if each["name"] == product)
    owner["bundle"] = str(bundle)
    for found in BUNDLE_LINE.finditer(text):
        # TOML has no surrogate pairs, so only the characters that must be escaped are.
        changed = f"{text[: found.start(2)]}{json.dumps(str(bundle), ensure_ascii=False)}{text[found.end(2) :]}"
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(changed) == wanted:
                return changed
    where = "bundle" if product is None else f"bundle of product {product}"
    raise ConfigError(f'{file} has no line that sets {where}; write it there by hand: bundle = "{bundle}"')


def _rewrite(file: Path, data: bytes) -> None:
    """Replace a file. It keeps its mode and owner, so that the line's user can still read it."""
    with writing(file, ConfigError), replacing(file) as new:
        status = file.stat()
        new.write_bytes(data)
        new.chmod(status.st_mode & 0o7777)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(new, status.st_uid, status.st_gid)


def _reload(
    line: str, timeout_s: float, key_files: KeyFiles, before_request: Callable[[], None] = lambda: None
) -> None:
    """Reload the line's file.

    Args:
        before_request: called just before the line is asked; it runs, and can be asked.
    Raises:
        CommandRefusedError: the line refuses the file. After other errors, it is not known whether it took it.
    """
    address, keys = endpoint_of(line, "events", key_files)
    with Subscriber(address, topics=["change", "status"], timeout_s=min(timeout_s, POLL_SECONDS), keys=keys) as events:
        status = first_status(events, min(timeout_s, STATUS_WITHIN_SECONDS))
        if status is None:
            require_authorized(address, keys, zmq.SUB)
            raise DeliveryError(f"nothing came from {address}, so no line was asked to reload; is the line running?")
        try:
            os.kill(status.pid, 0)
            before_request()
            os.kill(status.pid, signal.SIGHUP)
        except OSError as error:
            raise DeliveryError(
                f"process {status.pid} cannot be asked to reload ({error.strerror}); check that the line runs on this "
                "machine, and run this as the line's user or as root"
            ) from error
        change = _wait_for_change(events, status, timeout_s)
    if not change.applied:
        raise CommandRefusedError(None, change.detail or "the line's log says why")
    say(f"{change.line}: {describe.describe_active(change.product, change.bundle)} is active")


def first_status(events: Subscriber, timeout_s: float) -> StatusEvent | None:
    """Wait for a status of the line. Once it is received, no later event is missed."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        received = events.receive()
        if isinstance(received, Message) and isinstance(received.event, StatusEvent):
            return received.event
        if time.monotonic() >= deadline_s:
            return None


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


@click.command(epilog="Example: heatline select line1 4711")
@click.argument("line")
@click.argument("product")
@reply_timeout_option(60.0, "until the product is active")
@key_options
@json_option
def select(line: str, product: str, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Activate PRODUCT at LINE, and wait until it is active.

    LINE is a line's name, its TOML file, or the address at which it takes requests.
    The bundle is verified and compiled first, while frames are inspected as before. If that fails, nothing changes.
    """
    address, keys = endpoint_of(line, "commands", key_files)
    with Commander(address, timeout_s, keys) as to_line:
        reply = to_line.select(product)
    bundle = describe.describe_bundle(reply.bundle)
    print_report(reply, as_json, f"product {reply.product} is active, with bundle {bundle}")


@click.command(epilog="Example: heatline trigger line1 top --part-id P-1")
@click.argument("line")
@click.argument("camera")
@click.option("--part-id", help="The part that the frame will show: 1 to 64 printable characters.")
@reply_timeout_option(10.0, "for the reply")
@key_options
@json_option
def trigger(line: str, camera: str, part_id: str | None, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Trigger CAMERA of LINE to take a frame now.

    LINE is a line's name, its TOML file, or the address at which it takes requests.
    A camera with a hardware trigger takes its frame at the next trigger edge; the part id waits for that frame.
    """
    address, keys = endpoint_of(line, "commands", key_files)
    with Commander(address, timeout_s, keys) as to_line:
        reply = to_line.trigger(camera, part_id)
    part = "no part id" if reply.part_id is None else f"part {reply.part_id}"
    said = f"{reply.camera}: {part} waits for the next trigger"
    if not isinstance(reply, Announced):
        said = f"{reply.camera}: frame {reply.frame_id}, number {reply.frame_number} since the line's start, {part}"
    print_report(reply, as_json, said)
