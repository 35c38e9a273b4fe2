"""An OPC UA server for clients whose certificates are allowed. asyncua's own limits bound what they can ask for."""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from asyncua import Server, ua
from asyncua.common.connection import TransportLimits
from asyncua.crypto import uacrypto
from asyncua.crypto.permission_rules import PermissionRuleset, User, UserRole
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone
from asyncua.server.internal_server import InternalServer
from asyncua.server.user_managers import UserManager

from heatline.edge import __version__
from heatline.edge.bridge.opcua.certificates import Certificates, RefusedError, fingerprint_of
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.errors import DeliveryError
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

CONNECTIONS = 64
SESSION_WITHIN_SECONDS = 10.0
"""A client that has not opened a session by then is disconnected."""
SESSION_SECONDS = 5.0, 20.0
"""Shortest and longest silence after which a session ends, whatever the client requests."""
PENDING_MESSAGES = 64
"""Messages of one client that wait; a client that sends more is disconnected."""
CHUNK_BYTES, MESSAGE_BYTES = 65535, 1 << 20
SUBSCRIPTIONS = 40
QUEUED_EVENTS = 1000
"""Per monitored item; the oldest are dropped."""
UNACKNOWLEDGED_MESSAGES = 10
"""Messages of one subscription that the client may request again."""
LIFETIME_COUNT, KEEP_ALIVE_COUNT = 3000, 1000
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

caller: ContextVar[User | None] = ContextVar("caller", default=None)
"""The client whose request is executed. Its name is the fingerprint of its certificate; None: it has none."""


class Permissions(PermissionRuleset):
    """Permits what `PERMITTED` names, and remembers who asks: asyncua does not tell methods."""

    def check_validity(self, user: User, action_type: ua.NodeId, body: object) -> bool:
        caller.set(user)
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
            return User(UserRole.User) if self._unprotected else None
        fingerprint = fingerprint_of(uacrypto.x509_from_der(certificate))
        return None if self._certificates.role_of(fingerprint) is None else User(UserRole.User, fingerprint)

    def may_command(self, client: User | None) -> bool:
        """Return whether a client may acknowledge results and select products."""
        return client is not None and client.name is not None and self._certificates.role_of(client.name) == "command"

    def may_stay(self, client: User) -> bool:
        """Return whether a client with a session is still allowed."""
        return client.name is None or self._certificates.role_of(client.name) is not None


class TrustedPolicy(SecurityPolicyFactory):
    """A security policy for clients with an allowed certificate only: no other one gets as far as to a session."""

    def __init__(self, policy: SecurityPolicyFactory, certificates: Certificates) -> None:
        super().__init__(policy.cls, policy.mode, policy.certificate, policy.private_key, policy.permission_ruleset)
        self._certificates, self._refusals = certificates, RateLimitedLog(logger)

    def create(self, peer_certificate: bytes | None) -> Any:
        if self.cls is SecurityPolicyNone:
            return super().create(None)  # nothing proves a certificate that is shown without a signature
        try:
            self._certificates.require_allowed(peer_certificate)
        except RefusedError as error:
            self._refusals.error("refused a client: %s", error)
            raise ua.uaerrors.BadUserAccessDenied from error
        return super().create(peer_certificate)


class BridgeServer(Server):
    """An asyncua server that accepts only allowed clients.

    Args:
        name: of the server.
    """

    def __init__(self, name: str, certificates: Certificates, config: OpcuaConfig) -> None:
        self.clients = Clients(certificates, config.unprotected)
        super().__init__(user_manager=self.clients)
        self._certificates, self._listen = certificates, config.listen
        host, port = config.host_port
        self.socket_address = "" if host == "*" else host, port
        self.set_endpoint(f"opc.tcp://{f'[{host}]' if ':' in host else '0.0.0.0' if host == '*' else host}:{port}")
        policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        self.set_security_policy(policies + [ua.SecurityPolicyType.NoSecurity] * config.unprotected, Permissions())
        self.set_identity_tokens([ua.AnonymousIdentityToken])
        self.product_uri, self.manufacturer_name = "urn:heatline", "heatline"
        self.application_type = ua.ApplicationType.Server
        self.set_server_name(name)
        self.limits = TransportLimits(CHUNK_BYTES, CHUNK_BYTES, MESSAGE_BYTES // 8192, MESSAGE_BYTES)
        server = self.iserver
        server.certificate, server.private_key = certificates.certificate, certificates.key
        server.max_connections, server.max_pending_activation_seconds = CONNECTIONS, SESSION_WITHIN_SECONDS
        server.min_session_timeout_ms, server.max_session_timeout_ms = (1000 * seconds for seconds in SESSION_SECONDS)
        server.max_pending_messages_per_connection = PENDING_MESSAGES
        server.max_subscriptions, server.max_monitored_item_queue_size = SUBSCRIPTIONS, QUEUED_EVENTS
        server.max_unacked_messages_per_subscription = UNACKNOWLEDGED_MESSAGES
        server.max_lifetime_count, server.max_keep_alive_count = LIFETIME_COUNT, KEEP_ALIVE_COUNT

    async def prepare(self) -> None:
        """Build the standard address space."""
        await self.init()
        await self.set_application_uri(self._certificates.application_uri)
        now = datetime.now(UTC)
        await self.set_build_info(self.product_uri, self.manufacturer_name, self.name, __version__, __version__, now)

    async def start(self) -> None:
        """Listen.

        Raises:
            DeliveryError: the address cannot be used.
        """
        try:
            await super().start()
        except OSError as error:
            raise DeliveryError(
                f"the OPC UA bridge cannot listen on {self._listen} ({error.strerror}); end what uses this address, or "
                "set another one of this machine in opcua.listen"
            ) from error

    async def _setup_server_nodes(self) -> None:
        await super()._setup_server_nodes()
        self._policies[:] = [TrustedPolicy(each, self._certificates) for each in self._policies]

    def disconnect_revoked(self) -> None:
        """Disconnect the clients whose certificates are not allowed any more."""
        assert self.bserver is not None
        for connection in list(self.bserver.clients):
            session = connection.processor.session if connection.processor is not None else None
            revoked = session is not None and session.is_activated() and not self.clients.may_stay(session.user)
            if revoked and connection.transport is not None:
                logger.warning("%s is disconnected: its certificate is no longer allowed", connection.peer_name)
                connection.transport.abort()
