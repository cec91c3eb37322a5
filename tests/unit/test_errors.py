"""The error tree, and the events."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

import resilient
from resilient import errors, events

ERRORS: list[errors.ResilientError] = [
    errors.ConfigurationError("a"),
    errors.KeyMissing("a"),
    errors.CapabilityMissing("a"),
    errors.BackendError("a", transient=False),
    errors.CodecError("a"),
    errors.Rejected("a", policy="p", key="k", retry_after=3.0),
    errors.LockNotAcquired("a", policy="p", key="k"),
    errors.CircuitOpen("a", policy="p", key="k"),
    errors.BulkheadFull("a", policy="p", key="k"),
    errors.CallInProgress("a", policy="p", key="k"),
    errors.JobRunning("a", policy="p", key="k"),
    errors.LeaseLost("a", key="k", fence=3),
    errors.StaleRunner("a", key="k", fence=3),
    errors.TimedOut("a"),
    errors.JobCancelled("a", key="k"),
    errors.SourceChanged("a", key="k"),
    errors.FingerprintMismatch("a", key="k"),
    errors.ResultUnavailable("a", key="k"),
    errors.OutcomeUnknown("a", key="k"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: errors.ResilientError) -> None:
    """Type, message and attributes cross a process pool."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "a"
    assert vars(copy) == vars(error)


def test_every_error_is_in_the_tree_and_exported() -> None:
    """No class is forgotten, here or in the public names."""
    classes = {
        name
        for name, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.ResilientError) and each is not errors.ResilientError
    }
    assert classes == {type(error).__name__ for error in ERRORS}
    assert classes <= set(resilient.__all__)
    assert all(name in (errors.__doc__ or "") for name in classes)


def test_events_reach_every_subscriber_until_they_leave(caplog: Any) -> None:
    """A subscriber that fails is logged, and disturbs nobody."""
    seen: list[events.Event] = []

    def failing(event: events.Event) -> None:
        raise ValueError("mine")

    leave_failing, leave = resilient.subscribe(failing), resilient.subscribe(seen.append)
    event = events.CallTakenOver("k", 2)
    events.emit(event)
    leave_failing()
    leave()
    events.emit(event)
    assert seen == [event]
    assert "mine" in caplog.text
