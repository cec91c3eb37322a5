"""Help for testing: backends against the conformance suite, and code against kills and networks.

Nothing here is imported by the library itself. Only `conformance` and `pytest_plugin` need
hypothesis or pytest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient.testing.killing import KillReport, kill_at_random

__all__ = ["KillReport", "kill_at_random"]


def __getattr__(name: str) -> Any:
    """What the pytest plugin does not need is imported when it is first used."""
    if name in __all__:
        from resilient.testing import killing

        return getattr(killing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
