"""The server that answers browsers. It decides who may see a page, by Host on loopback, by a token or its cookie, and
who may change something, by Origin and by the role of a person's key.
"""

import contextlib
import hashlib
import hmac
import re
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import cv2
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from heatline.edge.config import SecurityConfig, WebConfig
from heatline.edge.delivery.auth import Role, is_local
from heatline.edge.errors import AccessError, ConfigError
from heatline.edge.keys import read_secret
from heatline.edge.monitor.api import error, read_body
from heatline.edge.monitor.live import LARGEST_MESSAGE
from heatline.edge.monitor.login import PERSON, PERSON_SECONDS, Logins, Person
from heatline.edge.util.listener import ACCEPTED_AT_ONCE, Listener
from heatline.edge.util.process import yield_processor

STATIC = Path(__file__).with_name("static")
MOST_CONNECTIONS = 128
"""A further client replaces the oldest of the address that has most."""
END_WITHIN_SECONDS = 1
"""Open connections are closed after this time at the end."""

LOGIN = "/login"
OF_REVIEWERS = "/api/marks", "/label/api/label"
"""What a reviewer may change, by path; everything else only an engineer may, who may change this too."""
OPEN_PATHS = LOGIN, "/healthz"
"""Answered without a token."""
COOKIE_SECONDS = 30 * 86400
SHORTEST_TOKEN = 16
LARGEST_FORM = 4096
CONTENT_SECURITY_POLICY = "content-security-policy"
PAGE_MAY = (
    "default-src 'self'; img-src 'self' blob:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "object-src 'none'"
)
"""Unless an answer has a policy of its own: a browser would obey both."""
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>heatline: log in</title>
<meta name="viewport" content="width=device-width"><body><main><h1>heatline</h1><form method="post" action="/login">
<p>{problem}</p><p><label>Token of this line, or a code of heatline keys login <input type="password" name="token"
required autofocus autocomplete="current-password"></label> <button>Log in</button></p></form></main></body></html>"""


def run_server(
    app: Starlette,
    web: WebConfig,
    listen: str,
    announce: Callable[[str], None],
    how: str,
    security: SecurityConfig,
    beside: contextlib.AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008  # it can be used again
) -> None:
    """Serve an application until SIGTERM or Ctrl-C, protected as the configuration says, at the lowest priority.

    Args:
        listen: `HOST:PORT`.
        how: for a message, how to protect the page.
        security: whose keys may change something from other machines.
        beside: entered for the time that it is served.
    Raises:
        ConfigError: it is not an address, or other machines can reach it and nothing protects the page.
    """
    if not re.fullmatch(".+:[0-9]{1,5}", listen) or int(listen.rpartition(":")[2]) > 65535:
        raise ConfigError(f"the page's address is {listen!r}; expected HOST:PORT, PORT 0 to 65535")
    if not web.is_protected_on(listen):
        raise ConfigError(
            f"other machines can reach {listen}, and nothing protects the page; {how}, or listen on this machine "
            f"alone, e.g. 127.0.0.1:{listen.rpartition(':')[2]}"
        )
    with listening_socket(listen) as bound:
        server = server_of(app, bound, web, Logins.of(security), only_local=is_local(f"tcp://{listen}"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after its own end
        cv2.setNumThreads(1)  # the other cores belong to inspection
        yield_processor()
        with beside:
            host = listen.rpartition(":")[0]
            if host in ("*", "0.0.0.0", "[::]"):
                host = socket.gethostname()
            announce(f"{'http' if web.certificate is None else 'https'}://{host}:{bound.getsockname()[1]}/")
            server.run(sockets=[bound])


def server_of(
    app: Starlette, bound: socket.socket, web: WebConfig, logins: Logins | None = None, *, only_local: bool
) -> uvicorn.Server:
    """Return the server of an application, protected as the configuration says."""
    config = uvicorn.Config(
        Access(app, web, logins, only_local=only_local, cookie=f"heatline-{bound.getsockname()[1]}"),
        http="h11",
        backlog=ACCEPTED_AT_ONCE,
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        log_level="critical",  # it has a line for each request that is not valid: a hostile client could fill the disk
        access_log=False,
        server_header=False,
        headers=[*SECURITY_HEADERS.items()],
        proxy_headers=False,
        timeout_graceful_shutdown=END_WITHIN_SECONDS,
        ssl_certfile=web.certificate,
        ssl_keyfile=web.key,
        ssl_ca_certs=None if web.client_ca is None else str(web.client_ca),
        ssl_ciphers=None,  # those of Python; uvicorn's own default was a weak one
        ssl_cert_reqs=ssl.CERT_NONE if web.client_ca is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(each) for each in (web.certificate, web.key, web.client_ca) if each is not None)
        raise AccessError(
            f"the page cannot be served with TLS from {files} ({error.strerror or error}); expected PEM files that "
            "this user can read, and the certificate's own key"
        ) from error
    return uvicorn.Server(config)


def check(web: WebConfig) -> None:
    """Check that a page can be served as its table says."""
    with listening_socket(web.listen) as bound:
        server_of(Starlette(), bound, web, only_local=web.is_local)


def listening_socket(listen: str) -> Listener:
    """Return a socket that listens on `HOST:PORT`; port 0 is any free one."""
    return Listener(
        listen,
        MOST_CONNECTIONS,
        "the page cannot listen on",
        "a line with web.listen serves its page itself while it runs, so open that, or set web.listen (of heatline "
        "view: --listen) to another HOST:PORT",
    )


def read_token(path: Path) -> str:
    """Return the token in a file that only its owner can use."""
    make = f"make a token with: (umask 077; openssl rand -hex 24 > {path})"
    token = read_secret(path, AccessError, make, "write a new token into it").decode("ascii", "replace").strip()
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise AccessError(
            f"{path} holds no token; expected one line of at least {SHORTEST_TOKEN} letters and digits, e.g. from: "
            "openssl rand -hex 24"
        )
    return token


class Access:
    """Lets requests pass to the application that it protects.

    Args:
        web: without a token file, every client that can connect may see the page.
        logins: None: only somebody at this machine may change something.
        only_local: only this PC can connect. A browser that names another host was deceived by that host's page.
        cookie: name of the cookie; cookies of one host are common to all its ports, so two lines need two names.
    """

    def __init__(self, app: ASGIApp, web: WebConfig, logins: Logins | None, *, only_local: bool, cookie: str) -> None:
        self._app, self._logins, self._only_local, self._secure = app, logins, only_local, web.certificate is not None
        self._token = None if web.token_file is None else read_token(web.token_file)
        self._cookie, self._person_cookie = cookie, f"{cookie}-person"
        # Only a holder of the token can make it, and the token cannot be read from it.
        self._cookie_value = hmac.new((self._token or "").encode(), b"heatline page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(CONTENT_SECURITY_POLICY, PAGE_MAY)
            await send(message)

        answer = self._refuse(HTTPConnection(scope))
        if answer is None and scope["path"] == LOGIN and (self._token or self._logins):
            answer = await self._login(Request(scope, receive))
        if answer is None:
            await self._app(scope, receive, send_with_policy)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send_with_policy).send_denial_response(answer)
        else:
            await answer(scope, receive, send_with_policy)

    def _refuse(self, connection: HTTPConnection) -> Response | None:
        """Return the answer to a request that must not pass."""
        headers, host = connection.headers, connection.headers.get("host", "")
        if self._token is None and self._only_local and not is_local(f"tcp://{host}"):
            return error(
                421, "this page answers only under the name of this PC itself, e.g. http://localhost:PORT or 127.0.0.1"
            )
        path, is_reading = connection.scope["path"], connection.scope.get("method") in ("GET", "HEAD")
        # Browsers send the origin of the page; a request that has none comes from no page.
        if not is_reading and headers.get("origin", f"://{host}").partition("://")[2].lower() != host.lower():
            return error(403, "the request came from a page of another address; use the line's own page")
        if self._token is None or path in OPEN_PATHS or self._is_known(connection):
            return self._refuse_change(connection) if not is_reading and path != LOGIN else None
        if "text/html" in headers.get("accept", "") and connection.scope["type"] == "http":
            return RedirectResponse("/login", 303)
        answer = error(401, "this needs the line's token: log in at /login, or send it as Authorization: Bearer TOKEN")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    def _is_known(self, connection: HTTPConnection) -> bool:
        """Return whether a request has the token, its cookie, or that of a person."""
        cookie, bearer = connection.cookies.get(self._cookie, ""), connection.headers.get("authorization", "")
        is_cookie = hmac.compare_digest(cookie.encode(), self._cookie_value.encode())
        is_token = hmac.compare_digest(bearer.encode(), f"Bearer {self._token}".encode())
        return is_cookie or is_token or self._person(connection) is not None

    def _person(self, connection: HTTPConnection) -> Person | None:
        """Return who is logged in."""
        cookie = connection.cookies.get(self._person_cookie, "")
        return self._logins.person(cookie) if cookie and self._logins is not None else None

    def _refuse_change(self, connection: HTTPConnection) -> Response | None:
        """Return the answer to a change whose sender may not make it; note who sends another."""
        client, host = connection.client, connection.headers.get("host", "")
        is_live = connection.scope["type"] == "websocket"  # the live view changes nothing
        if (
            is_live
            or self._only_local
            or (client is not None and is_local(f"tcp://{client.host}") and is_local(f"tcp://{host}"))
        ):
            return None
        role: Role = "reviewer" if connection.scope["path"] in OF_REVIEWERS else "engineer"
        if self._logins is None:
            return error(
                403, f"this needs the role {role}, and nobody can log in: set key under [security] of the line"
            )
        person = self._person(connection)
        if person is None or person.role not in (role, "engineer"):
            who = "you are not logged in, or not any more" if person is None else f"{person.name} is {person.role}"
            return error(
                403, f"this needs the role {role}, and {who}; log in at {LOGIN} by a code of heatline keys login"
            )
        connection.scope[PERSON] = person.name
        return None

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(LOGIN_PAGE.format(problem=""))
        form = parse_qs(await read_body(request, LARGEST_FORM) or b"")
        given = form.get(b"token", [b""])[0].strip()
        person = self._logins and self._logins.cookie_for(given.decode("ascii", "replace"))
        if not person and not (self._token and hmac.compare_digest(given, self._token.encode())):
            problem = "This is not the token of this line, nor a code that is valid now; make a new code."
            return HTMLResponse(LOGIN_PAGE.format(problem=problem), 401)
        answer = RedirectResponse("/", 303)
        set_cookie = partial(answer.set_cookie, httponly=True, samesite="strict", secure=self._secure)
        if person:
            set_cookie(self._person_cookie, person, max_age=PERSON_SECONDS)
        else:
            set_cookie(self._cookie, self._cookie_value, max_age=COOKIE_SECONDS)
        return answer
