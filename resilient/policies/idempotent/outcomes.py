"""The outcome of a call: in its stored form, and out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.errors import FingerprintMismatch, OutcomeUnknown, ResultUnavailable
from resilient.policies.idempotent.settings import Settings
from resilient.protocols.idempotency import Completed, Unknown
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec

__all__ = ["replayed", "stored", "stored_error", "unknown", "unlike"]


def stored(codec: Codec, answer: Any) -> tuple[str, Encoded]:
    """The outcome of a call that returned; without a value if that has no stored form.

    The call has taken effect: nothing that a codec raises may keep that from being recorded.
    """
    try:
        return "value", codec.encode(answer)
    except Exception as error:
        from resilient.engine import codecs

        return "unstored", codecs.encode(codecs.reason_of(error))


def stored_error(error: Exception) -> tuple[str, Encoded]:
    """The outcome of a call that raised one of the errors to be replayed."""
    from resilient.engine import codecs

    try:
        return "error", codecs.encode(error)
    except Exception as unstorable:
        raised, reason = codecs.reason_of(error), codecs.reason_of(unstorable)
        return "unstored", codecs.encode(f"it raised {raised}: {reason}")


def replayed(settings: Settings, key: str, outcome: Completed) -> Any:
    """What the call answered, or raised, when it ran."""
    if outcome.outcome == "value":
        return settings.codec.decode(outcome.result)
    from resilient.engine import codecs

    reason = codecs.decode(outcome.result)
    if outcome.outcome == "error":
        raise reason
    raise ResultUnavailable(
        f"{settings.name} has taken effect under the idempotency key {key!r}, but its outcome had "
        f"no stored form: {reason}",
        key=key,
    )


def unlike(settings: Settings, key: str) -> FingerprintMismatch:
    """The refusal of a key that was used with another payload."""
    return FingerprintMismatch(
        f"{settings.name} was called under the idempotency key {key!r} with another payload "
        "before: a new request needs a new key",
        key=key,
    )


def unknown(settings: Settings, key: str, answer: Unknown) -> OutcomeUnknown:
    """The report that nobody can tell whether the call took effect."""
    return OutcomeUnknown(
        f"{settings.name} was running under the idempotency key {key!r} when its owner died "
        f"(attempt {answer.attempt}): whether it took effect is not known. Look, and forget the "
        "key if it has not",
        key=key,
    )
