"""The bounds on what clients of a page hold."""

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from edge.config import WebConfig
from edge.view.connection import MOST_CONNECTIONS
from tests.command import WITHIN_SECONDS
from tests.edge.secured import until
from tests.edge.test_view_access import make_certificates, token_file, until_closed
from tests.edge.view_pages import Page, page


def answers(served: Page) -> bool:
    with contextlib.suppress(OSError):
        return served.get("/healthz").status == 200
    return False


def test_connections_without_a_tls_handshake_are_bounded_too(tmp_path: Path) -> None:
    authority, certificate, key, _ = make_certificates(tmp_path)
    web = WebConfig(token_file=token_file(tmp_path), certificate=certificate, key=key)
    tls = ssl.create_default_context(cafile=str(authority))
    with page(web=web, only_local=False, tls=tls) as served, contextlib.ExitStack() as at_end:
        silent = [
            at_end.enter_context(socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS))
            for _ in range(2 * MOST_CONNECTIONS)
        ]
        for each in silent[MOST_CONNECTIONS:]:
            assert until_closed(each) == b""
        silent[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[0].recv(1)
        for each in silent:
            each.close()
        until(lambda: answers(served))
