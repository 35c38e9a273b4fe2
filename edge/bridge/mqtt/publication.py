"""A message to the broker, and what it is: its topic, its payload, its properties."""

from dataclasses import dataclass

JSON = "application/json"
PNG = "image/png"


@dataclass(frozen=True)
class Publication:
    """A message that is published with QoS 1."""

    topic: str
    payload: bytes
    id: str | None = None
    """Idempotency key of its event, also sent as the user property `id`; None: it is a state."""
    content_type: str = JSON
    retain: bool = False
    needs_subscriber: bool = False
    """Whether it counts as delivered only if somebody subscribes to its topic, as far as the broker knows."""
    expires_s: int | None = None
    """Seconds after which the broker no longer delivers it; None: never."""

    @property
    def size_bytes(self) -> int:
        """Upper bound on the size of its packet."""
        return len(self.payload) + len(self.topic.encode()) + len(self.id or "") + 200
