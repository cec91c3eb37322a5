"""Fixtures for all tests: see `fixtures.py`, `served.py` and `sqlite.py` in `tests/support`."""

pytest_plugins = ["tests.support.fixtures", "tests.support.served", "tests.support.sqlite"]
