"""Help for testing: backends against the conformance suite, and code against kills and networks.

Nothing here is imported by the library itself. Only `conformance` and `pytest_plugin` need
hypothesis or pytest.
"""

from resilient.testing.killing import KillReport, kill_at_random

__all__ = ["KillReport", "kill_at_random"]
