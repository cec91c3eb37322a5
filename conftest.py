"""Fixtures for all tests: see `tests/support/fixtures.py` and `tests/support/served.py`."""

pytest_plugins = ["tests.support.fixtures", "tests.support.served"]
