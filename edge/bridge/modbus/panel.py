"""The state of the line and of its cameras in registers, and the heartbeat."""

import time
from collections.abc import Callable, Sequence

from heatline.edge.bridge.line import LineState
from heatline.edge.bridge.modbus.bank import RegisterBank
from heatline.edge.bridge.modbus.codes import CAMERA_STATES, HANDSHAKE_REASONS, HANDSHAKE_STATES, OTHER
from heatline.edge.bridge.modbus.live import LatestVerdicts
from heatline.edge.bridge.modbus.registers import LINE, MAP_VERSION, Block
from heatline.edge.bridge.modbus.results import IdMap, id_bytes
from heatline.edge.wire.events import Account, StatusEvent

STANDS_STILL_AFTER_SECONDS = 5.0
"""A line whose own heartbeat has not moved for so long does not inspect (docs/protocol.md)."""
BEAT_SECONDS = 1.0


class StatusBlock:
    """Copies the line's state to the registers. Only the thread of the server uses it.

    Args:
        consumer: name of this bridge's consumer.
        clock: monotonic, s.
    """

    def __init__(
        self,
        bank: RegisterBank,
        state: LineState,
        places: IdMap,
        cameras: Sequence[Block],
        latest: LatestVerdicts,
        consumer: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bank, self._state, self._places = bank, state, places
        self._cameras, self._latest, self._consumer, self._clock = cameras, latest, consumer, clock
        self._status: StatusEvent | None = None
        """The last status in the registers."""
        self._line_beat: tuple[str, int] | None = None
        self._moved_s = float("-inf")
        """When the line's heartbeat moved last."""
        self._beat_s = float("-inf")
        """When the heartbeat here moved last."""
        bank.put(
            LINE,
            {
                "map_version": MAP_VERSION,
                "products": len(places.products),
                "cameras": len(places.cameras),
                "state": HANDSHAKE_STATES["NOT_READY"],
                "state_reason": HANDSHAKE_REASONS["unreachable"],
            },
        )

    def refresh(self) -> None:
        """Copy what is known now. Call it several times a second."""
        status, is_heard = self._state.status, self._state.is_heard
        handshake = self._state.handshake()
        reason = 0 if handshake.reason is None else HANDSHAKE_REASONS.get(handshake.reason, OTHER)
        values = {"is_heard": int(is_heard), "state": HANDSHAKE_STATES[handshake.state], "state_reason": reason}
        now_s = self._clock()
        if is_heard and status is not None and self._line_beat != (status.boot_id, status.handshake.heartbeat):
            self._line_beat, self._moved_s = (status.boot_id, status.handshake.heartbeat), now_s
        moves = now_s - self._moved_s < STANDS_STILL_AFTER_SECONDS
        inspects = is_heard and moves and handshake.state != "NOT_READY"
        if inspects and now_s - self._beat_s >= BEAT_SECONDS:
            values["heartbeat"] = self._bank.number(LINE, "heartbeat") % 65535 + 1
            self._beat_s = now_s
        self._bank.put(LINE, values)
        if status is not None and status is not self._status:
            self._status = status
            self._show(status)
        if not is_heard:
            self._latest.clear()

    def _show(self, status: StatusEvent) -> None:
        journal = status.journal
        consumer = None if journal is None else journal.consumers.get(self._consumer)
        lag = 0 if journal is None or consumer is None else max(0, journal.last_seq - consumer.acked_seq)
        self._bank.put(
            LINE,
            {
                "is_simulated": int(not status.acting),
                "product": self._places.product(status.product),
                "boot_id": id_bytes(status.boot_id),
                "lag": min(lag, 2**32 - 1),
            },
        )
        for name, block in zip(self._places.cameras, self._cameras, strict=True):
            camera, account = status.cameras.get(name), status.ledger.get(name, Account())
            self._bank.put(
                block,
                {
                    "state": 0 if camera is None else CAMERA_STATES.get(camera.state, OTHER),
                    "captured": account.captured,
                    "inspected": account.inspected,
                    "dropped": sum(account.dropped.values()),
                    "failed": sum(account.failed.values()),
                    "in_flight": account.in_flight,
                },
            )
            if camera is None or camera.state == "DEAD":
                self._latest.clear(name)
