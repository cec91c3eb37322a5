"""Refusals as HTTP tells them: a status, `Retry-After`, and a problem document (RFC 9457)."""

from __future__ import annotations

import json
import math

from resilient.errors import FingerprintMismatch, Rejected, ResilientError
from resilient.integrations.asgi.types import Send

__all__ = ["DRAFT", "Problem", "problem_of"]

DRAFT = "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"
"""What the header means; a server links to its own documentation instead (section 2.7 there)."""

STATUSES = {"rate_limited": 429, "circuit_breaker": 503, "bulkhead": 503}
"""The status of a refusal, by the policy that refused: too many of the client's requests, or too
much for us. Everything else is busy with the same thing, which is a conflict: 409."""


class Problem(Exception):
    """A request is not answered by the application.

    Args:
        status: The HTTP status.
        title: What is wrong, the same for every such problem.
        detail: What is wrong here.
        retry_after: Seconds after which the same request may succeed; `None`: no use, or unknown.
        link: Where the client's author can read about it.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        retry_after: float | None = None,
        link: str = "about:blank",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after = retry_after
        self.link = link

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer; `Retry-After` is in whole seconds (RFC 9110, section 10.2.3)."""
        headers = {"content-type": "application/problem+json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    @property
    def body(self) -> bytes:
        """The problem document."""
        return json.dumps(
            {
                "type": self.link,
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
            }
        ).encode()

    async def answer(self, send: Send) -> None:
        """Send it."""
        body = self.body
        headers = {**self.headers, "content-length": str(len(body))}
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": body})


def problem_of(error: ResilientError) -> Problem:
    """A refusal of any policy, as HTTP tells it.

    The message of the error stays here: it names keys, hosts and processes.
    """
    if isinstance(error, FingerprintMismatch):
        return Problem(422, "Another payload", "The same request was made with another payload.")
    if not isinstance(error, Rejected):
        return Problem(503, "Unavailable", "A service that this needs is away.", retry_after=1)
    status = STATUSES.get(error.policy, 409)
    title, detail = {
        409: ("Busy", "The same thing is being done already."),
        429: ("Too many requests", "This was asked for too often."),
        503: ("Unavailable", "A service that this needs is overloaded, or away."),
    }[status]
    wait = 1 if error.retry_after is None else error.retry_after
    return Problem(status, title, detail, retry_after=wait)
