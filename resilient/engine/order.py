"""The order of decorators: what stands above what makes a difference, and is easily mistaken."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resilient.engine.names import label
from resilient.errors import DecoratorOrder

__all__ = ["warn_if_above"]


def warn_if_above(
    below: Mapping[str, str], function: Callable[..., Any], *, policy: str, frames: int
) -> None:
    """Warn where a decorator stands above others of ours that belong above it.

    Args:
        below: Those others, and what goes wrong so.
        function: What is decorated, perhaps by them.
        policy: The decorator.
        frames: How many frames are between this call and the line that decorates.
    """
    each: Any = function
    while each is not None:
        layer = getattr(each, "__resilient__", None)
        # `cached.batch` is a kind of `cached`.
        if layer is not None and (wrong := below.get(layer.policy.partition(".")[0])):
            warnings.warn(
                f"{label(policy, function)} stands above @{layer.policy}: {wrong}; write "
                f"@{layer.policy} above @{policy}, or ignore DecoratorOrder if that is meant",
                DecoratorOrder,
                stacklevel=2 + frames,
            )
        each = getattr(each, "__wrapped__", None)
