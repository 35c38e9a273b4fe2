"""An OPC UA server that untrusted clients can reach: limited, and only for clients whose certificates are allowed."""

import asyncio
import logging
import struct
from datetime import UTC, datetime
from typing import Any

from asyncua import Server, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_session import SessionState
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.ua_binary import uatcp_to_binary

from heatline.edge import __version__
from heatline.edge.bridge.opcua.certificates import Certificates, RefusedError
from heatline.edge.bridge.opcua.limits import SMALLEST_CHUNK_BYTES, UNSENT_BYTES, transport_limits
from heatline.edge.bridge.opcua.session import Clients, LimitedServer, Permissions
from heatline.edge.errors import DeliveryError
from heatline.edge.util.listener import ACCEPTED_AT_ONCE, OPCUA_CONNECTIONS, OPCUA_REQUEST_SECONDS, Listener
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

SECURED = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
CREATE_SESSION = ua.NodeId(ua.ObjectIds.CreateSessionRequest_Encoding_DefaultBinary)
HEADER = struct.Struct("<3sxI")
"""Kind and length of a chunk."""
MESSAGES = b"HEL", b"OPN", b"MSG", b"CLO", b"ERR"


class BridgeServer(Server):
    """An asyncua server that accepts only allowed clients.

    Args:
        host_port: where it listens.
        unprotected: whether clients without a certificate may read.
    """

    def __init__(self, certificates: Certificates, host_port: tuple[str, int], unprotected: bool) -> None:
        self.clients = Clients(certificates, unprotected)
        super().__init__(LimitedServer(self.clients))
        self._certificates, self._host_port = certificates, host_port
        self.limits = transport_limits()
        self.set_security_policy(
            [*SECURED, ua.SecurityPolicyType.NoSecurity] if unprotected else SECURED, Permissions()
        )
        self.set_identity_tokens([ua.AnonymousIdentityToken])

    async def prepare(self, name: str) -> None:
        """Build the standard address space and set the server's names."""
        await self.init()
        host, port = self._host_port
        shown = f"[{host}]" if ":" in host else "0.0.0.0" if host == "*" else host
        self.set_endpoint(f"opc.tcp://{shown}:{port}")
        self.product_uri, self.manufacturer_name = "urn:heatline", "heatline"
        self.set_server_name(name)
        await self.set_application_uri(self._certificates.application_uri)
        self.application_type = ua.ApplicationType.Server
        self.iserver.certificate, self.iserver.private_key = self._certificates.certificate, self._certificates.key
        now = datetime.now(UTC)
        await self.set_build_info(self.product_uri, self.manufacturer_name, name, __version__, __version__, now)

    async def start(self) -> None:
        """Listen.

        Raises:
            DeliveryError: the address cannot be used.
        """
        await self._setup_server_nodes()
        policies = [_TrustedPolicy(each, self._certificates) for each in self._policies]
        await self.iserver.start()
        self.bserver = _Connections(self.iserver, *self._host_port, self.limits)
        self.bserver.set_policies(policies)
        try:
            await self.bserver.start()
        except DeliveryError:
            await self.iserver.stop()
            raise

    def disconnect_revoked(self) -> None:
        """Disconnect the clients whose certificates are not allowed any more."""
        assert self.bserver is not None
        for connection in list(self.bserver.clients):
            session = connection.processor.session if connection.processor is not None else None
            revoked = session is not None and session.is_activated() and not self.clients.may_stay(session.user)
            if revoked and connection.transport is not None:
                logger.warning("%s is disconnected: its certificate is no longer allowed", connection.peer_name)
                connection.transport.abort()


class _TrustedPolicy(SecurityPolicyFactory):
    """A security policy for clients with an allowed certificate only."""

    def __init__(self, policy: SecurityPolicyFactory, certificates: Certificates) -> None:
        super().__init__(policy.cls, policy.mode, policy.certificate, policy.private_key, policy.permission_ruleset)
        self._certificates = certificates

    def create(self, peer_certificate: bytes | None) -> Any:
        if self.cls is SecurityPolicyNone:
            return super().create(None)  # nothing proves a certificate that is shown without a signature
        self._certificates.require_allowed(peer_certificate)
        return super().create(peer_certificate)


