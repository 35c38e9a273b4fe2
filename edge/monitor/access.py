"""Decides who may see the page and mark verdicts: by Host on loopback, by a token or its cookie, and by Origin."""

import hashlib
import hmac
import os
import stat
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import AccessError
from heatline.edge.keys import NOT_ITS_OWNERS_ALONE
from heatline.edge.monitor.responses import error
from heatline.edge.util.files import open_plain

OPEN_PATHS = "/login", "/healthz"
"""Answered without a token."""
COOKIE_SECONDS = 30 * 86400
SHORTEST_TOKEN = 16
LARGEST_TOKEN_FILE = 4096
LARGEST_FORM = 4096
ATTEMPTS_PER_MINUTE = 10
CLIENTS_REMEMBERED = 1000
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>heatline: log in</title>
<meta name="viewport" content="width=device-width"><body><main><h1>heatline</h1><form method="post" action="/login">
<p>{problem}</p><p><label>Token of this line <input type="password" name="token" required autofocus
autocomplete="current-password"></label> <button>Log in</button></p></form></main></body></html>"""


def read_token(path: Path) -> str:
    """Return the token in a file that only its owner can use.

    Raises:
        AccessError: the file cannot be read, others can use it, or it holds no token.
    """
    try:
        with open_plain(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(LARGEST_TOKEN_FILE)
    except OSError as problem:
        raise AccessError(
            f"{path} cannot be read ({problem.strerror}); make a token with: (umask 077; openssl rand -hex 24 > {path})"
        ) from problem
    if mode & NOT_ITS_OWNERS_ALONE:
        raise AccessError(
            f"{path} can be used by others than its owner (mode {mode:04o}, expected 0600); write a new token into "
            f"it if others may have read it, and then: chmod 600 {path}"
        )
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise AccessError(
            f"{path} holds no token; expected one line of at least {SHORTEST_TOKEN} letters and digits, e.g. from: "
            "openssl rand -hex 24"
        )
    return token


class Attempts:
    """Counts wrong tokens of each client address, and refuses more than some in a minute.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, list[float]] = {}

    def allowed(self, client: str) -> bool:
        """Return whether this client may try a token now."""
        recent = [at_s for at_s in self._failed.get(client, []) if self._clock() - at_s < 60]
        return len(recent) < ATTEMPTS_PER_MINUTE

    def failed(self, client: str) -> None:
        """Count a wrong token."""
        at = self._failed.pop(client, [])
        self._failed[client] = [*at[-ATTEMPTS_PER_MINUTE:], self._clock()]
        if len(self._failed) > CLIENTS_REMEMBERED:
            del self._failed[next(iter(self._failed))]


class Access:
    """Lets requests pass to the application that it protects.

    Args:
        token: None: every client that can connect may see the page.
        only_local: only this PC can connect. A browser that names another host was deceived by that host's page.
        secure: the page is served with TLS.
        cookie: name of the cookie; cookies of one host are common to all its ports, so two lines need two names.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, only_local: bool, secure: bool, cookie: str = "heatline"
    ) -> None:
        self._app, self._token, self._only_local, self._secure, self._cookie = app, token, only_local, secure, cookie
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        answer = self._refuse(connection)
        if answer is None and scope["type"] == "http" and scope["path"] == "/login" and self._token is not None:
            answer = await self._login(Request(scope, receive))
        if answer is None:
            await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, _with_headers(send))

    def _refuse(self, connection: HTTPConnection) -> Response | None:
        """Return the answer to a request that must not pass."""
        headers = connection.headers
        if self._token is None and self._only_local and not _names_loopback(headers.get("host", "")):
            return error(
                421, "this page answers only under the name of this PC itself, e.g. http://localhost:PORT or 127.0.0.1"
            )
        if connection.scope.get("method") not in ("GET", "HEAD") and not _same_origin(headers):
            return error(403, "the request came from a page of another address; use the line's own page")
        if self._token is None or connection.scope["path"] in OPEN_PATHS:
            return None
        if self._cookie_is_valid(headers.get("cookie", "")):
            return None
        given = headers.get("authorization", "")
        if given:
            client = _address(connection)
            if not self._attempts.allowed(client):
                return _too_many()
            if hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return None
            self._attempts.failed(client)
        elif "text/html" in headers.get("accept", "") and connection.scope["type"] == "http":
            return RedirectResponse("/login", 303)
        answer = error(401, "this needs the line's token: log in at /login, or send it as Authorization: Bearer TOKEN")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    async def _login(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return HTMLResponse(LOGIN_PAGE.format(problem=""))
        if request.method != "POST":
            return error(405, "expected GET or POST")
        client = _address(request)
        if not self._attempts.allowed(client):
            return _too_many()
        given = await _token_in_form(request)
        assert self._token is not None
        if given is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            self._attempts.failed(client)
            return HTMLResponse(LOGIN_PAGE.format(problem="This is not the token of this line."), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._cookie,
            self._cookie_value(int(time.time()) + COOKIE_SECONDS),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return answer

    def _cookie_value(self, until_s: int) -> str:
        """Return a value that only a holder of the token can make, and from which the token cannot be read."""
        assert self._token is not None
        mac = hmac.new(self._token.encode(), f"heatline view until {until_s}".encode(), hashlib.sha256)
        return f"{until_s}.{mac.hexdigest()}"

    def _cookie_is_valid(self, header: str) -> bool:
        try:
            found = SimpleCookie(header).get(self._cookie)
        except CookieError:
            return False
        until = "" if found is None else found.value.partition(".")[0]
        if found is None or not (until.isascii() and until.isdecimal() and len(until) <= 12):
            return False
        expected = self._cookie_value(int(until))
        return hmac.compare_digest(found.value.encode(), expected.encode()) and int(until) > time.time()


async def _token_in_form(request: Request) -> str | None:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            return None
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=8).get("token", [""])[0].strip()
    except ValueError:
        return None


def _too_many() -> Response:
    return error(429, f"more than {ATTEMPTS_PER_MINUTE} wrong tokens came from this address; try again in a minute")


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def _names_loopback(host: str) -> bool:
    return is_local(f"tcp://{host}")


def _same_origin(headers: Headers) -> bool:
    """Return whether a request comes from the line's own page, or from no page.

    Browsers send the origin of every page that opens a web socket, or whose request is not GET or HEAD.
    """
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return send_with_headers
