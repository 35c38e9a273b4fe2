"""Decides who may see the page and mark verdicts: by Host on loopback, by a token or its cookie, and by Origin."""

import hashlib
import hmac
import os
import stat
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
from heatline.edge.monitor.api import error, read_body
from heatline.edge.util.files import open_plain

OPEN_PATHS = "/login", "/healthz"
"""Answered without a token."""
COOKIE_SECONDS = 30 * 86400
SHORTEST_TOKEN = 16
LARGEST_TOKEN_FILE = LARGEST_FORM = 4096
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
            token = file.read(LARGEST_TOKEN_FILE).decode("ascii", "replace").strip()
    except OSError as problem:
        raise AccessError(
            f"{path} cannot be read ({problem.strerror}); make a token with: (umask 077; openssl rand -hex 24 > {path})"
        ) from problem
    if mode & NOT_ITS_OWNERS_ALONE:
        raise AccessError(
            f"{path} can be used by others than its owner (mode {mode:04o}, expected 0600); write a new token into "
            f"it if others may have read it, and then: chmod 600 {path}"
        )
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise AccessError(
            f"{path} holds no token; expected one line of at least {SHORTEST_TOKEN} letters and digits, e.g. from: "
            "openssl rand -hex 24"
        )
    return token


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
        # Only a holder of the token can make it, and the token cannot be read from it.
        self._cookie_value = hmac.new((token or "").encode(), b"heatline page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._refuse(HTTPConnection(scope))
        if answer is None and scope["type"] == "http" and scope["path"] == "/login" and self._token is not None:
            answer = await self._login(Request(scope, receive), self._token)
        if answer is None:
            await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, _with_headers(send))

    def _refuse(self, connection: HTTPConnection) -> Response | None:
        """Return the answer to a request that must not pass."""
        headers = connection.headers
        if self._token is None and self._only_local and not is_local(f"tcp://{headers.get('host', '')}"):
            return error(
                421, "this page answers only under the name of this PC itself, e.g. http://localhost:PORT or 127.0.0.1"
            )
        if connection.scope.get("method") not in ("GET", "HEAD") and not _same_origin(headers):
            return error(403, "the request came from a page of another address; use the line's own page")
        if self._token is None or connection.scope["path"] in OPEN_PATHS or self._is_known(headers):
            return None
        if "text/html" in headers.get("accept", "") and connection.scope["type"] == "http":
            return RedirectResponse("/login", 303)
        answer = error(401, "this needs the line's token: log in at /login, or send it as Authorization: Bearer TOKEN")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    def _is_known(self, headers: Headers) -> bool:
        """Return whether a request has the token or its cookie."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            found = None
        cookie, bearer = "" if found is None else found.value, headers.get("authorization", "")
        is_cookie = hmac.compare_digest(cookie.encode(), self._cookie_value.encode())
        return is_cookie or hmac.compare_digest(bearer.encode(), f"Bearer {self._token}".encode())

    async def _login(self, request: Request, token: str) -> Response:
        if request.method != "POST":
            return HTMLResponse(LOGIN_PAGE.format(problem=""))
        form = parse_qs(await read_body(request, LARGEST_FORM) or b"")
        given = form.get(b"token", [b""])[0].strip()
        if not hmac.compare_digest(given, token.encode()):
            return HTMLResponse(LOGIN_PAGE.format(problem="This is not the token of this line."), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._cookie,
            self._cookie_value,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return answer


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
