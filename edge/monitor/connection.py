"""The page's listener, its protocol, and its log: slow or hostile clients fill neither its places nor the disk."""

import logging
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected

from heatline.edge.util.listener import PAGE_CONNECTIONS, PAGE_REQUEST_SECONDS, Listener
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 that tells its listener whether a request is complete."""

    def __init__(self, listener: Listener, **given: Any) -> None:
        super().__init__(**given)
        self._listener = listener

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request, or stop waiting if it is complete."""
        super().data_received(data)
        has_become_a_websocket = self.transport.get_protocol() is not self
        if has_become_a_websocket or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._listener.requested(self.transport)
        else:
            self._listener.waits(self.transport)


def with_log(app: ASGIApp) -> ASGIApp:
    """Log the faults of an application, at a limited rate, in place of uvicorn."""
    log = RateLimitedLog(logger)

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ClientDisconnected:
            raise
        except Exception as error:
            log.error("a request was not answered: %s", error, exc_info=error)
            raise

    return logged


def listening_socket(listen: str) -> Listener:
    """Return a socket that listens on `HOST:PORT`; port 0 is any free one.

    Raises:
        DeliveryError: the address cannot be bound.
    """
    return Listener(
        listen,
        PAGE_CONNECTIONS,
        "the page cannot listen on",
        "a line with web.listen serves its page itself while it runs, so open that, or set web.listen (of heatline "
        "view: --listen) to another HOST:PORT",
        request_within_s=PAGE_REQUEST_SECONDS,
    )
