"""Shows one result after another in the registers, the next one when the one before is acknowledged."""

import threading
from typing import Literal

from heatline.edge.bridge.modbus.bank import RegisterBank
from heatline.edge.bridge.modbus.codes import EntryKind
from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX
from heatline.edge.bridge.modbus.results import NOTHING, Entry


class Mailbox:
    """Only the thread of the server uses it, except `acknowledged`.

    Args:
        acknowledge: `plc`: an entry is shown until the PLC has written its number; `offered`: until the next one comes.
    """

    def __init__(self, bank: RegisterBank, acknowledge: Literal["plc", "offered"]) -> None:
        self._bank, self._acknowledge = bank, acknowledge
        self._shown: Entry | None = None
        self._losses = 0
        self.acknowledged = threading.Event()
        """Set when the shown entry is acknowledged; cleared by who gives the next one."""
        bank.on_write(self._written)

    def show(self, entry: Entry) -> None:
        """Show an entry."""
        self._shown = entry
        if entry.kind in (EntryKind.LOST, EntryKind.UNRECORDED):
            self._losses += 1
            self._bank.put(LINE, {"losses": self._losses})
        self._bank.put(MAILBOX, entry.registers())
        if self._acknowledge == "offered":
            self._finish(entry)
        else:
            self._written()  # a PLC that writes its number in each cycle may know this entry from before a restart

    def _written(self) -> None:
        """Look at what the PLC acknowledges. Any number but that of the shown entry is of an earlier one."""
        if (
            self._shown is not None
            and self._acknowledge == "plc"
            and self._bank.number(COMMANDS, "acknowledge") == self._shown.number
        ):
            self._bank.put(MAILBOX, NOTHING)
            self._finish(self._shown)

    def _finish(self, entry: Entry) -> None:
        self._shown = None
        self._bank.put(MAILBOX, {"acknowledged": entry.number})
        self.acknowledged.set()
