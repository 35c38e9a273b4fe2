"""Journal: an event durably on the disk."""

import contextlib
import sys
import tempfile
from pathlib import Path

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.delivery.journal.journalling import Journalling
from edge.delivery.journal.reader import JournalReader
from edge.delivery.journal.rows import Record
from edge.errors import BenchError
from edge.wire.events import CountedEvent, Message, header_of

GROUP = 32
"""Events that share a commit where many come; the publisher lets up to 256 do so."""
KEEP_BYTES = 4 << 30
KEEP_SECONDS = 1e9


class Journal(Stage):
    """The event of a frame with defects, numbered, kept and synced to the disk, as the publisher has it done.

    Args:
        folder: in which a journal is kept meanwhile; None: where temporary files are.
        heatmap: whether the event carries its heatmap.
        group: whether as many share a commit as do where many come; else it has one by itself.
    """

    name = "journal"

    def __init__(self, prepared: Prepared, folder: Path | None, *, heatmap: bool, group: bool) -> None:
        self.variant = f"{'group' if group else 'one'}, {'heatmap' if heatmap else 'no heatmap'}"
        self.frames = GROUP if group else 1
        self._messages = [prepared.message("always" if heatmap else "never")] * self.frames
        self._kept: list[Message] = []
        with contextlib.ExitStack() as if_it_fails:
            place = if_it_fails.enter_context(tempfile.TemporaryDirectory(dir=folder))
            self._folder = Path(place)
            self._journalling = Journalling("bench", "0" * 32, self._folder, KEEP_SECONDS, KEEP_BYTES, lambda _: {})
            if_it_fails.callback(self._journalling.close)
            self._journalling.tend()  # it keeps an event of its own first, that it was begun
            self._require_kept()
            self._reader = if_it_fails.enter_context(JournalReader.open(self._folder))
            self._at_end = if_it_fails.pop_all()

    def run(self) -> None:
        self._kept = self._journalling.commit(self._messages)

    def check(self) -> None:
        self._require_kept()
        self.require(len(self._kept) == self.frames, "that all its events were kept")
        events = [message.event for message in self._kept]
        stored, self._kept = self.stored(), []
        self.require(len(stored) == self.frames, "that all its events are in the journal")
        self.require(
            [record.header for record in stored] == [header_of(event) for event in events]
            and {record.heatmap for record in stored} == {self._messages[0].png},
            "that the journal holds what was to be kept",
        )

    def moved(self) -> Moved:
        stored = self.stored()
        size = sum(len(record.header) + len(record.heatmap or b"") for record in stored)
        return Moved(size, size)  # of the events alone: SQLite writes whole pages, and each of them twice

    def close(self) -> None:
        self._at_end.close()

    def stored(self) -> list[Record]:
        """What the file says of the last run's events."""
        event = self._kept[0].event
        assert isinstance(event, CountedEvent)
        page = self._reader.read(
            event.seq - 1, through_seq=event.seq + self.frames - 1, at_most_bytes=sys.maxsize, heatmaps=True
        )
        return page.records

    def _require_kept(self) -> None:
        state = self._journalling.state()
        if state is None or state.live_only is not None:
            raise BenchError(f"the journal takes no events: {state and state.live_only}; name another --folder")
