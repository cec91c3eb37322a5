"""What `@checkpointed` checks when a function is decorated, and what signature callers see."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import resilient
from resilient import AsyncJob, ConfigurationError, Job, checkpointed

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForTypes


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with resilient.using("memory://"):
        yield


@dataclass
class State:
    """A state."""

    rows: int = 0


@dataclass
class NeedsArguments:
    """A state that cannot be made without arguments."""

    rows: int


class Struct(msgspec.Struct):
    """A state of msgspec's."""

    rows: int = 0


class Opaque:
    """Nothing that could be stored."""


def no_parameters() -> None: ...
def no_job(path: str) -> None: ...
def untyped_no_job(path) -> None: ...  # type: ignore[no-untyped-def]  # that is the case
def job_too_late(path: str, job: Job) -> None: ...
def job_by_keyword(*, job: Job) -> None: ...
def all_jobs(*job: Job) -> None: ...
def async_job_in_def(job: AsyncJob) -> None: ...
def async_job_by_text(job: AsyncJob[OnlyForTypes]) -> None: ...
async def job_in_async_def(job: Job) -> None: ...
def state_only_for_types(job: Job[OnlyForTypes]) -> None: ...
def state_with_arguments(job: Job[NeedsArguments]) -> None: ...
def opaque_state(job: Job[Opaque]) -> None: ...
def generator(job: Job) -> Iterator[int]:
    yield 1


async def async_generator(job: AsyncJob) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_parameters, "has no job.*job: Job"),
        (no_job, "has no job"),
        (untyped_no_job, "has no job"),
        (job_too_late, "has no job"),
        (job_by_keyword, "has no job"),
        (all_jobs, "has no job"),
        (async_job_in_def, "a def is Job, not AsyncJob"),
        (async_job_by_text, "a def is Job, not AsyncJob"),
        (job_in_async_def, "an async def is AsyncJob, not Job"),
        (state_only_for_types, "name it in state="),
        (state_with_arguments, "cannot be made without arguments.*defaults"),
        (opaque_state, "cannot be stored"),
        (generator, "generator function"),
        (async_generator, "async generator function"),
    ],
)
def test_a_function_without_a_proper_job_is_refused(
    function: Callable[..., Any], message: str
) -> None:
    """When decorated, by an error that names the function."""
    decorate: Any = checkpointed("k")
    with pytest.raises(ConfigurationError, match=message) as caught:
        decorate(function)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": True}, "every=True"),
        ({"every": 2.5}, "every=2.5"),
        ({"keep": 0}, "keep=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"lease": float("nan")}, "lease"),
        ({"lease": None}, "lease"),
        ({"wait": -1}, "wait=-1"),
        ({"ttl": "a week"}, "ttl='a week'"),
        ({"version": 3}, "version=3"),
        ({"on_busy": "queue"}, "on_busy='queue'"),
        ({"on_backend_error": "ignore"}, "on_backend_error='ignore'"),
        ({"fingerprint": ("nothing",)}, "nothing"),
        ({"fingerprint": ("job",)}, "job"),
        ({"state": Opaque}, "cannot be stored"),
        ({"backend": "nowhere://"}, "nowhere"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """When decorated, by an error that names the option."""

    def load(job: Job[Any], path: str) -> None: ...

    with pytest.raises(ConfigurationError, match=message):
        checkpointed("k", **options)(load)


def test_wrong_keys_are_refused() -> None:
    """No key at all, an unknown field, the job itself, and forgotten parentheses."""

    def load(job: Job[Any], path: str) -> None: ...

    decorators: list[Callable[[], Any]] = [
        lambda: checkpointed()(load),
        lambda: checkpointed("{nothing}")(load),
        lambda: checkpointed("{job}")(load),
        lambda: checkpointed(load),  # type: ignore[call-overload]  # that is the case
    ]
    for decorate in decorators:
        with pytest.raises(ConfigurationError):
            decorate()


def test_callers_leave_the_job_out() -> None:
    """The signature has the other parameters, with their defaults and kinds."""

    @checkpointed("{path}")
    def load(job: Job, path: str, /, limit: int = 3, *rest: int, deep: bool = False) -> Any:
        return job.task, path, limit, rest, deep

    assert list(inspect.signature(load).parameters) == ["path", "limit", "rest", "deep"]
    assert load("x") == ("x", "x", 3, (), False)
    assert load("y", 4, 5, 6, deep=True) == ("y", "y", 4, (5, 6), True)
    with pytest.raises(TypeError, match="path"):
        load()  # type: ignore[call-arg]  # that is the case
    assert load.__name__ == "load"


def test_the_key_may_be_a_function() -> None:
    """`key=` gets the arguments that callers give."""

    @checkpointed(key=lambda path, limit: f"{path}/{limit}")
    def load(job: Job, path: str, limit: int = 3) -> str:
        return job.task

    assert load("x") == "x/3"
    assert checkpointed.of(load).key("x", limit=4) == "x/4"


@pytest.mark.parametrize("kind", [State, Struct, dict, list, int, dict[str, int]])
def test_states_of_all_kinds(kind: Any) -> None:
    """A dataclass, a msgspec struct, and what else is made without arguments."""

    @checkpointed("k", state=kind)
    def load(job: Job[Any]) -> Any:
        return job.state

    made = load()
    assert made == kind()
    assert type(made) is type(kind())


def test_the_state_is_known_by_the_annotation() -> None:
    """Written out, local, unknown but given, or not said at all: then it is a dict."""

    @dataclass
    class Local:
        rows: int = 7

    @checkpointed("a")
    def by_annotation(job: Job[State]) -> Any:
        return job.state

    @checkpointed("b")
    def by_local_annotation(job: Job[Local]) -> Any:
        assert type(job.state) is Local
        return job.state.rows

    def by_option(job: Job[OnlyForTypes]) -> Any:
        return job.state

    decorator: Any = checkpointed("c", state=State)

    @checkpointed("d")
    async def by_default(job: AsyncJob) -> Any:
        return job.state

    assert by_annotation() == State()
    assert by_local_annotation() == 7
    assert decorator(by_option)() == State()
    assert asyncio.run(by_default()) == {}


def test_partials_and_callable_objects() -> None:
    """What is bound already is no argument of the caller's."""

    def load(job: Job, path: str, limit: int) -> Any:
        return path, limit

    class Loader:
        def __call__(self, job: Job, path: str) -> str:
            return f"called {path}"

    bound: Any = checkpointed("p:{path}")(partial(load, limit=5))
    called: Any = checkpointed("c:{path}")(Loader())
    assert bound("x") == ("x", 5)
    assert called("x") == "called x"


def test_nothing_configured_is_an_error_of_the_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job in this process's memory would not survive it."""
    from resilient import config

    @checkpointed("k")
    def load(job: Job) -> None: ...

    monkeypatch.setattr(config, "_process", ())
    monkeypatch.setattr(config, "_configured", None)  # an earlier test may have
    config._changed()
    with pytest.raises(ConfigurationError, match="configure"):
        load()
    monkeypatch.undo()
    config._changed()


def test_controls_need_a_checkpointed_function() -> None:
    """`of` something else is an error that says so."""
    with pytest.raises(ConfigurationError, match="not decorated with @checkpointed"):
        checkpointed.of(no_job)
