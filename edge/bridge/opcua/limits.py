"""Limits of the OPC UA server: what one client, or all of them together, can cost."""

import math
from collections.abc import Sequence
from typing import Any

from asyncua import ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import ServiceError
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
OPERATIONS = 1000
"""Nodes, methods or items in one request."""
SUBSCRIPTIONS, SUBSCRIPTIONS_OF_A_CLIENT = 40, 4
PUBLISHING_MS = 20.0, 10_000.0
LIFETIME_COUNT, KEEP_ALIVE_COUNT = 3000, 1000
UNACKNOWLEDGED_MESSAGES = 10
"""Messages of one subscription that the client may request again."""
ITEMS_OF_A_SUBSCRIPTION, EVENT_ITEMS_OF_A_SUBSCRIPTION = 500, 4
QUEUED_VALUES, QUEUED_EVENTS = 10, 1000
"""Per monitored item; the oldest are dropped."""
SELECTED_FIELDS, FILTER_ELEMENTS, FILTER_OPERANDS = 100, 8, 200
"""Of an event filter."""


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


def require_few(operations: Sequence[object] | None) -> None:
    """Require that one request asks for little enough.

    Raises:
        ServiceError: it does not.
    """
    if operations is not None and len(operations) > OPERATIONS:
        raise ServiceError(ua.StatusCodes.BadTooManyOperations)


def limit_publishing(requested_ms: float) -> float:
    """Return the publishing interval that a client gets."""
    shortest, longest = PUBLISHING_MS
    return min(requested_ms, longest) if requested_ms >= shortest else shortest  # NaN is not above it either


def limit_item(parameters: ua.MonitoringParameters, is_event: bool) -> None:
    """Limit the queue of a monitored item.

    Raises:
        ServiceError: its filter is not for this kind of item, or too large.
    """
    longest = QUEUED_EVENTS if is_event else QUEUED_VALUES
    parameters.QueueSize = ua.UInt32(min(parameters.QueueSize or (longest if is_event else 1), longest))
    given: Any = parameters.Filter
    if is_event:
        if not isinstance(given, ua.EventFilter):
            raise ServiceError(ua.StatusCodes.BadMonitoredItemFilterInvalid)
        _require_small(given)
    elif given is not None and not isinstance(given, ua.DataChangeFilter):
        raise ServiceError(ua.StatusCodes.BadMonitoredItemFilterUnsupported)


def _require_small(event_filter: ua.EventFilter) -> None:
    """Require that a filter of events costs little. Its elements may only refer to later ones: no loops."""
    elements = event_filter.WhereClause.Elements
    fits = len(event_filter.SelectClauses) <= SELECTED_FIELDS and len(elements) <= FILTER_ELEMENTS
    for index, element in enumerate(elements if fits else []):
        operands: list[Any] = element.FilterOperands
        fits = fits and len(operands) <= FILTER_OPERANDS
        fits = fits and all(each.Index > index for each in operands if isinstance(each, ua.ElementOperand))
    if not fits:
        raise ServiceError(ua.StatusCodes.BadEventFilterInvalid)
