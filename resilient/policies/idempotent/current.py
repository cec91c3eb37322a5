"""What the body of an idempotent call can know of it: `resilient.current_idempotency()`."""

from __future__ import annotations

from contextvars import ContextVar
from hashlib import blake2b

from resilient.engine.lease import Lease
from resilient.errors import ConfigurationError
from resilient.protocols.idempotency import Claimed

__all__ = ["Claim", "IdempotentCall", "current", "current_idempotency"]


class Claim(Lease):
    """The lease of a call that is being made.

    Attributes:
        answer: How the store granted it.
        kept: Seconds for which its outcome is kept.
    """

    answer: Claimed
    kept: float


current: ContextVar[Claim | None] = ContextVar("resilient.current_idempotency", default=None)
"""The innermost call that is being made here."""


class IdempotentCall:
    """The idempotent call inside which this code runs.

    Attributes:
        key: Its idempotency key, without the backend's prefix.
        attempt: 1 for the first; more if earlier ones failed, were interrupted, or died.
        is_takeover: Whether an owner died while it made the call, so that it may have taken effect
            before: look, before you do it again.
        fence: Larger than that of every earlier attempt.
    """

    __slots__ = ("_claim", "attempt", "fence", "is_takeover", "key")

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.key: str = claim.key
        self.fence, self.attempt, self.is_takeover = claim.answer

    @property
    def lost(self) -> bool:
        """Whether another caller may have taken the call over."""
        return self._claim.lost

    def check(self) -> None:
        """Make sure that the call is still this caller's; before an effect that cannot be undone.

        Raises:
            LeaseLost: Another caller may have taken it over.
        """
        self._claim.check()

    def derive(self, name: str) -> str:
        """An idempotency key for a request to another service, the same in every attempt.

        Args:
            name: Tells the requests of one call apart: `"stripe"`, `"mail"`.

        Returns:
            40 hexadecimal digits, made of the backend's prefix, this call's key and the name.

        Raises:
            ConfigurationError: The name is no text, or empty.

        Example:
            >>> import resilient
            >>> @resilient.idempotent("charge:{order_id}", ttl="24h")
            ... def charge(order_id: str) -> str:
            ...     return resilient.current_idempotency().derive("stripe")
            >>> with resilient.using("memory://"):
            ...     charge("A-7")
            'd848ccdd256bdbb99b170bd1b9aba9f0ffc9b0c2'
        """
        given: object = name
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"derive(): name={name!r} is no name")
        digest = blake2b(digest_size=20)
        for text in (self._claim.heartbeat.prefix, self.key, name):
            part = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(part), part))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"<idempotent call {self.key!r}, attempt {self.attempt}>"


def current_idempotency() -> IdempotentCall:
    """The innermost idempotent call that is being made here.

    Raises:
        ConfigurationError: None is: this code runs outside of one, or policies are disabled.

    Example:
        >>> import resilient
        >>> @resilient.idempotent("charge:{order_id}", ttl="24h")
        ... def charge(order_id: str) -> str:
        ...     call = resilient.current_idempotency()
        ...     return f"{call.key}, attempt {call.attempt}"
        >>> with resilient.using("memory://"):
        ...     charge("A-7")
        'charge:A-7, attempt 1'
    """
    claim = current.get()
    if claim is None:
        raise ConfigurationError("current_idempotency(): no idempotent call is being made here")
    return IdempotentCall(claim)
