"""A line's journal, and the server for its durable consumers."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from heatline.edge.config import JournalConfig
from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.follow import Consumers, FollowServer
from heatline.edge.delivery.journal_writer import JournalWriter
from heatline.edge.delivery.numbering import Numbering

logger = logging.getLogger(__name__)

SECONDS_PER_DAY = 86400


def not_served(address: str) -> str:
    """Return a sentence about an address for durable consumers of a line that stores no events."""
    return f"no events are stored, so nothing is served at {address}; set journal.folder, and retain_mib above 0"


@contextlib.contextmanager
def open_journal(
    line: str, boot_id: str, config: JournalConfig, state_folder: Path | None, access: Access
) -> Iterator[Numbering]:
    """Open what numbers and stores a line's events. Serve durable consumers until the block ends.

    Args:
        state_folder: the journal's folder if the configuration names none; None: events are then not stored.
        access: the clients that may follow.
    Raises:
        AccessError: other machines can reach the address, and the line has no key to protect it.
        DeliveryError: the address for durable consumers cannot be bound.
        JournalError: the journal belongs to another line or to a newer heatline.
    """
    folder = config.folder_in(state_folder)
    if folder is None:
        if config.bind is not None:
            logger.warning("%s", not_served(config.bind))
        yield Numbering()
        return
    with contextlib.ExitStack() as at_end:
        consumers = at_end.enter_context(contextlib.closing(Consumers(folder)))
        server = None
        if config.bind is not None:
            server = FollowServer(config.bind, folder, consumers, access=access)
        writer = JournalWriter(
            line,
            boot_id,
            folder,
            config.retain_days * SECONDS_PER_DAY,
            config.retain_mib << 20,
            consumers.acked,
            consumers=dict if server is None else server.states,
        )
        at_end.callback(writer.close)
        if server is not None:
            server.on_damaged.append(writer.mark_corrupt)
            server.start()
            at_end.callback(server.close)
            writer.on_commit.append(server.wake)
        yield writer
