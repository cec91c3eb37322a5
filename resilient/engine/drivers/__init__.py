"""The drivers step plans: `sync` by blocking, `aio` in an event loop.

A third, `resilient.testing.simulation`, steps thousands of them on a virtual clock.
"""
