"""FastAPI and Starlette: refusals as HTTP statuses. Needs the extra `fastapi`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.errors import FingerprintMismatch, Rejected, ResilientError
from resilient.integrations.asgi.problems import problem_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["install"]


def install(app: Starlette) -> None:
    """Answer what the decorators refuse with a status and `Retry-After`, in every route.

    A lock, a call or a job that somebody else has is 409; a rate limit 429; an open circuit, or a
    bulkhead that is full, 503. `FingerprintMismatch` is 422. The body is a problem document
    (RFC 9457) that tells nothing of keys and hosts.

    Args:
        app: A FastAPI or Starlette application.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> install(app)
    """
    app.add_exception_handler(Rejected, _answered)
    app.add_exception_handler(FingerprintMismatch, _answered)


async def _answered(request: Request, error: Exception) -> Response:
    from starlette.responses import Response

    assert isinstance(error, ResilientError)
    problem = problem_of(error)
    return Response(problem.body, problem.status, problem.headers)
