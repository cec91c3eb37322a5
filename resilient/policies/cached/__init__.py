"""`@cached`: computed once across the fleet, never served staler than promised.

`plan` is the policy: what the one caller does that others wait for; `asking`, what it asks of the
backend. `hits` compiles what every call runs, `near` is what this process keeps for one function,
`tags` what entries can be invalidated by, `controls` what else can be done, and `decorator` its
form. `batch` is the form for functions of many items, `gathering` its plan and `batch_controls`
what else can be done with it; `changes` are the plans of what is done by hand.
"""

from resilient.policies.cached.context import CacheContext
from resilient.policies.cached.controls import (
    MISSING,
    CacheControls,
    CacheEntry,
    CacheStats,
    Explanation,
    Missing,
)
from resilient.policies.cached.decorator import cached
from resilient.policies.cached.near import LocalCache
from resilient.policies.cached.tags import ainvalidate_tags, invalidate_tags

__all__ = [
    "MISSING",
    "CacheContext",
    "CacheControls",
    "CacheEntry",
    "CacheStats",
    "Explanation",
    "LocalCache",
    "Missing",
    "ainvalidate_tags",
    "cached",
    "invalidate_tags",
]
