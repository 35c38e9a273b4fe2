"""Answers of the page's server."""

import msgspec
from starlette.responses import Response


def json(value: object, status: int = 200) -> Response:
    """Return a value as JSON that no browser stores."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")


def error(status: int, sentence: str) -> Response:
    """Return why a request is not answered."""
    return json({"error": sentence}, status)
