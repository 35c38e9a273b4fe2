"""Who may connect to a line's sockets: every client of this machine, or from anywhere, clients with an allowed key.

CurveZMQ keys are in files that other ZeroMQ programs can read. A key has 32 bytes, or 40 characters in Z85: the form
that ZeroMQ, its files and this module use. Allow-lists are a folder with one folder of public keys for each role.
Commands write it, and a running line reads it about once a second.
"""

import hashlib
import ipaddress
import logging
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, get_args

import zmq
from zmq.utils import z85

from heatline.edge.delivery.sockets import set_options
from heatline.edge.errors import AccessError
from heatline.edge.keys import PUBLIC_SUFFIX, KeyStore, StoredKey, read_private, read_public, write_pair
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import on_one_line

logger = logging.getLogger(__name__)

KEY_BYTES = 32
MADE_BY = "heatline keys new"
LINE_KEY = "/etc/heatline/keys/line.key"
ALLOWED_KEYS = Path("/etc/heatline/keys/allowed")
"""Default folder of a machine's allow-lists."""
Role = Literal["listen", "follow", "command", "reviewer", "engineer"]
"""Role of a client: receive live events, be a durable consumer, or send commands; of a person on the page: keep,
mark and label pictures, or train and activate too."""
ROLES: tuple[Role, ...] = get_args(Role)
SocketName = Literal["events", "commands", "journal"]
ROLE_OF: dict[SocketName, Role] = {"events": "listen", "commands": "command", "journal": "follow"}
HANDSHAKE_WITHIN_MS = 3000
"""A client that does not complete its handshake within this time is disconnected. A client that is not allowed may have
to wait as long before it can try again."""
LOOK_EVERY_SECONDS = 1.0
AS_OF_SECONDS = 0.1
"""Age of the allow-list for a new connection, so that many connections do not read the disk each."""
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
"""Address of the authentication requests in each context: ZAP 1.0 (https://rfc.zeromq.org/spec/27)."""
ALLOWED, NOT_ALLOWED = (b"200", b"OK"), (b"300", b"not allowed")
"""300 and not 400: ZeroMQ disconnects the client, which tries again by itself. After 400 it would stop for ever, and a
key that is allowed a minute later would stay out. pyzmq's authenticator answers 400, and needs asyncio."""
_ENTRY = re.compile(rb'^\s*(public-key|secret-key)\s*=\s*"?([^"\s]*)"?\s*$', re.MULTILINE)
_FILE = """\
#   heatline: a CurveZMQ {half} key, as ZeroMQ's certificate files have it.
#   {what}

metadata
curve
    public-key = "{public}"
"""


# Keys. Each function raises an AccessError if a file or a folder cannot be used.


@dataclass(frozen=True)
class KeyPair:
    """Both halves of a key."""

    public: bytes
    secret: bytes = field(repr=False)

    @property
    def options(self) -> dict[int, bytes]:
        """Options of ZeroMQ for a socket that has this key."""
        return {zmq.CURVE_PUBLICKEY: self.public, zmq.CURVE_SECRETKEY: self.secret}


@dataclass(frozen=True)
class ClientKeys:
    """Keys that a client needs to connect to a protected line."""

    own: KeyPair
    line: bytes
    """The line's public key, which proves that the peer is the line."""

    @classmethod
    def read(cls, own: Path, line: Path) -> Self:
        """Read a client's private key file and the line's public key file."""
        return cls(read_key_pair(own), read_public_key(line))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        set_options(socket, {zmq.CURVE_SERVERKEY: self.line, **self.own.options})


def make_key_pair(path: Path) -> KeyPair:
    """Create a key in a new file that only its owner may read, and its public half in a file beside it."""
    public, secret = zmq.curve_keypair()
    what = "Keep this half secret: its holder can pretend to be its owner."
    private = _FILE.format(half="secret", what=what, public=public.decode()) + f'    secret-key = "{secret.decode()}"\n'
    write_pair(path, private.encode(), to_file(public), AccessError)
    return KeyPair(public, secret)


def to_file(public: bytes) -> bytes:
    """Return the content of a public key's file."""
    return _FILE.format(half="public", what="This half is public.", public=public.decode()).encode()


def read_key_pair(path: Path) -> KeyPair:
    """Read a private key's file, which only its owner may read and write."""
    found = _entries(read_private(path, AccessError, MADE_BY))
    public, secret = found.get("public-key"), found.get("secret-key")
    if public is None or secret is None or zmq.curve_public(secret) != public:
        raise AccessError(f"{path} holds no CurveZMQ key, or a damaged one; make one with {MADE_BY}")
    return KeyPair(public, secret)


