"""Answers of the page's server."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


def json(value: object, status: int = 200) -> Response:
    """Return a value as JSON that no browser stores."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")


def error(status: int, sentence: str) -> Response:
    """Return why a request is not answered."""
    return json({"error": sentence}, status)


async def unroutable(request: Request, problem: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(problem, HTTPException)
    path = request.url.path[:200]
    sentence = f"{path!a} cannot be answered: {problem.detail}"
    if problem.status_code == 404:
        sentence = f"there is nothing at {path!a}; docs/view.md lists what the page answers"
    elif problem.status_code == 405:
        allowed = (problem.headers or {}).get("Allow", "GET")
        sentence = f"{request.method[:20]!a} came for {path!a}; expected {allowed.replace(', ', ' or ')}"
    answer = error(problem.status_code, sentence)
    answer.headers.update(problem.headers or {})
    return answer
