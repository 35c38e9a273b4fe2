"""An OPC UA server for clients whose certificates are allowed. asyncua's own limits bound what they can ask for.

    FOLDER/server.der, server.key    the server's own
    FOLDER/allowed/read/             clients that may read
    FOLDER/allowed/command/          clients that may also acknowledge results and select products
    FOLDER/rejected/                 clients that tried to connect

Clients are allowed by their exact certificate; there are no certificate authorities. asyncua's own validator looks at
what a client says in its session, and not at the certificate that it has proven to own.
"""

import contextlib
import ipaddress
import logging
import re
import socket
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from asyncua import Server, ua
from asyncua.common.connection import TransportLimits
from asyncua.crypto import uacrypto
from asyncua.crypto.cert_gen import dump_private_key_as_pem, generate_private_key, generate_self_signed_app_certificate
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.crypto.security_policies import SecurityPolicyFactory, SecurityPolicyNone
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from heatline.edge import __version__
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.keys import KeyStore, read_private, write_new
from heatline.edge.util.files import writing
from heatline.edge.util.rate_limited_log import FaultLog, RateLimitedLog
from heatline.edge.util.text import on_one_line

logger = logging.getLogger(__name__)

Role = Literal["read", "command"]
"""A client that may command may also read."""
ROLES: tuple[Role, ...] = get_args(Role)
SUFFIXES = {".der", ".cer", ".crt", ".pem"}
VALID_DAYS = 3650
"""Validity of the server's own certificate."""
LARGEST_BYTES = 8192
REJECTED_AT_MOST = 20
"""Number of rejected certificates that are stored; the oldest are deleted."""
CONNECTIONS = 64
SESSION_WITHIN_SECONDS = 10.0
"""A client that has not opened a session by then is disconnected."""
CHUNK_BYTES, MESSAGE_BYTES = 65535, 1 << 20
SUBSCRIPTIONS = 40
QUEUED_EVENTS = 1000
"""Per monitored item; the oldest are dropped."""
WRITE = ua.NodeId(ua.ObjectIds.WriteRequest_Encoding_DefaultBinary)
_NOBODY = User(UserRole.Anonymous)
caller: ContextVar[User | None] = ContextVar("caller", default=None)
"""The client whose request is executed. Its name is the fingerprint of its certificate; None: it has none."""


class Certificates(UserManager):
    """Knows clients by their certificates. User names, passwords and user certificates are not accepted.

    Args:
        folder: of certificates, which is made if it does not exist. Files in it may change at any time.
        line: its name, for the server's own certificate.
    Raises:
        AccessError: the folder cannot be used, the own certificate is damaged, or others can read the key.
    """

    def __init__(self, folder: Path, line: str, config: OpcuaConfig) -> None:
        self._folder, self._unprotected, self._faults = folder, config.unprotected, FaultLog(logger)
        with writing(folder, AccessError, or_else=", or set opcua.folder to a folder of this user"):
            for each in (*(folder / "allowed" / role for role in ROLES), folder / "rejected"):
                each.mkdir(parents=True, exist_ok=True)
        self.key_path, self.certificate_path = folder / "server.key", folder / "server.der"
        if not self.key_path.exists() and not self.certificate_path.exists():
            self._make(line, config.host_port[0])
        self.key, self.certificate = self._read()

    def role_of(self, fingerprint: str | None) -> Role | None:
        """Return the highest role of the certificate with that fingerprint; None: it is not allowed.

        A file that is no certificate allows nobody, and is logged.
        """
        found: Role | None = None
        for role in ROLES:
            allowed, faults = KeyStore(self._folder / "allowed" / role, _fingerprint_in, AccessError, SUFFIXES).valid()
            for fault in faults:
                self._faults.begin(f"not all certificates are allowed to {role}: {fault}")
            if fingerprint in [each.key for each in allowed]:
                found = role
        return found

    def refusal(self, der: bytes | None) -> str | None:
        """Return why a client with that certificate may not connect, and store a rejected one; None: it may."""
        if not der or len(der) > LARGEST_BYTES:
            return f"it showed no certificate of at most {LARGEST_BYTES} bytes"
        try:
            certificate = uacrypto.x509_from_der(der)  # of a chain, the first
        except Exception:  # the parser raises exceptions of many kinds, all for what an untrusted client sent
            return "it showed a certificate that cannot be read"
        fingerprint = fingerprint_of(certificate)
        if self.role_of(fingerprint) is not None:
            return None
        name, rejected, allowed = _name_of(certificate), self._folder / "rejected", self._folder / "allowed"
        file = rejected / f"{re.sub('[^A-Za-z0-9_-]', '_', name)[:40]}-{fingerprint[:16]}.der"
        with contextlib.suppress(OSError):  # a full disk is not a reason to end; the log has the fingerprint
            file.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
            for old in sorted(rejected.iterdir(), key=lambda each: each.lstat().st_mtime_ns)[:-REJECTED_AT_MOST]:
                old.unlink()
        return (
            f"its certificate {name!r} (sha256 {fingerprint}) is not allowed; if the fingerprint is the client's, move "
            f"{file} to {allowed / 'read'} or {allowed / 'command'}"
        )

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
        return None if self.role_of(fingerprint) is None else User(UserRole.User, fingerprint)

    def _make(self, line: str, host: str) -> None:
        here = socket.gethostname()
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:{here}:heatline:{line}")]
        names.append(x509.DNSName(here))
        with contextlib.suppress(ValueError):  # a host name, which other machines may not know
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        key = generate_private_key()
        certificate = generate_self_signed_app_certificate(
            key, f"heatline {line}"[:64], {}, names, [ExtendedKeyUsageOID.SERVER_AUTH], VALID_DAYS
        )
        write_new(self.key_path, dump_private_key_as_pem(key), 0o600, AccessError)
        write_new(self.certificate_path, certificate.public_bytes(serialization.Encoding.DER), 0o644, AccessError)

    def _read(self) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
        pem = read_private(self.key_path, AccessError, "the bridge's first start")
        again = f"delete {self.key_path} and {self.certificate_path}, and the next start makes new ones"
        try:
            key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)  # our own
            certificate = x509.load_der_x509_certificate(self.certificate_path.read_bytes())
        except (ValueError, TypeError, OSError) as error:
            raise AccessError(f"the server's certificate or its key cannot be read ({error}); {again}") from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
            raise AccessError(f"{self.key_path} is not the key of {self.certificate_path}; {again}")
        return key, certificate


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the sha256 of a certificate, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _fingerprint_in(data: bytes, where: Path) -> str:
    """Return the fingerprint of the certificate in the content of a file."""
    load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
    try:
        return fingerprint_of(load(data))
    except ValueError as error:
        raise AccessError(f"{where} holds no certificate, DER or PEM ({error})") from error