def read_public_key(path: Path) -> bytes:
    return parse_public_key(read_public(path, AccessError, MADE_BY), path)


def parse_public_key(data: bytes, where: Path) -> bytes:
    """Parse the content of a public key's file."""
    if b"secret-key" in data or b"PRIVATE KEY" in data:
        raise AccessError(f"{where} holds a private key, which stays with its owner; name its public half, a .pub file")
    public = _entries(data).get("public-key")
    if public is None:
        raise AccessError(f"{where} holds no CurveZMQ public key; name KEY{PUBLIC_SUFFIX} of {MADE_BY}")
    return public


def fingerprint(public: bytes) -> str:
    """Return the fingerprint that people compare: the sha256 of the raw key, in hexadecimal."""
    return hashlib.sha256(z85.decode(public)).hexdigest()


def _entries(data: bytes) -> dict[str, bytes]:
    """Return the valid keys in a file by name."""
    return {name.decode(): key for name, key in _ENTRY.findall(data) if _is_key(key)}


def _is_key(text: bytes) -> bool:
    try:
        return len(z85.decode(text)) == KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False


# Allow-lists.


def allow_list(folder: Path, role: Role) -> KeyStore[bytes]:
    """Return the keys in a folder of allow-lists that are allowed in a role."""
    return KeyStore(folder / role, parse_public_key, AccessError)


def allow(key: bytes, name: str, folder: Path, role: Role) -> StoredKey[bytes]:
    """Allow a key in a role. A key that is allowed already keeps its name."""
    return allow_list(folder, role).add(name, key, to_file(key), "--allowed")


def revoke(name: str, folder: Path) -> list[Role]:
    """Revoke a key in all roles; return those that it had."""
    had = [role for role in ROLES if allow_list(folder, role).remove(name, "--allowed")]
    if not had:
        raise AccessError(f"{folder} has no key {name!r}; heatline keys list shows which it has")
    return had


# Access to a line.


class Refusals:
    """Number of refusals of each socket since the start, by reason; each is logged at a limited rate. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logs: dict[str, RateLimitedLog] = {}

    def note(self, socket: str, reason: str, detail: str) -> None:
        """Count a refusal of a socket, for a reason of one word; the detail is a sentence for the log."""
        name = f"{socket}.{reason}"
        with self._lock:
            self._counts[name] += 1
            self._logs.setdefault(name, RateLimitedLog(logger)).error("refused (%s): %s", name, on_one_line(detail))

    def counts(self) -> Mapping[str, int]:
        """Return the counts by `SOCKET.REASON`."""
        with self._lock:
            return dict(self._counts)


class Access:
    """Who may connect, which the authenticators of all of a line's sockets share. Any thread.

    A file or folder of allowed keys that is damaged or cannot be read authorizes nobody, and is logged.

    Args:
        key: the line's key, which is allowed in every role: who can read its private half is the line. None: its
            sockets can be bound at local addresses only, which the configuration sees to.
        allowed: folder of its allow-lists; None: nobody else is allowed.
    """

    def __init__(self, key: KeyPair | None = None, allowed: Path | None = None) -> None:
        self.key = key
        self.refusals = Refusals()
        self._allowed = allowed
        self._lock = threading.Lock()
        self._own: frozenset[bytes] = frozenset() if key is None else frozenset({key.public})
        self._keys: dict[Role, frozenset[bytes]] = dict.fromkeys(ROLES, self._own)
        self._refreshed_s = float("-inf")
        self._faults: list[str] = []

    @classmethod
    def read(cls, key: Path | None, allowed: Path | None) -> Self:
        """Read the files that a line's configuration names; raise an AccessError if one cannot be used."""
        if key is None:
            return cls()
        own = read_key_pair(key)
        if allowed is None or not allowed.is_dir():
            raise AccessError(
                f"there is no folder {allowed} of keys that may connect; allow one with "
                f"heatline keys allow CLIENT.key.pub --role listen --allowed {allowed}"
            )
        for role in ROLES:
            allow_list(allowed, role).all()
        return cls(own, allowed)

    def allows(self, role: Role, key: bytes) -> bool:
        """Return whether a key is allowed in a role, as of the last refresh."""
        return key in self._keys[role]

    def refresh(self, at_most_s_old: float = 0.0) -> None:
        """Read the folder again, unless it was read at most this many seconds ago."""
        with self._lock:
            now_s = time.monotonic()
            if self._allowed is None or now_s - self._refreshed_s <= at_most_s_old:
                return
            faults: list[str] = []
            for role in ROLES:
                found, refused = allow_list(self._allowed, role).valid()
                self._keys[role] = self._own.union(each.key for each in found)
                faults += [f"not all keys are allowed to {role}: {error}" for error in refused]
            self._refreshed_s = now_s
            for fault in faults if faults != self._faults else ():  # each is logged once
                logger.error("%s", fault)
            self._faults = faults


