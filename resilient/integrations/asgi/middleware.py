"""The middleware: the policy of `@idempotent` around one request."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from resilient import events
from resilient.config import Source
from resilient.engine.drivers.aio import adrive
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.options import check_choice, check_function, check_whole_number
from resilient.errors import (
    BackendError,
    CallInProgress,
    ConfigurationError,
    FingerprintMismatch,
    LeaseLost,
    OutcomeUnknown,
    ResilientError,
    ResultUnavailable,
)
from resilient.integrations.asgi.problems import DRAFT, Problem, problem_of
from resilient.integrations.asgi.requests import (
    payload_digest,
    read_body,
    record_key,
    request_key,
)
from resilient.integrations.asgi.responses import (
    REPLAYED_HEADERS,
    Exchange,
    NotKept,
    ResponseCodec,
    deliver,
    is_final,
)
from resilient.integrations.asgi.types import ASGIApp, Receive, Scope, Send
from resilient.policies.idempotent.plan import once
from resilient.policies.idempotent.settings import POLICY, Settings
from resilient.resolving import BackendLike

__all__ = ["IdempotencyMiddleware"]

NAME = "IdempotencyMiddleware"
MEBIBYTE = 1024 * 1024
SOON = 1.0
"""Seconds after which a client that found its request running may ask again: most are done long
before the lease of their owner could run out."""


class IdempotencyMiddleware:
    """Requests with an `Idempotency-Key` take effect once; retries get the same response.

    The first request with a key runs, and its response is recorded before the client sees it. The
    same request again gets status, headers and body replayed, with `Idempotency-Replayed: true`.
    Keys belong to a user, a method and a path. What the application raises, and a response that is
    no outcome (a 500, a 429), leave the key free. A request without the header passes, unless it is
    required.

    Args:
        app: The ASGI application.
        ttl: How long a response is kept: seconds, or as `"24h"`; for as long as clients may retry.
            `None`: the `max_ttl` of `configure`.
        user: Names the user of a request, so that nobody is answered what another one asked:
            `by_authorization`, or a function of the ASGI scope. Only the application knows.
        required: Whether the header must be there: `True`, or the paths below which it must, as in
            `("/payments",)`. By default a client chooses.
        methods: Those that are looked at; by default those that HTTP calls neither safe nor
            idempotent.
        wait: How long a duplicate waits for the response: seconds, or as `"5s"`. By default not at
            all: the draft answers 409, and the client asks again.
        lease: For how long a running request lives without being renewed, seconds or as `"30s"`; if
            its process dies, a retry runs it again after that.
        headers: The response headers that are replayed.
        fingerprint: Digests the payload, of scope and body. By default query string and body, byte
            for byte.
        is_outcome: Whether a response of this status is an outcome, and to be replayed.
        max_request: Bytes of a body, which is held in memory; 413 beyond. By default 1 MiB.
        max_response: Bytes of a response that is kept, by default 1 MiB. A longer one is passed on
            as it comes, its end when the request is recorded as done: a retry is told so by a 409.
        on_takeover: When a process died while it ran the request: `"rerun"` it, or `"raise"`:
            answer 409 until somebody has looked.
        on_cancel: When the server cancels a request that it runs, before there is a response:
            `"keep"` its key until the lease is over, as if the process had died, since the request
            may have taken effect; or `"release"` it to the next retry at once.
        on_backend_error: `"raise"`: answer 503 when the backend is away; or `"run"` the request
            without its promise.
        documentation: The page about the header to which refusals link.
        backend: A URL, client or backend of its own instead of the configured one.

    Raises:
        ConfigurationError: An option is wrong.

    Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/

    Example:
        >>> async def app(scope, receive, send): ...
        >>> protected = IdempotencyMiddleware(app, ttl="24h", user=by_authorization)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ttl: Duration | None,
        user: Callable[[Scope], str],
        required: bool | Collection[str] = False,
        methods: Collection[str] = ("POST", "PATCH"),
        wait: Duration | None = 0,
        lease: Duration = 30,
        headers: Collection[str] = REPLAYED_HEADERS,
        fingerprint: Callable[[Scope, bytes], str] = payload_digest,
        is_outcome: Callable[[int], bool] = is_final,
        max_request: int = MEBIBYTE,
        max_response: int = MEBIBYTE,
        on_takeover: Literal["rerun", "raise"] = "rerun",
        on_cancel: Literal["release", "keep"] = "keep",
        on_backend_error: Literal["raise", "run"] = "raise",
        documentation: str = DRAFT,
        backend: BackendLike | None = None,
    ) -> None:
        _check_texts("methods", methods)
        _check_texts("headers", headers)
        if not isinstance(required, bool):
            _check_texts("required", required)
        check_choice(NAME, "on_takeover", on_takeover, "rerun", "raise")
        check_choice(NAME, "on_cancel", on_cancel, "release", "keep")
        check_choice(NAME, "on_backend_error", on_backend_error, "raise", "run")
        check_whole_number(NAME, "max_request", max_request, least=0)
        check_whole_number(NAME, "max_response", max_response, least=0)
        check_function(NAME, "user", user)
        check_function(NAME, "fingerprint", fingerprint)
        check_function(NAME, "is_outcome", is_outcome)
        self._app = app
        self._user = user
        self._required = required
        self._methods = frozenset(method.upper() for method in methods)
        self._fingerprint = fingerprint
        self._is_outcome = is_outcome
        self._max_request = max_request
        self._max_response = max_response
        self._documentation = documentation
        self._settings = Settings(
            source=Source("idempotency", POLICY, "async", backend),
            name=NAME,
            codec=ResponseCodec([name.lower() for name in headers]),
            ttl=optional_seconds(ttl, option="ttl"),
            lease=seconds(lease, option="lease"),
            wait=optional_seconds(wait, option="wait", allow_zero=True),
            unguarded=on_backend_error == "run",
            takes_over=on_takeover == "rerun",
            frees_on_cancel=on_cancel == "release",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in self._methods:
            await self._app(scope, receive, send)
            return
        try:
            key = request_key(scope)
            if key is not None:
                await self._answer_once(key, scope, receive, send)
                return
            if self._requires(scope["path"]):
                raise Problem(
                    400, "Idempotency-Key is missing", "This operation requires an Idempotency-Key."
                )
        except Problem as problem:
            problem.link = self._documentation
            await problem.answer(send)
            return
        await self._app(scope, receive, send)

    def _requires(self, path: str) -> bool:
        if isinstance(self._required, bool):
            return self._required
        return any(
            path == each or path.startswith(each.rstrip("/") + "/") for each in self._required
        )

    async def _answer_once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._max_request)
        if body is None:
            return
        record = record_key(scope, self._user(scope), key)
        exchange = Exchange(self._app, scope, body, send, self._max_response, self._is_outcome)
        try:
            await self._answer(exchange, record, self._fingerprint(scope, body), send)
        finally:
            await exchange.rest()

    async def _answer(self, exchange: Exchange, record: str, fingerprint: str, send: Send) -> None:
        try:
            response = await adrive(once(self._settings, record, fingerprint), exchange.run)
        except NotKept:
            pass
        except ResilientError as error:
            if error is exchange.error or exchange.is_passing:
                raise
            if exchange.error is not None and isinstance(error, BackendError):
                raise exchange.error from error
            if exchange.response is None or not isinstance(error, BackendError):
                raise _problem(error) from error
            # It has taken effect, which could not be recorded: whoever has the response will not
            # ask again, whoever is told of a failure will.
            events.emit(events.BackendTrouble(POLICY, record, error))
        else:
            if exchange.error is not None:
                raise exchange.error  # after its response had begun: the request is done
            if exchange.response is None:
                await deliver(response, send, (b"idempotency-replayed", b"true"))
                return
        assert exchange.response is not None
        if not exchange.is_passing:
            await deliver(exchange.response, send)


def _problem(error: ResilientError) -> Problem:
    """What a client is told whose request was not run, or not to its end."""
    match error:
        case CallInProgress():
            return Problem(
                409,
                "Request is running",
                "A request with this Idempotency-Key is being processed.",
                retry_after=SOON,
            )
        case LeaseLost():
            return Problem(
                409,
                "Request was taken over",
                "A retry has taken this request over: ask again for its response.",
                retry_after=SOON,
            )
        case FingerprintMismatch():
            return Problem(
                422,
                "Idempotency-Key is used already",
                "This key was used with another payload: a new request needs a new key.",
            )
        case OutcomeUnknown():
            return Problem(
                409,
                "Outcome is unknown",
                "The server failed while it processed this request: it may have taken effect.",
            )
        case ResultUnavailable():
            return Problem(
                409,
                "Request is done",
                "This request has taken effect; its response could not be kept.",
            )
    return problem_of(error)


def _check_texts(option: str, given: object) -> None:
    if (
        isinstance(given, str)
        or not isinstance(given, Collection)
        or not all(isinstance(each, str) for each in given)
    ):
        raise ConfigurationError(f"{NAME}: {option}={given!r} is no collection of texts")
