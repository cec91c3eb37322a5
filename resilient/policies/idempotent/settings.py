"""The options of one idempotent function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilient.config import Source

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec

__all__ = ["POLICY", "Settings"]

POLICY = "idempotent"


# Nothing but the constructor is generated: the package shall be quick to import.
@dataclass(kw_only=True, eq=False, repr=False, match_args=False)
class Settings:
    """The options of one idempotent function.

    Attributes:
        source: Where its backend comes from.
        name: The function, for messages.
        codec: Turns its results into their stored form and back.
        ttl: Seconds for which an outcome is kept; `None`: the backend's `max_ttl`.
        lease: Seconds for which a claim lives without being renewed.
        wait: Seconds to wait for another owner; 0: not at all; `None`: no limit.
        replay_errors: The exceptions that are outcomes, stored and raised again.
        skip: Whether a call in progress elsewhere skips this one, which then answers `skipped`.
        unguarded: Whether the call runs without its promise when the backend is away.
        takes_over: Whether a call whose owner died is made again.
        frees_on_cancel: Whether an interrupted call is given up, or its claim left to run out.
        local: How many outcomes this process keeps at hand; `None`: none.
    """

    source: Source
    name: str
    codec: Codec
    ttl: float | None
    lease: float = 30.0
    wait: float | None = 30.0
    replay_errors: tuple[type[Exception], ...] = ()
    skip: bool = False
    skipped: Any = None
    unguarded: bool = False
    takes_over: bool = True
    frees_on_cancel: bool = True
    local: int | None = None
