"""`@checkpointed`: a function whose calls are jobs, under a key made of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from resilient.config import Source
from resilient.engine.durations import Duration, optional_seconds
from resilient.engine.durations import seconds as in_seconds
from resilient.engine.keys import compile_fingerprint, key_function
from resilient.engine.options import (
    check_busy,
    check_choice,
    check_function,
    check_whole_number,
    checked_call,
)
from resilient.engine.wrap import around, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.controls import CheckpointedControls, CheckpointedLayer
from resilient.policies.checkpointed.declaration import declaration_of
from resilient.policies.checkpointed.plan import POLICY, Settings, resumable
from resilient.policies.checkpointed.typing import JobDecorator, SkippingJobDecorator
from resilient.policies.checkpointed.versions import Code
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.policies.checkpointed.bars import Bar

__all__ = ["checkpointed"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    S = TypeVar("S", default=Any)
    K = TypeVar("K", default=None)
else:  # defaults are for type checkers, and the module that has them is slow to import
    from typing import TypeVar

    S = TypeVar("S")
    K = TypeVar("K")


class Checkpointed:
    """A killed batch job goes on where it stopped: `@checkpointed(...)`."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        state: Callable[[], S] | None = None,
        version: str = "",
        migrate: Callable[[Any, str], S] | None = None,
        every: int = 100,
        seconds: Duration | None = 5,
        lease: Duration = 30,
        wait: Duration | None = 0,
        on_busy: Literal["raise"] = "raise",
        keep: int = 5,
        ttl: Duration | None = "7d",
        on_complete: Literal["return", "rerun"] = "return",
        progress: Bar | None = None,
        fingerprint: Sequence[str] | None = None,
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> JobDecorator[S]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        state: Callable[[], S] | None = None,
        version: str = "",
        migrate: Callable[[Any, str], S] | None = None,
        every: int = 100,
        seconds: Duration | None = 5,
        lease: Duration = 30,
        wait: Duration | None = 0,
        on_busy: Literal["skip"],
        keep: int = 5,
        ttl: Duration | None = "7d",
        on_complete: Literal["return", "rerun"] = "return",
        progress: Bar | None = None,
        fingerprint: Sequence[str] | None = None,
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> SkippingJobDecorator[S, None]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        state: Callable[[], S] | None = None,
        version: str = "",
        migrate: Callable[[Any, str], S] | None = None,
        every: int = 100,
        seconds: Duration | None = 5,
        lease: Duration = 30,
        wait: Duration | None = 0,
        on_busy: Literal["skip"],
        skipped: K,
        keep: int = 5,
        ttl: Duration | None = "7d",
        on_complete: Literal["return", "rerun"] = "return",
        progress: Bar | None = None,
        fingerprint: Sequence[str] | None = None,
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> SkippingJobDecorator[S, K]: ...

    @checked_call(POLICY)
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        state: Callable[[], Any] | None = None,
        version: str = "",
        migrate: Callable[[Any, str], Any] | None = None,
        every: int = 100,
        seconds: Duration | None = 5,
        lease: Duration = 30,
        wait: Duration | None = 0,
        on_busy: Literal["raise", "skip"] = "raise",
        skipped: Any = None,
        keep: int = 5,
        ttl: Duration | None = "7d",
        on_complete: Literal["return", "rerun"] = "return",
        progress: Bar | None = None,
        fingerprint: Sequence[str] | None = None,
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> Any:
        """Make each call of the function a job, which goes on where it stopped.

        The function gets the job as its first parameter (the second after `self` or `cls`), and
        callers leave it out. A job has one runner at a time. What its loops and steps have done
        is saved; a job that was killed, or raised, is resumed by the next call with its key,
        which finds the loops at the item and the state as they were saved. What stands outside of
        loops and steps is run again. A job that has returned answers later calls with its result,
        for as long as `ttl`.

        Args:
            template: The job's key, with fields over the function's arguments, as in
                `"import:{path}"`. It is global under the backend's prefix.
            key: A function of the same arguments that answers the key, instead of a template.
            state: The class of `job.state`, made without arguments: a dataclass, a msgspec
                struct, a `dict`. By default what the job is annotated with, as in `Job[State]`,
                else a `dict`.
            version: Of the function's code. A job that was begun under another version is not
                resumed, unless there is `migrate`: change it when the new code cannot go on from
                what the old one saved. Another source of the same version only warns
                (`JobCodeChanged`).
            migrate: Makes the state of this version from the fields of one that another version
                has saved: `migrate(fields, version)`, with plain data such as
                `{"rows": 3}`. Positions and steps are taken over as they are.
            every: Items after which a checkpoint is saved.
            seconds: Time after which one is saved when an item is done: seconds, or as `"5s"`;
                `None`: by `every` alone.
            lease: After how long a dead runner's job may be taken over: seconds, or as `"30s"`.
                A live one renews it at a third of that. A dead process of the same host is taken
                over at once.
            wait: How long to wait for another runner: seconds, or as `"1m"`; 0: not at all;
                `None`: no limit.
            on_busy: `"raise"` `JobRunning` when that is over, or `"skip"` the call.
            skipped: What a skipped call answers.
            keep: How many checkpoints are kept.
            ttl: How long a job is kept after its last write: seconds, or as `"7d"`; `None`: the
                `max_ttl` of `configure`.
            on_complete: What a call does whose job has run to its end: `"return"` its result, or
                `"rerun"` the job from the beginning.
            progress: `"auto"`: a bar of rich or tqdm where one is installed and standard error is
                a terminal, else a line in the log (`resilient.jobs`) every ten seconds; `"rich"`
                and `"tqdm"` choose the bar, `"log"` always writes lines. `None`: nothing.
            fingerprint: The arguments that must be the same each time. By default all that are no
                part of the key; `()` for none.
            on_backend_error: `"raise"` when the backend is away at the start, since there may be
                two runners otherwise; `"run"` all the same, and keep nothing.
            backend: A URL, client or backend of its own instead of the configured one.

        Raises:
            ConfigurationError: When decorated: an option, the template, the job or the kind of
                function is wrong, or nothing is configured (then at the first call). When called:
                the job was begun under another version.
            JobRunning: The job had another runner for as long as `wait`; the message names it.
            FingerprintMismatch: The job was started with other arguments.
            StaleRunner: Another runner has taken the job over. An async body is cancelled as
                soon as that is known.
            JobCancelled: Somebody has called `checkpointed.of(...).at(...).cancel()`.
            SourceChanged: A loop with `verify=True` reads other items than those that are done.
            ResultUnavailable: The job has run to its end, but its result has no stored form.
            CodecError: What was saved cannot be read, or the state cannot be stored.
            BackendError: The backend is away: at the start, or for as long as the lease lasts.

        Example:
            >>> import resilient
            >>> @resilient.checkpointed("sum:{name}", every=2)
            ... def total(job: resilient.Job, name: str, numbers: list[int]) -> int:
            ...     for number in job.iterate(numbers):
            ...         job.state["sum"] = job.state.get("sum", 0) + number
            ...     return job.state["sum"]
            >>> with resilient.using("memory://"):
            ...     total("a", [1, 2, 3]), checkpointed.of(total).at("a", []).status().phase
            (6, 'finished')
        """
        _check(version, every, keep, migrate)
        check_busy(f"@{POLICY}", on_busy, skipped)
        check_choice(f"@{POLICY}", "on_complete", on_complete, "return", "rerun")
        check_choice(f"@{POLICY}", "on_backend_error", on_backend_error, "raise", "run")
        if progress is not None:
            from resilient.policies.checkpointed.bars import check_bar

            check_bar(progress, POLICY)
        lifetime = in_seconds(lease, option="lease")
        between = optional_seconds(seconds, option="seconds")
        patience = optional_seconds(wait, option="wait", allow_zero=True)
        kept = optional_seconds(ttl, option="ttl")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            from resilient.engine.codecs import codec_for

            shape = shape_of(function, policy=POLICY)
            declared = declaration_of(function, shape, state, policy=POLICY)
            signature = declared.signature
            names = key_function(function, template, key, policy=POLICY, signature=signature)
            digest = compile_fingerprint(
                function, fingerprint, template=template, policy=POLICY, signature=signature
            )
            settings = Settings(
                Source("checkpoints", POLICY, shape.mode, backend),
                name=getattr(function, "__qualname__", None) or type(function).__name__,
                job=declared.job,
                state=declared.state,
                result=codec_for(function),
                version=version,
                migrate=migrate,
                code=Code(function),
                rerun=on_complete == "rerun",
                bar=progress,
                every=every,
                seconds=math.inf if between is None else between,
                lease=lifetime,
                wait=patience,
                keep=keep,
                ttl=kept,
                skip=on_busy == "skip",
                skipped=skipped,
                unguarded=on_backend_error == "run",
            )
            return around(
                CheckpointedLayer(function, shape, names, settings),
                partial(resumable, settings),
                [names, digest],
                signature=signature,
                arguments=declared.arguments,
            )

        return unpacked(decorate)

    def of(self, function: Callable[..., Any]) -> CheckpointedControls:
        """The controls of a checkpointed function, wherever the decorator is in its stack."""
        bound = layer_of(function, CheckpointedLayer, POLICY)
        return CheckpointedControls(bound.layer, bound.arguments, function)


def _check(version: object, every: object, keep: object, migrate: object) -> None:
    if not isinstance(version, str):
        raise ConfigurationError(f"@{POLICY}: version={version!r} is not a text")
    check_whole_number(f"@{POLICY}", "every", every)
    check_whole_number(f"@{POLICY}", "keep", keep)
    if migrate is not None:
        check_function(f"@{POLICY}", "migrate", migrate)


checkpointed = Checkpointed()
