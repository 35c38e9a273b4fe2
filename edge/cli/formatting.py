"""Descriptions that several commands share."""

from datetime import datetime

from heatline.edge.monitor.review import Review
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import (
    Account,
    BundleName,
    CameraState,
    Change,
    Consumer,
    EvidenceState,
    Handshake,
    JournalState,
    WebState,
)


def describe_handshake(handshake: Handshake) -> str:
    """Describe the state, with the reason if there is one."""
    return handshake.state if handshake.reason is None else f"{handshake.state} ({handshake.reason})"


def describe_bundle(bundle: BundleName) -> str:
    return f"{bundle.name} {bundle.version} ({bundle.digest[:12]})"


def describe_active(product: str | None, bundle: BundleName) -> str:
    """Describe the active product and bundle."""
    prefix = "" if product is None else f"product {product}, "
    return f"{prefix}bundle {describe_bundle(bundle)}"


def describe_change(change: Change) -> str:
    at = local_time(change.at_ns, "%Y-%m-%d %H:%M:%S")
    if change.applied:
        return f"{change.change}, active since {at}"
    return f"{change.change}, refused at {at}: {change.detail}"


def describe_camera(state: CameraState) -> str:
    return state.state if state.reason is None else f"{state.state} ({state.reason})"


def describe_account(account: Account) -> str:
    """Describe the account of a camera's frames as a sum."""
    return (
        f"captured {account.captured} = inspected {account.inspected} + dropped {sum(account.dropped.values())} "
        f"+ failed {sum(account.failed.values())} + in flight {account.in_flight}"
    )


def describe_journal(journal: JournalState) -> str:
    """Describe the journal's contents, and whether events are stored now."""
    if journal.journal_id is None:
        contents = "it cannot be read"
    elif not journal.first_seq:
        contents = f"no event, up to {journal.last_seq}"
    else:
        contents = f"events {journal.first_seq} to {journal.last_seq}, {journal.size_bytes / 2**20:.1f} MiB"
    parts = [
        f"{journal.journal_id or 'none'}: {contents}",
        f"NOT STORED NOW ({journal.live_only})" if journal.live_only is not None else "",
        f"{format_count(journal.unjournalled, 'event')} of this run {is_are(journal.unjournalled)} not in it"
        if journal.unjournalled
        else "",
        f"{journal.discarded} were deleted before all durable consumers had received them" if journal.discarded else "",
    ]
    return "; ".join(filter(None, parts))


def describe_evidence(evidence: EvidenceState) -> str:
    """Describe what the evidence store holds, and whether pictures are stored now."""
    oldest = evidence.oldest_at_ns
    parts = [
        f"{format_count(evidence.stored, 'picture')}, {evidence.size_bytes / 2**20:.1f} MiB",
        "" if oldest is None else f"the oldest of {local_time(oldest, '%Y-%m-%d %H:%M:%S')}",
        f"{format_count(evidence.skipped, 'picture')} of this run could not be stored" if evidence.skipped else "",
        "" if evidence.fault is None else f"NOT STORED NOW ({evidence.fault})",
    ]
    return "; ".join(filter(None, parts))


def describe_web(web: WebState) -> str:
    return "served" if web.fault is None else f"NOT SERVED NOW ({web.fault})"


def describe_consumer(consumer: Consumer, journal: JournalState) -> str:
    """Describe whether a durable consumer is connected, and how far it is behind."""
    connection = "connected"
    if not consumer.connected:
        seen = consumer.seen_at_ns
        connection = "away" if seen is None else f"away, last seen {local_time(seen, '%Y-%m-%d %H:%M:%S')}"
    lost = max(0, journal.first_seq - 1 - consumer.acked_seq) if journal.first_seq else 0
    behind = max(0, journal.last_seq - consumer.acked_seq - lost)
    remedy = (
        f", and {lost} {is_are(lost)} lost: start it, delete it (heatline follow --forget), or raise journal.retain_mib"
    )
    return f"{connection}; {format_count(behind, 'event')} behind{remedy if lost else ''}"


def local_time(at_ns: int, form: str) -> str:
    """Format a time in ns since 1970 as local time; `?` if no calendar has it, as from a wrong clock."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "?"


def describe_kind(review: Review) -> str:
    """Return what reviewers say of a verdict."""
    return "contradictory" if review.kind is None else review.kind.replace("_", " ")
