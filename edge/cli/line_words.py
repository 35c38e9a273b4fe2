"""How a line is, for people: what `heatline status`, `reload`, `select` and `watch` share."""

from datetime import datetime

from edge.cameras.state import CameraState
from edge.delivery.messages import BundleName, Change, Handshake
from edge.inspection.ledger import Account


def handshake_in_words(handshake: Handshake) -> str:
    """The state, and the reason if there is one."""
    return handshake.state if handshake.reason is None else f"{handshake.state} ({handshake.reason})"


def bundle_in_words(bundle: BundleName) -> str:
    return f"{bundle.name} {bundle.version} ({bundle.digest[:12]})"


def in_force_in_words(product: str | None, bundle: BundleName) -> str:
    """What frames are inspected as, and with."""
    named = "" if product is None else f"product {product}, "
    return f"{named}bundle {bundle_in_words(bundle)}"


def change_in_words(change: Change) -> str:
    at = local_time(change.at_ns, "%Y-%m-%d %H:%M:%S")
    if change.in_force:
        return f"{change.change}, in force since {at}"
    return f"{change.change}, refused at {at}: {change.detail}"


def camera_in_words(state: CameraState) -> str:
    return state.state if state.reason is None else f"{state.state} ({state.reason})"


def account_in_words(account: Account) -> str:
    """What became of a camera's frames, as a sum."""
    return (
        f"captured {account.captured} = inspected {account.inspected} + dropped {sum(account.dropped.values())} "
        f"+ failed {sum(account.failed.values())} + in flight {account.in_flight}"
    )


def local_time(at_ns: int, form: str) -> str:
    """An instant in local time; `?` for one that no calendar has, such as of somebody else's clock."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "?"