def unprotected(name: str, address: str) -> str:
    """Return a sentence about an address that other machines can reach although the line has no key."""
    return (
        f"{name} is {address!r}, which other machines can reach, and the line has no key to protect it with; make one "
        f"with heatline keys new {LINE_KEY}, give it to the service (chown heatline {LINE_KEY}), and set "
        f'key = "{LINE_KEY}" under [security], or bind an address that this machine alone can reach, e.g. '
        "tcp://127.0.0.1:5556 or ipc:///run/heatline/NAME/socket"
    )


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address: `ipc://`, or `tcp://` on loopback."""
    scheme, _, rest = address.partition("://")
    return scheme == "ipc" or (scheme == "tcp" and (_is_loopback(rest.rpartition(":")[0]) or _is_loopback(rest)))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


class Authenticator:
    """Authorizes the clients of one socket, which must be the only one that its context binds.

    Created before the socket is bound to the address. At a local one, every client may connect; for others, the access
    must have the line's key. A thread of its own answers ZeroMQ's authentication requests (ZAP); it ends with the
    context.
    """

    def __init__(self, socket: zmq.Socket[bytes], access: Access, name: SocketName, address: str) -> None:
        self._access, self._name = access, name
        self._role = ROLE_OF[name]
        self._faults = RateLimitedLog(logger)
        self._thread: NamedThread | None = None
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_WITHIN_MS)
        if is_local(address):
            return
        assert access.key is not None
        set_options(socket, {zmq.CURVE_SERVER: 1, **access.key.options})
        # Unless the domain is enforced, everybody is authorized while nobody answers.
        set_options(socket, {zmq.ZAP_DOMAIN: self._role.encode(), zmq.ZAP_ENFORCE_DOMAIN: 1})
        questions: zmq.Socket[bytes] = socket.context.socket(zmq.REP)
        questions.bind(ZAP_ENDPOINT)
        self._thread = NamedThread(f"auth {name}", self._answer_all, questions)
        self._thread.start()

    def authorizes(self, part: zmq.Frame) -> bool:
        """Return whether the sender of a message is still allowed. If not, count a refusal."""
        if self._thread is None:
            return True
        key = str(part.get("User-Id")).encode()
        if self._access.allows(self._role, key):
            return True
        self._access.refusals.note(self._name, "revoked", f"a message by {_named(key)}, which is not allowed any more")
        return False

    def join(self) -> None:
        """Wait for the authenticator's thread, after the socket is closed and its context is terminated."""
        if self._thread is not None:
            self._thread.join()

    # The authenticator's thread.

    def _answer_all(self, questions: zmq.Socket[bytes]) -> None:
        with questions:
            while True:
                try:
                    if questions.poll(round(LOOK_EVERY_SECONDS * 1000)):
                        self._answer(questions)
                    self._access.refresh(LOOK_EVERY_SECONDS / 2)
                except zmq.ContextTerminated:
                    return
                except Exception as error:  # without this thread, nobody could connect any more
                    self._faults.error("%s: its authenticator failed", self._name, exc_info=error)

    def _answer(self, questions: zmq.Socket[bytes]) -> None:
        version, request_id, _domain, address, _identity, _mechanism, client = questions.recv_multipart()
        key, status = z85.encode(client), NOT_ALLOWED
        try:
            self._access.refresh(AS_OF_SECONDS)
            if self._access.allows(self._role, key):
                status = ALLOWED
            else:
                detail = f"{_named(key)} from {address.decode()}, which is not allowed to {self._role}"
                self._access.refusals.note(self._name, "auth", detail)
        finally:
            questions.send_multipart([version, request_id, *status, key if status is ALLOWED else b"", b""])


def _named(key: bytes) -> str:
    return f"the key with the fingerprint {fingerprint(key)}"
