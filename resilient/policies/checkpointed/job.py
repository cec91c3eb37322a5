"""What the body of a job sees of it: `Job` in a `def`, `AsyncJob` in an `async def`."""

from __future__ import annotations

from typing import Any, TypeAlias

from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.async_job import AsyncJob
from resilient.policies.checkpointed.places import here
from resilient.policies.checkpointed.sync_job import Job

__all__ = ["AnyJob", "AsyncJob", "Job", "current_job"]

AnyJob: TypeAlias = Job[Any] | AsyncJob[Any]


def current_job() -> AnyJob:
    """The job whose body runs here: for functions that the body calls.

    Raises:
        ConfigurationError: No job runs here.

    Example:
        >>> import resilient
        >>> @resilient.checkpointed("hello")
        ... def hello(job: resilient.Job) -> str:
        ...     return resilient.current_job().task
        >>> with resilient.using("memory://"):
        ...     hello()
        'hello'
    """
    place = here.get()
    if place is None:
        raise ConfigurationError("current_job(): no job runs here")
    return place.run.job
