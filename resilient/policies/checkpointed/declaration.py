"""What a decorated function says of its job: which parameter it is, and what state it has.

def load(job: Job[State], path: str) -> Report: ...
async def load(self, job: AsyncJob[State], path: str) -> Report: ...
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from resilient.engine.names import label, unwrapped
from resilient.engine.signatures import RESERVED, forwarding, signature_of
from resilient.engine.wrap import Shape
from resilient.errors import CodecError, ConfigurationError
from resilient.policies.checkpointed.job import AnyJob, AsyncJob, Job

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec

__all__ = ["Declaration", "StateKind", "declaration_of"]

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
JOB_TEXT = re.compile(r"(?:\w+\.)*((?:Async)?Job)(?:\[(.*)\])?", re.DOTALL)
UNKNOWN: Any = object()


class StateKind(NamedTuple):
    """How the state of a job is made and stored.

    Attributes:
        make: Makes the state of a new job.
        codec: Writes and reads it.
    """

    make: Callable[[], Any]
    codec: Codec


class Declaration(NamedTuple):
    """What the function says.

    Attributes:
        signature: Its parameters without the job, as callers see it.
        arguments: How it is called with the job in its place (`resilient.engine.wrap.around`).
        job: The kind of job it gets.
        state: What the job's state is.
    """

    signature: Signature
    arguments: str
    job: type[AnyJob]
    state: StateKind


def declaration_of(
    function: Callable[..., Any], shape: Shape, state: Any, *, policy: str
) -> Declaration:
    """Read a function's declaration.

    Args:
        function: What is decorated.
        shape: Its kind.
        state: The decorator's `state=`; `None`: by the job's annotation, else a `dict`.
        policy: The decorator's name, for errors.

    Raises:
        ConfigurationError: There is no job among the parameters, it is of the wrong kind, or the
            state cannot be made without arguments or not be stored.
    """
    where = label(policy, function)
    expected: type[AnyJob] = AsyncJob if shape is Shape.COROUTINE else Job
    signature = signature_of(function, policy=policy)
    parameters = list(signature.parameters.values())
    place = 1 if parameters and parameters[0].name in ("self", "cls") else 0
    parameter = parameters[place] if place < len(parameters) else None
    declared = None if parameter is None else _job_and_state(function, parameter)
    if parameter is None or declared is None or parameter.kind not in POSITIONAL:
        raise ConfigurationError(
            f"{where}: the function has no job: its first parameter (the second after self or "
            f"cls) is the job, as in job: {expected.__name__}[State]"
        )
    job, annotated = declared
    if job is not None and job is not expected:
        raise ConfigurationError(
            f"{where}: the job of {'an async def' if shape is Shape.COROUTINE else 'a def'} is "
            f"{expected.__name__}, not {job.__name__}"
        )
    if annotated is UNKNOWN and state is None:
        raise ConfigurationError(
            f"{where}: the state in {parameter.annotation!r} is not defined where the function "
            "is decorated; name it in state="
        )
    chosen = annotated if state is None else state
    return Declaration(
        signature.replace(parameters=parameters[:place] + parameters[place + 1 :]),
        _arguments(parameters, place),
        expected,
        _state_kind(dict if chosen is None else chosen, where),
    )


def _arguments(parameters: list[Parameter], place: int) -> str:
    """The call with the job as `_resilient_value`; the other parameters as they came."""
    before, after = parameters[:place], parameters[place + 1 :]
    parts = (
        forwarding(_signature(before)),
        f"{RESERVED}value",
        forwarding(_signature(after)),
    )
    return ", ".join(part for part in parts if part)


def _signature(parameters: list[Parameter]) -> Signature:
    return Signature(parameters, __validate_parameters__=False)


def _job_and_state(
    function: Callable[..., Any], parameter: Parameter
) -> tuple[type[AnyJob] | None, Any] | None:
    """The kind of job and of state that a parameter is annotated with; `None`: it is no job.

    The kind of job is `None` where only the parameter's name, `job`, tells that it is one; that of
    state is `None` where nothing tells it, and `UNKNOWN` where it is not defined yet.
    """
    annotation = parameter.annotation
    if isinstance(annotation, str):
        resolved = _resolved(function, annotation)
        if resolved is UNKNOWN:
            return _by_text(annotation)
        annotation = resolved
    if annotation is Parameter.empty or annotation is Any:
        return (None, None) if parameter.name == "job" else None
    job = get_origin(annotation) or annotation
    if job not in (Job, AsyncJob):
        return None
    arguments = get_args(annotation)
    state = arguments[0] if arguments else None
    return job, None if state is Any or isinstance(state, TypeVar) else state


def _by_text(annotation: str) -> tuple[type[AnyJob], Any] | None:
    match = JOB_TEXT.fullmatch(annotation.strip())
    if match is None:
        return None
    return AsyncJob if match[1] == "AsyncJob" else Job, UNKNOWN if match[2] else None


def _resolved(function: Callable[..., Any], annotation: str) -> Any:
    """What an annotation in a text means where the function is defined, or `UNKNOWN`."""
    inner: Any = inspect.unwrap(unwrapped(function))
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    inner = getattr(inner, "__func__", inner)
    try:
        bare = SimpleNamespace(__annotations__={"job": annotation})
        return get_type_hints(bare, inner.__globals__, _nonlocals(inner))["job"]
    except Exception:  # an annotation is any expression: evaluating it may raise anything
        return UNKNOWN


def _nonlocals(function: Any) -> dict[str, Any]:
    """The names around a local function that have a value yet: its own name has none."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _state_kind(kind: Any, where: str) -> StateKind:
    from resilient.engine.codecs import codec_of

    make = get_origin(kind) or kind
    try:
        made = make()
    except Exception as error:
        raise ConfigurationError(
            f"{where}: the state {kind!r} cannot be made without arguments ({error}); "
            "give its fields defaults"
        ) from error
    codec = codec_of(kind)
    try:
        codec.decode(codec.encode(made))
    except CodecError as error:
        raise ConfigurationError(
            f"{where}: the state {kind!r} cannot be stored: {error}"
        ) from error
    return StateKind(make, codec)