class _Processor(UaProcessor):
    """Executes the requests of one connection. What it cannot understand ends the connection."""

    def __init__(self, connections: "_Connections", transport: asyncio.BaseTransport) -> None:
        super().__init__(connections.iserver, transport, connections.limits)
        self.set_policies(connections._policies)
        self._connections = connections

    async def process(self, header: ua.Header, body: Any) -> bool:
        try:
            goes_on = await super().process(header, body)
        except RefusedError as error:
            self._connections.refusals.error("refused a client at %s: %s", self._address, error)
            refusal = ua.ErrorMessage(ua.StatusCode(ua.StatusCodes.BadSecurityChecksFailed), "not allowed")
            self._transport.write(uatcp_to_binary(ua.MessageType.Error, refusal))
            return False
        except Exception as error:  # asyncua raises exceptions of any kind, all for what the client sent
            self._connections.protocol_errors.error(
                "%s is disconnected: it sent what is not valid OPC UA (%s)", self._address, type(error).__name__
            )
            return False
        if min(self._limits.max_send_buffer, self._limits.max_recv_buffer) < SMALLEST_CHUNK_BYTES:
            self._connections.protocol_errors.error("%s is disconnected: it asks for too small chunks", self._address)
            return False
        listener, is_at_work = self._connections.listener, self.session is not None and self.session.is_activated()
        (listener.requested if is_at_work else listener.left)(self._transport)
        return bool(goes_on)

    async def _process_message(self, typeid: ua.NodeId, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        if typeid == CREATE_SESSION and self.session is not None and self.session.state is not SessionState.Closed:
            raise ServiceError(ua.StatusCodes.BadTooManySessions)  # each would live as long as the connection
        return await super()._process_message(typeid, requesthdr, seqhdr, body)

    async def close(self) -> None:
        """End the session, and with it the connection: a client whose session timed out would keep its place."""
        await super().close()
        self._transport.abort()

    @property
    def _address(self) -> str:
        return f"{self.name[0]}:{self.name[1]}" if isinstance(self.name, tuple) else str(self.name)


class _Connection(OPCUAProtocol):
    """A connection that is limited in each direction."""

    def __init__(self, connections: "_Connections") -> None:
        super().__init__(
            connections.iserver,
            connections._policies,
            connections.clients,
            connections.closing_tasks,
            connections.limits,
        )
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self.processor = _Processor(self._connections, transport)

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        super().data_received(data)
        if len(self._buffer) < HEADER.size:
            return
        kind, size = HEADER.unpack_from(self._buffer)  # of what is not complete yet
        if kind not in MESSAGES or size > self.limits.max_recv_buffer:
            self._connections.protocol_errors.error(
                "%s is disconnected: it sent what is not OPC UA, or is too long", self.peer_name
            )
            self.transport.abort()

    def pause_writing(self) -> None:
        self._connections.protocol_errors.error(
            "%s is disconnected: it does not read what it asked for", self.peer_name
        )
        if self.transport is not None:
            self.transport.abort()


class _Connections(BinaryServer):
    """All connections, and the logs that they share: many clients together log no more than one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.refusals, self.protocol_errors = RateLimitedLog(logger), RateLimitedLog(logger)

    async def start(self) -> None:
        """Listen.

        Raises:
            DeliveryError: the address cannot be used.
        """
        self.listener = Listener(
            f"{self.hostname}:{self.port}",
            OPCUA_CONNECTIONS,
            "the OPC UA bridge cannot listen on",
            "end what uses this address, or set another one of this machine in opcua.listen",
            request_within_s=OPCUA_REQUEST_SECONDS,
        )
        self._server: asyncio.Server | None = await asyncio.get_running_loop().create_server(
            self._make_protocol, sock=self.listener, backlog=ACCEPTED_AT_ONCE
        )
        self.cleanup_task = asyncio.create_task(self._close_task_loop())

    async def stop(self) -> None:
        """Stop listening, then disconnect all. asyncua listens until the end, and leaves open who connected late."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await super().stop()
        if server is not None:
            await self.listener.disconnect_all()
            await self._close_tasks()

    def _make_protocol(self) -> OPCUAProtocol:
        return _Connection(self)
