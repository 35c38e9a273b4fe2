"""`heatline status`."""

import time
from collections.abc import Mapping

import click
import msgspec
import zmq

from heatline.edge.cli.formatting import (
    describe_account,
    describe_bundle,
    describe_camera,
    describe_change,
    describe_consumer,
    describe_evidence,
    describe_journal,
    describe_web,
)
from heatline.edge.cli.options import FiniteRange
from heatline.edge.cli.output import json_option, print_report
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.handshake_probe import require_authorized
from heatline.edge.delivery.client.subscriber import next_status
from heatline.edge.errors import ConfigError
from heatline.edge.target import KeyFiles, endpoint_of, key_options, name_of
from heatline.edge.wire.events import HandshakeState, StatusEvent

EXIT_CODES: Mapping[HandshakeState, int] = {"READY": 0, "BUSY": 16, "DEGRADED": 17, "NOT_READY": 18}
"""Different from those of errors, so that a script can tell a line that is not ready from a command that failed."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The status that a line published, or that none came."""

    state: HandshakeState
    reason: str | None
    detail: str | None
    heartbeat: int | None
    """None: no status came."""
    address: str
    status: StatusEvent | None


@click.command(epilog="Example: heatline status line1")
@click.argument("line")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, min_open=True, max=3600),
    default=3.0,
    show_default=True,
    help="Seconds to wait for the line's status, which comes about once a second.",
)
@key_options
@json_option
def status(line: str, timeout_s: float, key_files: KeyFiles, as_json: bool) -> None:
    """Print whether LINE is ready for the next part, and if not, why.

    The state is READY, BUSY, DEGRADED or NOT_READY.
    LINE is a line's name, its TOML file, or the address of its events. Exit codes: 0 READY, 16 BUSY, 17 DEGRADED,
    18 NOT_READY, also if no status came from the line.
    """
    try:
        address, keys = endpoint_of(line, "events", key_files)
    except ConfigError as error:
        raise ConfigError(f"{error}; or name the address of the line's events, e.g. tcp://127.0.0.1:5556") from error
    found = _receive(address, timeout_s, keys)
    name = name_of(line) if found.status is None else found.status.line
    reason = "" if found.reason is None else f" ({found.reason})"
    print_report(found, as_json, f"{name}: {found.state}{reason}", _facts(found))
    click.get_current_context().exit(EXIT_CODES[found.state])


def _receive(address: str, timeout_s: float, keys: ClientKeys | None) -> Found:
    began_s = time.monotonic()
    event = next_status(address, timeout_s, keys)
    if event is None:
        require_authorized(address, keys, zmq.SUB)
        waited_s = time.monotonic() - began_s
        return Found(
            state="NOT_READY",
            reason="unreachable",
            detail=f"no status came from {address} within {waited_s:.1f} s; check that the line runs, that "
            "this is its events.bind, and that this user may connect",
            heartbeat=None,
            address=address,
            status=None,
        )
    return Found(**msgspec.structs.asdict(event.handshake), address=address, status=event)


def _facts(found: Found) -> dict[str, object]:
    event = found.status
    facts: dict[str, object] = {"why": found.detail}
    if event is not None:
        journal, consumers = event.journal, {} if event.journal is None else event.journal.consumers
        facts |= {
            "product": event.product,
            "bundle": describe_bundle(event.bundle),
            "engine": f"{event.engine} in {event.precision}",
            "acting": "yes" if event.acting else "no: an ejector must not act on its verdicts",
            "heartbeat": found.heartbeat,
            **{f"camera {name}": _describe_frames(event, name) for name in event.ledger},
            "journal": journal and describe_journal(journal),
            **{f"consumer {name}": journal and describe_consumer(one, journal) for name, one in consumers.items()},
            "evidence": event.evidence and describe_evidence(event.evidence),
            "page": event.web and describe_web(event.web),
            "refused": ", ".join(f"{count} {reason}" for reason, count in event.refused.items()) or None,
            "last change": event.last_change and describe_change(event.last_change),
        }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _describe_frames(event: StatusEvent, camera: str) -> str:
    state = event.cameras.get(camera)
    prefix = "" if state is None else f"{describe_camera(state)}; "
    return prefix + describe_account(event.ledger[camera])
