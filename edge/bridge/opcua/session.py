"""A client's session: who the client is, what it may do, and that it harms neither the server nor other clients."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import PermissionRuleset, User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager

from edge.bridge.opcua.certificates import Certificates, RefusedError
from edge.bridge.opcua.limits import (
    EVENT_ITEMS_OF_A_SUBSCRIPTION,
    ITEMS_OF_A_SUBSCRIPTION,
    SUBSCRIPTIONS_OF_A_CLIENT,
    apply_limits,
    limit_item,
    limit_publishing,
    require_few,
)

PERMITTED = frozenset(
    ua.NodeId(getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary"))
    for name in (
        "Read",
        "Browse",
        "TranslateBrowsePathsToNodeIds",
        "RegisterNodes",
        "UnregisterNodes",
        "CreateSubscription",
        "ModifySubscription",
        "DeleteSubscriptions",
        "SetPublishingMode",
        "CreateMonitoredItems",
        "ModifyMonitoredItems",
        "DeleteMonitoredItems",
        "SetMonitoringMode",
        "Publish",
        "Republish",
        "Call",
        "CloseSecureChannel",
    )
)
"""Requests that a client with a session may send. No client can write: it calls methods instead."""


@dataclass
class ClientUser(User):
    """A client with a session."""

    fingerprint: str | None = None
    """Of its certificate; None: a client of this machine without one."""


ANONYMOUS = User(role=UserRole.Anonymous)
caller: ContextVar[ClientUser | None] = ContextVar("caller", default=None)
"""The client whose method call is executed."""


class Permissions(PermissionRuleset):
    """Permits what `PERMITTED` names."""

    def check_validity(self, user: User, action_type: ua.NodeId, body: object) -> bool:
        return action_type in PERMITTED


class Clients(UserManager):
    """Knows clients by their certificates. User names, passwords and user certificates are not accepted."""

    def __init__(self, certificates: Certificates, unprotected: bool) -> None:
        self._certificates, self._unprotected = certificates, unprotected

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,
    ) -> User | None:
        if not certificate:
            return ClientUser(UserRole.User, "without certificate") if self._unprotected else None
        try:
            fingerprint = self._certificates.require_allowed(certificate)
        except RefusedError:
            return None
        return ClientUser(UserRole.User, fingerprint, fingerprint)

    def may_command(self, client: ClientUser | None) -> bool:
        """Return whether a client may acknowledge results and select products."""
        if client is None or client.fingerprint is None:
            return False
        return self._certificates.role_of(client.fingerprint) == "command"

    def may_stay(self, client: User) -> bool:
        """Return whether a client with a session is still allowed."""
        fingerprint = client.fingerprint if isinstance(client, ClientUser) else None
        return fingerprint is None or self._certificates.role_of(fingerprint) is not None


class LimitedServer(InternalServer):
    """The server behind the connections, with limited sessions.

    A session ends with its connection. asyncua would let any client that knows a session's id, which is a small number,
    continue that session on another connection.
    """

    def __init__(self, clients: Clients) -> None:
        super().__init__(clients)
        apply_limits(self)

    def create_session(self, name: str, user: User = ANONYMOUS, external: bool = False) -> InternalSession:
        return Session(self, self.aspace, self.subscription_service, name, user=user, external=False)

    async def stop(self) -> None:
        """Stop without waiting for the clock's next second."""
        clock: asyncio.Task[None] | None = getattr(self, "time_task", None)
        if clock is not None:
            clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clock
        self.time_task = None
        await super().stop()

    def register_server(self, server: object, conf: object = None) -> None:
        """Refuse: this is no discovery server, and each request, even of a stranger, would cost memory."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class Session(InternalSession):
    """A session whose requests are limited, and concern only its own subscriptions."""

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        require_few(params)
        token = caller.set(self.user if isinstance(self.user, ClientUser) else None)
        try:
            return await super().call(params)
        finally:
            caller.reset(token)

    async def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        require_few(params.NodesToRead)
        return await super().read(params)

    async def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        require_few(params.NodesToBrowse)
        return await super().browse(params)

    async def translate_browsepaths_to_nodeids(self, params: list[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        require_few(params)
        return await super().translate_browsepaths_to_nodeids(params)

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        if len(self._own()) >= SUBSCRIPTIONS_OF_A_CLIENT:
            raise ServiceError(ua.StatusCodes.BadTooManySubscriptions)
        params.RequestedPublishingInterval = limit_publishing(params.RequestedPublishingInterval)
        return await super().create_subscription(params, callback, request_callback)

    def modify_subscription(self, params: ua.ModifySubscriptionParameters) -> ua.ModifySubscriptionResult:
        self._require_own([params.SubscriptionId])
        return super().modify_subscription(params)

    async def delete_subscriptions(self, ids: list[int]) -> list[ua.StatusCode]:
        require_few(ids)
        self._require_own(ids)
        return await super().delete_subscriptions(ids)

    async def set_publishing_mode(self, params: ua.SetPublishingModeParameters) -> list[ua.StatusCode]:
        require_few(params.SubscriptionIds)
        self._require_own(params.SubscriptionIds)
        return await super().set_publishing_mode(params)

    def publish(self, acks: Any = None) -> tuple[int, list[ua.StatusCode]]:
        require_few(acks)
        own = self._own()
        _, results = super().publish([ack for ack in acks or [] if ack.SubscriptionId in own])
        return len(own), results

    def republish(self, params: ua.RepublishParameters) -> ua.NotificationMessage:
        self._require_own([params.SubscriptionId])
        return super().republish(params)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        require_few(params.ItemsToCreate)
        items = self._items(params.SubscriptionId)
        is_event = [_is_event(each.ItemToMonitor) for each in params.ItemsToCreate]
        events = sum(is_event) + sum(_is_event(each.read_value_id) for each in items.values())
        if len(items) + len(is_event) > ITEMS_OF_A_SUBSCRIPTION or events > EVENT_ITEMS_OF_A_SUBSCRIPTION:
            raise ServiceError(ua.StatusCodes.BadTooManyMonitoredItems)
        for item, event in zip(params.ItemsToCreate, is_event, strict=True):
            limit_item(item.RequestedParameters, event)
        return await super().create_monitored_items(params)

    async def modify_monitored_items(
        self, params: ua.ModifyMonitoredItemsParameters
    ) -> list[ua.MonitoredItemModifyResult]:
        require_few(params.ItemsToModify)
        items = self._items(params.SubscriptionId)
        for item in params.ItemsToModify:
            if item.MonitoredItemId not in items:
                raise ServiceError(ua.StatusCodes.BadMonitoredItemIdInvalid)
            limit_item(item.RequestedParameters, _is_event(items[item.MonitoredItemId].read_value_id))
        return await super().modify_monitored_items(params)

    async def delete_monitored_items(self, params: ua.DeleteMonitoredItemsParameters) -> list[ua.StatusCode]:
        require_few(params.MonitoredItemIds)
        self._require_own([params.SubscriptionId])
        return await super().delete_monitored_items(params)

    async def set_monitoring_mode(self, params: ua.SetMonitoringModeParameters) -> list[ua.StatusCode]:
        require_few(params.MonitoredItemIds)
        self._require_own([params.SubscriptionId])
        return await super().set_monitoring_mode(params)

    def _own(self) -> set[int]:
        found = self.subscription_service.subscriptions
        return {each for each, subscription in found.items() if subscription.session_id == self.session_id}

    def _require_own(self, ids: Sequence[int]) -> None:
        if not self._own().issuperset(ids):
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)

    def _items(self, subscription_id: int) -> dict[int, Any]:
        self._require_own([subscription_id])
        return self.subscription_service.subscriptions[subscription_id].monitored_item_srv._monitored_items


def _is_event(item: ua.ReadValueId) -> bool:
    return item.AttributeId == ua.AttributeIds.EventNotifier
