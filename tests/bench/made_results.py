"""Events as a bench receives them."""

from typing import Any

import msgspec

from heatline.bench.end_to_end.line import ReceivedVerdict
from heatline.edge.wire.events import BundleName, Times, VerdictEvent


def verdict(number: int, captured_ms: float = 0.0, reason: str | None = None, **changed: Any) -> VerdictEvent:
    """Return the event of a frame; with a reason, it is NO_VERDICT."""
    event = VerdictEvent(
        boot_id="a", seq=number, camera="a", frame_id=number, frame_number=number, reason=reason, score_threshold=0.0,
        times=Times(captured_at_ns=0, captured_monotonic_ns=round(captured_ms * 1e6)), evidence_threshold=0.0,
        verdict="GOOD" if reason is None else "NO_VERDICT", precision="f32", latency_ms=1.0, acting=True,
        previous_seq=0, bundle=BundleName(name="b", version="1", digest="0" * 64), frame_score=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(event, **changed)


def received_verdict(
    number: int, due_ms: float, late_ms: float, ms: float, reason: str | None = None, **changed: Any
) -> ReceivedVerdict:
    """Return a frame that was due at `due_ms`, stamped `late_ms` later and received `ms` after it was due."""
    return ReceivedVerdict(verdict(number, due_ms + late_ms, reason, **changed), round((due_ms + ms) * 1e6))
