"""What a model says where the protocol leaves the answer open."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ANYTHING", "EITHER"]


class _Anything:
    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING: Final[Any] = _Anything()
"""In the place of an answer, or of a field of one."""
EITHER: Final[bool] = ANYTHING
"""The same in the place of true or false."""
