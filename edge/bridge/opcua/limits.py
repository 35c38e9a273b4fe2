"""Limits of the OPC UA server: what one client, or all of them together, can cost."""

import math

from asyncua.common.connection import TransportLimits
from asyncua.server.internal_server import InternalServer

SESSION_SECONDS = 5.0, 60.0
"""Shortest and longest silence after which a session ends, whatever the client requests."""
PENDING_MESSAGES = 64
"""Messages of one client that wait; a client that sends more is disconnected."""
CHUNK_BYTES, MESSAGE_BYTES = 65535, 1 << 20
SMALLEST_CHUNK_BYTES = 8192
"""By OPC 10000-6. A client that asks for smaller chunks would make the server encrypt each byte."""
UNSENT_BYTES = 4 << 20
"""A client that leaves more unread is disconnected."""
SUBSCRIPTIONS, SUBSCRIPTIONS_OF_A_CLIENT = 40, 4
PUBLISHING_MS = 20.0, 10_000.0
LIFETIME_COUNT, KEEP_ALIVE_COUNT = 3000, 1000
UNACKNOWLEDGED_MESSAGES = 10
"""Messages of one subscription that the client may request again."""
QUEUED_EVENTS = 1000
"""Per monitored item; the oldest are dropped."""


def apply_limits(server: InternalServer) -> None:
    """Set the limits that asyncua has itself."""
    server.max_pending_activation_seconds = 0  # our listener disconnects who opens no session
    server.min_session_timeout_ms, server.max_session_timeout_ms = (1000 * seconds for seconds in SESSION_SECONDS)
    server.max_pending_messages_per_connection = PENDING_MESSAGES
    server.max_subscriptions = SUBSCRIPTIONS
    server.max_lifetime_count, server.max_keep_alive_count = LIFETIME_COUNT, KEEP_ALIVE_COUNT
    server.max_unacked_messages_per_subscription = UNACKNOWLEDGED_MESSAGES
    server.max_monitored_item_queue_size = QUEUED_EVENTS


def transport_limits() -> TransportLimits:
    """Return the sizes of messages that the server takes."""
    return TransportLimits(CHUNK_BYTES, CHUNK_BYTES, math.ceil(MESSAGE_BYTES / SMALLEST_CHUNK_BYTES), MESSAGE_BYTES)


def limit_publishing(requested_ms: float) -> float:
    """Return the publishing interval that a client gets."""
    shortest, longest = PUBLISHING_MS
    return min(requested_ms, longest) if requested_ms >= shortest else shortest  # NaN is not above it either
