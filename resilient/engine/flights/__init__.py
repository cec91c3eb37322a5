"""Single flight: callers that want the same thing at the same time share one computation.

Threads, and tasks of any number of event loops, ride one flight. The first one flies it: a thread
by itself; a task by starting another task, so that it may be cancelled without cancelling what
others wait for. That task ends with its last rider. A caller that is in a hurry has a thread of
the crew's fly, or a task, and leaves when its time is over; the flight may go on without it.

A flight that comes to nothing (its thread was interrupted, its task cancelled, its loop closed)
has its riders elect another. An exception is a result, and all riders get it.
"""

from resilient.engine.flights.flight import Flight, Returned
from resilient.engine.flights.sharing import (
    NO_LIMITS,
    Errand,
    Late,
    Limits,
    alaunch,
    ashare,
    launch,
    share,
)
from resilient.engine.flights.table import Flights

__all__ = [
    "NO_LIMITS",
    "Errand",
    "Flight",
    "Flights",
    "Late",
    "Limits",
    "Returned",
    "alaunch",
    "ashare",
    "launch",
    "share",
]