def _name_of(certificate: x509.Certificate) -> str:
    return on_one_line(certificate.subject.rfc4514_string()).removeprefix("CN=")[:64]


class Permissions(SimpleRoleRuleset):
    """asyncua's, without writing: clients call methods instead. Remembers who asks: asyncua does not tell methods."""

    def check_validity(self, user: User, action_type: ua.NodeId, body: object) -> bool:
        caller.set(user)
        return action_type != WRITE and bool(super().check_validity(user, action_type, body))


class TrustedPolicy(SecurityPolicyFactory):
    """A security policy for clients with an allowed certificate only: no other one gets as far as to a session."""

    def __init__(self, policy: SecurityPolicyFactory, certificates: Certificates) -> None:
        super().__init__(policy.cls, policy.mode, policy.certificate, policy.private_key, policy.permission_ruleset)
        self._certificates, self._refusals = certificates, RateLimitedLog(logger)

    def create(self, peer_certificate: bytes | None) -> Any:
        if self.cls is SecurityPolicyNone:
            return super().create(None)  # nothing proves a certificate that is shown without a signature
        if (refusal := self._certificates.refusal(peer_certificate)) is not None:
            self._refusals.error("refused a client: %s", refusal)
            raise ua.uaerrors.BadUserAccessDenied
        return super().create(peer_certificate)


class _OneConnectionSessions(InternalServer):
    """Ends a session with its connection: asyncua would let any client continue it that guesses its number."""

    def create_session(self, name: str, user: User = _NOBODY, external: bool = False) -> InternalSession:
        return super().create_session(name, user, external=False)


class BridgeServer(Server):
    """An asyncua server that accepts only allowed clients."""

    def __init__(self, name: str, certificates: Certificates, config: OpcuaConfig) -> None:
        super().__init__(_OneConnectionSessions(certificates))
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
        server.max_subscriptions, server.max_monitored_item_queue_size = SUBSCRIPTIONS, QUEUED_EVENTS

    async def prepare(self) -> None:
        """Build the standard address space."""
        await self.init()
        names = self._certificates.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        await self.set_application_uri(uri)  # clients compare it with the one in the certificate
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
        for connection in list(self.bserver.clients):
            session = connection.processor.session if connection.processor is not None else None
            name = session.user.name if session is not None and session.is_activated() else None
            revoked = name is not None and self._certificates.role_of(name) is None
            if revoked and connection.transport is not None:
                logger.warning("%s is disconnected: its certificate is no longer allowed", connection.peer_name)
                connection.transport.abort()
