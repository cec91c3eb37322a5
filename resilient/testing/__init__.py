"""Help for testing: backends against the conformance suite, and code against broken networks.

Nothing here is imported by the library itself. Only `conformance` and `pytest_plugin` need
hypothesis or pytest.
"""
