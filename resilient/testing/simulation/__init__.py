"""The third driver: thousands of plans on a virtual clock, with everything that can go wrong.

A seed makes one history, repeatable to the letter: clients run the real plans against a server
given as a plain function, over a network that delays, loses and repeats messages, and are paused,
cancelled and killed at random. What must never happen is checked by the test that owns the
simulation.

Example:
    >>> from resilient.engine.plan import Ask, Sleep
    >>> simulation = Simulation(seed=1)
    >>> client = simulation.client("a", server=lambda command, now: command * 2)
    >>> async def plan() -> int:
    ...     await Sleep(5)
    ...     return await Ask(client.link, 21)
    >>> task = client.start(plan())
    >>> simulation.run()
    >>> task.value
    42
"""

from resilient.testing.simulation.tasks import Cancelled, Task
from resilient.testing.simulation.world import Client, Faults, Simulation

__all__ = ["Cancelled", "Client", "Faults", "Simulation", "Task"]
