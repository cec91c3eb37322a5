"""Fixtures for all tests: see `tests/support/fixtures.py`."""

pytest_plugins = ["tests.support.fixtures"]
