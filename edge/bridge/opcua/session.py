"""A client's session: who the client is, what it may do, and that it harms neither the server nor other clients."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import PermissionRuleset, User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager

from heatline.edge.bridge.opcua.certificates import Certificates, RefusedError
from heatline.edge.bridge.opcua.limits import SUBSCRIPTIONS_OF_A_CLIENT, apply_limits, limit_publishing

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

    def register_server(self, server: object, conf: object = None) -> None:
        """Refuse: this is not a discovery server, and each request, even of an untrusted client, would cost memory."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class Session(InternalSession):
    """A session that concerns only its own subscriptions: asyncua would let any client change each, by its number."""

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        token = caller.set(self.user if isinstance(self.user, ClientUser) else None)
        try:
            return await super().call(params)
        finally:
            caller.reset(token)

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        if len(self.own()) >= SUBSCRIPTIONS_OF_A_CLIENT:
            raise ServiceError(ua.StatusCodes.BadTooManySubscriptions)
        params.RequestedPublishingInterval = limit_publishing(params.RequestedPublishingInterval)
        return await super().create_subscription(params, callback, request_callback)

    def own(self) -> set[int]:
        """Return the ids of its subscriptions."""
        found = self.subscription_service.subscriptions
        return {each for each, subscription in found.items() if subscription.session_id == self.session_id}


def _for_own_only(name: str, ids_of: Callable[[Any], Iterable[int]]) -> Callable[[Session, Any], Any]:
    inherited = getattr(InternalSession, name)

    def request(session: Session, params: Any) -> Any:
        if not session.own().issuperset(ids_of(params)):
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        return inherited(session, params)

    return request


for _name in (
    "modify_subscription",
    "republish",
    "create_monitored_items",
    "modify_monitored_items",
    "delete_monitored_items",
    "set_monitoring_mode",
):
    setattr(Session, _name, _for_own_only(_name, lambda params: [params.SubscriptionId]))
for _name, _ids_of in (
    ("set_publishing_mode", lambda params: params.SubscriptionIds),
    ("delete_subscriptions", lambda ids: ids),
):
    setattr(Session, _name, _for_own_only(_name, _ids_of))
