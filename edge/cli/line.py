"""`heatline run`, `status`, `reload`, `select` and `trigger`: a line, and what it is asked and told to do."""

import getpass
import os
import time
from collections.abc import Mapping
from pathlib import Path

import click
import zmq
from msgspec.structs import asdict

from heatline.edge import describe
from heatline.edge.cli.output import exit_immediately, json_option, print_report, reply_timeout_option, say
from heatline.edge.config import load_config
from heatline.edge.delivery.client import Commander, require_authorized
from heatline.edge.delivery.subscriber import next_status
from heatline.edge.target import KeyFiles, endpoint_of, file_of, key_options, name_of
from heatline.edge.wire.commands import Announced
from heatline.edge.wire.events import ChangeEvent, Handshake, HandshakeState, StatusEvent

EXIT_CODES: Mapping[HandshakeState, int] = {"READY": 0, "BUSY": 16, "DEGRADED": 17, "NOT_READY": 18}
"""Of `status`. Different from those of errors, so that a script can tell a line that is not ready from a failure."""


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
    else:
        handshake = event.handshake
    name, heartbeat = (name_of(line), None) if event is None else (event.line, handshake.heartbeat)
    report = {**asdict(handshake), "heartbeat": heartbeat, "address": address, "status": event}
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
        "engine": event.engine and f"{event.engine} in {event.precision}",
        "acting": "yes" if event.acting else "no: an ejector must not act on its verdicts",
        "heartbeat": event.handshake.heartbeat,
        **{f"camera {name}": describe.describe_frames(event, name) for name in event.ledger},
        "screened": event.screened and describe.describe_screened(event.screened),
        "parts": event.parts and describe.describe_parts(event.parts),
        "journal": journal and describe.describe_journal(journal),
        **{f"consumer {name}": journal and describe.describe_consumer(one, journal) for name, one in consumers.items()},
        "evidence": event.evidence and describe.describe_evidence(event.evidence),
        "page": event.web and (f"NOT SERVED NOW ({event.web.fault})" if event.web.fault else "served"),
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
    from heatline.edge.monitor.activation import BUNDLE, FORMER, reload_line, rewrite

    if bundle is None:
        if product is not None:
            raise click.UsageError("--product needs --bundle")
        say_active(reload_line(line, user_name(), timeout_s, key_files))
        return
    if "://" in line:
        raise click.UsageError(f"--bundle changes a line's file, and {line} is an address; name the line or its file")
    config = load_config(file_of(line))
    changes: dict[str, Path | None] = {BUNDLE: bundle.absolute()}
    config.of_product(product or config.product)
    if product is None:
        changes[FORMER] = config.bundle
    say_active(rewrite(line, changes, user_name(), product=product, timeout_s=timeout_s, key_files=key_files))


def user_name() -> str:
    """Return who runs this command, for the line's journal."""
    return (os.environ.get("SUDO_USER") or getpass.getuser())[:64]


def say_active(change: ChangeEvent) -> None:
    """Print what is active now."""
    say(f"{change.line}: {describe.describe_active(change.product, change.bundle)} is active")


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
