"""A line's journal, and those who follow it."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from edge.config import JournalConfig
from edge.delivery.durable.consumers import Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.journal.journalling import Journalling
from edge.delivery.numbering import Numbering
from edge.delivery.security.access import Access
from edge.inspection.flight_recorder import Told
from edge.service.reporter import Reporter

logger = logging.getLogger(__name__)

SECONDS_PER_DAY = 86400


class Keeping:
    """What became of a line's events.

    Args:
        journalling: keeps them.
    """

    def __init__(self, journalling: Numbering) -> None:
        self.journalling = journalling

    def why_not(self) -> str | None:
        """Why events are not kept; None while they are, or where none are to be."""
        state = self.journalling.state()
        return None if state is None else state.live_only

    def told(self) -> dict[str, Told]:
        """How far each camera's frames are in the journal as it was found."""
        return {camera: Told(*progress) for camera, progress in self.journalling.progress.items()}

    @property
    def since_ns(self) -> int | None:
        """When the journal was made: UTC, ns since 1970; None where there is none."""
        return self.journalling.since_ns


@contextlib.contextmanager
def kept(config: JournalConfig, folder: Path | None, reporter: Reporter, access: Access) -> Iterator[Keeping]:
    """The journal in a folder, and whoever follows it, as long as this lasts.

    Args:
        folder: None: nothing is kept.
        access: who may follow.
    Raises:
        AccessError: others can reach the address, and the line has no key to protect it with.
        DeliveryError: the address for durable consumers cannot be bound.
        JournalError: the journal is another line's, or of a newer heatline.
    """
    folder = None if config.keep_mib == 0 else config.folder or folder
    if folder is None and config.bind is not None:
        logger.warning(
            "no events are kept, and none can be had at %s: there is no folder; set journal.folder", config.bind
        )
    if folder is None:
        yield Keeping(Numbering(reporter.line, reporter.boot_id))
        return
    with contextlib.ExitStack() as at_end:
        consumers = at_end.enter_context(contextlib.closing(Consumers(folder)))
        server = None
        if config.bind is not None:
            server = FollowServer(config.bind, folder, consumers, access=access)
        journalling = Journalling(
            reporter.line,
            reporter.boot_id,
            folder,
            config.keep_days * SECONDS_PER_DAY,
            config.keep_mib << 20,
            consumers.acked,
            consumers=dict if server is None else server.states,
        )
        at_end.callback(journalling.close)
        if server is not None:
            server.damaged.append(journalling.distrust)
            server.start()
            at_end.callback(server.close)
            journalling.wake.append(server.wake)
        yield Keeping(journalling)
