"""Addresses in a line's file."""

from typing import Annotated

from msgspec import Meta

_PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
"""1 to 65535."""
Address = Annotated[
    str,
    Meta(pattern=rf"^(tcp://.+:{_PORT}|ipc://.+)\Z", description="tcp://HOST:PORT, PORT 1 to 65535, or ipc://PATH"),
]
Listen = Annotated[str, Meta(pattern=rf"^.+:{_PORT}\Z", description="HOST:PORT, PORT 1 to 65535")]
