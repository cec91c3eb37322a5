"""What identifies a request: its key, its user, its payload."""

from __future__ import annotations

import re
from hashlib import blake2b, sha256
from urllib.parse import quote

from resilient.errors import ConfigurationError
from resilient.integrations.asgi.problems import Problem
from resilient.integrations.asgi.types import Receive, Scope

__all__ = ["by_authorization", "payload_digest", "read_body", "record_key", "request_key"]

MAX_KEY = 255
"""Characters of a client's key: as many as Stripe takes."""
LONG_PATH = 200
"""Bytes of a path beyond which a digest stands for it: stores limit the length of their keys."""

# The draft makes the key a String of RFC 8941 (section 3.3.3); most clients send it without quotes.
QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
BARE = re.compile(r"[!#-+\--~]+")


def request_key(scope: Scope) -> str | None:
    """The value of the `Idempotency-Key` header; `None` without one.

    Raises:
        Problem: 400: it is malformed, empty, too long, or there are several.
    """
    given = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1:
        raise _malformed("There is more than one.")
    text = given[0].decode("latin-1").strip()
    if quoted := QUOTED.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif BARE.fullmatch(text):
        key = text
    else:
        raise _malformed("It is neither a string in double quotes nor a word of ASCII characters.")
    if not key.strip():
        raise _malformed("It is empty.")
    if len(key) > MAX_KEY:
        raise _malformed(f"It has more than {MAX_KEY} characters.")
    return key


def _malformed(why: str) -> Problem:
    return Problem(400, "Idempotency-Key is malformed", why)


def by_authorization(scope: Scope) -> str:
    """The user of a request, by its `Authorization` header; all without one are one user.

    So it is not for sessions that are kept by a cookie. Only a digest of the header is kept. A
    client that retries with a fresh token is another user, and its request a new one: where tokens
    change, name the user by what stays.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return sha256(b",".join(values)).hexdigest() if values else ""


def record_key(scope: Scope, user: str, key: str) -> str:
    """Under which the request is recorded: no other user, method or path makes the same text."""
    if not isinstance(user, str):
        raise ConfigurationError(
            f"IdempotencyMiddleware: user= answered {user!r}, which is no text that names a user"
        )
    path = quote(scope["path"], safe="/")
    if len(path) > LONG_PATH:
        path = f"#{_digest(path.encode())}"
    # The user as a digest: no name, address or token lies in the store.
    whose = _digest(user.encode("utf-8", "surrogatepass")) if user else ""
    return f"http:{scope['method']}:{path}:{whose}:{quote(key, safe='')}"


def payload_digest(scope: Scope, body: bytes) -> str:
    """What must be the same when a request comes again: its query string and its body."""
    query = scope.get("query_string", b"")
    return _digest(b"%d:%b%b" % (len(query), query, body))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body of a request; `None` if the client has gone.

    Raises:
        Problem: 413: it is longer than `limit`.
    """
    too_long = Problem(
        413, "Body is too long", f"With an Idempotency-Key a body has at most {limit} bytes."
    )
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_long
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_long
        if not message.get("more_body", False):
            return bytes(body)
