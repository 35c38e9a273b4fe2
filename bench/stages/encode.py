"""Encode: from a frame's judgement to the parts of its message."""

import cv2
import numpy as np

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.delivery.to_wire import region_to_wire
from edge.service.events import verdict_message
from edge.wire.events import VerdictEvent, from_frames, to_frames


class Encode(Stage):
    """The event of a frame with defects.

    Args:
        heatmap: whether it carries its heatmap.
    """

    name = "encode"

    def __init__(self, prepared: Prepared, *, heatmap: bool) -> None:
        self.variant = "heatmap" if heatmap else "no heatmap"
        self._prepared, self._heatmap = prepared, heatmap
        self._outcome = prepared.outcome("always" if heatmap else "never")
        self.parts: list[bytes] = []

    def run(self) -> None:
        self.parts = to_frames(verdict_message("bench", self._outcome))

    def check(self) -> None:
        parts, self.parts = self.parts, []
        self.require(bool(parts), "that there is a message")
        message = from_frames(parts)
        judgement, event = self._outcome.judgement, message.event
        assert judgement is not None
        regions = [region_to_wire(region) for region in judgement.regions]
        self.require(
            isinstance(event, VerdictEvent) and event.regions == regions and event.verdict == "DEFECT",
            "that the event tells the frame's verdict and regions",
        )
        self.require((message.png is not None) == self._heatmap, "that it carries its heatmap if it is to")
        if message.png is not None:
            shown = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
            grey = self._prepared.defective.scale.grey(judgement.heatmap)
            self.require(shown is not None and np.array_equal(shown, grey), "that the PNG shows the heatmap")

    def moved(self) -> Moved:
        assert self._outcome.judgement is not None
        return Moved(self._outcome.judgement.heatmap.nbytes if self._heatmap else 0, sum(map(len, self.parts)))
