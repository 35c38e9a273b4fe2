"""How a line is, for people: what `heatline status`, `reload`, `select` and `watch` share."""

from datetime import datetime

from edge.util.text import format_count, is_are
from edge.wire.events import Account, BundleName, CameraState, Change, Consumer, Handshake, JournalState


def describe_handshake(handshake: Handshake) -> str:
    """The state, and the reason if there is one."""
    return handshake.state if handshake.reason is None else f"{handshake.state} ({handshake.reason})"


def describe_bundle(bundle: BundleName) -> str:
    return f"{bundle.name} {bundle.version} ({bundle.digest[:12]})"


def describe_in_force(product: str | None, bundle: BundleName) -> str:
    """What frames are inspected as, and with."""
    named = "" if product is None else f"product {product}, "
    return f"{named}bundle {describe_bundle(bundle)}"


def describe_change(change: Change) -> str:
    at = local_time(change.at_ns, "%Y-%m-%d %H:%M:%S")
    if change.applied:
        return f"{change.change}, in force since {at}"
    return f"{change.change}, refused at {at}: {change.detail}"


def describe_camera(state: CameraState) -> str:
    return state.state if state.reason is None else f"{state.state} ({state.reason})"


def describe_account(account: Account) -> str:
    """What became of a camera's frames, as a sum."""
    return (
        f"captured {account.captured} = inspected {account.inspected} + dropped {sum(account.dropped.values())} "
        f"+ failed {sum(account.failed.values())} + in flight {account.in_flight}"
    )


def describe_journal(journal: JournalState) -> str:
    """What the journal holds, and whether it goes on."""
    if journal.journal_id is None:
        held = "it cannot be read"
    elif not journal.first_seq:
        held = f"no event, up to {journal.last_seq}"
    else:
        held = f"events {journal.first_seq} to {journal.last_seq}, {journal.size_bytes / 2**20:.1f} MiB"
    said = [f"{journal.journal_id or 'none'}: {held}"]
    if journal.live_only is not None:
        said.append(f"NOT KEPT NOW ({journal.live_only})")
    if journal.unjournalled:
        said.append(
            f"{format_count(journal.unjournalled, 'event')} of this run {is_are(journal.unjournalled)} not in it"
        )
    if journal.discarded:
        said.append(f"{journal.discarded} went before all durable consumers had them")
    return "; ".join(said)


def describe_consumer(consumer: Consumer, journal: JournalState) -> str:
    """How far a durable consumer has got, and when it was last heard of."""
    there = "connected"
    if not consumer.connected:
        seen = consumer.seen_at_ns
        there = "away" if seen is None else f"away, last heard of {local_time(seen, '%Y-%m-%d %H:%M:%S')}"
    gone = max(0, journal.first_seq - 1 - consumer.acked_seq) if journal.first_seq else 0
    behind = max(0, journal.last_seq - consumer.acked_seq - gone)
    missed = (
        f", and {gone} {is_are(gone)} gone: have it come, forget it (heatline follow --forget), or raise "
        "journal.retain_mib"
    )
    return f"{there}; {format_count(behind, 'event')} behind{missed if gone else ''}"


def local_time(at_ns: int, form: str) -> str:
    """An instant in local time; `?` for one that no calendar has, such as of somebody else's clock."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "?"
