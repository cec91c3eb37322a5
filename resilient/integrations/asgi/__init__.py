"""`IdempotencyMiddleware`: the `Idempotency-Key` header for any ASGI application.

    app.add_middleware(IdempotencyMiddleware, ttl="24h", user=by_authorization)

The header is that of https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/:
400 if it is missing or malformed, 409 while the first request is running, 422 for another payload.
Pure ASGI: it depends on no framework.
"""

from resilient.integrations.asgi.middleware import IdempotencyMiddleware
from resilient.integrations.asgi.requests import by_authorization
from resilient.integrations.asgi.responses import REPLAYED_HEADERS, is_final

__all__ = ["REPLAYED_HEADERS", "IdempotencyMiddleware", "by_authorization", "is_final"]
