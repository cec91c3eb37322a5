"""What an earlier run of the code has saved, for the code that there is now."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resilient.errors import CodecError, ConfigurationError, JobCodeChanged
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.policies.checkpointed.plan import Settings
    from resilient.policies.checkpointed.record import Record

__all__ = ["Code", "Migrate", "refuse_version", "seen_state", "state_of"]

Migrate = Callable[[Any, str], Any]
"""Makes the state of now of the fields of an old one, and the version that saved it."""


class Code:
    """The source of a function, of which only a change is of interest."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def digest(self) -> str:
        """A digest of the source; `""` where there is none to be had."""
        from hashlib import blake2b

        try:
            source = inspect.getsource(inspect.unwrap(self._function))
        except (OSError, TypeError):
            return ""
        return blake2b(source.encode(), digest_size=8).hexdigest()


def refuse_version(settings: Settings, task: str, version: str) -> None:
    """Refuse what was saved under another version, unless it can be migrated.

    Raises:
        ConfigurationError: It cannot.
    """
    if version != settings.version and settings.migrate is None:
        raise ConfigurationError(
            f"the job {task!r} was begun under version={version!r} of {settings.name}, and this "
            f"is version={settings.version!r}: finish it under the old one, say with migrate= how "
            "its state is taken over, or begin it anew with "
            "checkpointed.of(...).at(...).forget()"
        )


def state_of(settings: Settings, task: str, record: Record) -> Any:
    """The state that was saved, as the code of now has it.

    Raises:
        ConfigurationError: It is of another version, and nothing says how to migrate it.
        CodecError: It cannot be read.
    """
    refuse_version(settings, task, record.version)
    if record.version != settings.version and settings.migrate is not None:
        state = settings.migrate(_fields(settings, record.state), record.version)
        settings.state.codec.encode(state)  # what cannot be stored is told of here, not later
        return state
    if record.code and record.code != settings.code.digest:
        warnings.warn(
            f"the job {task!r} goes on with another source of {settings.name} than that which "
            "saved it: change version= where the new one cannot go on from it",
            JobCodeChanged,
            stacklevel=2,
        )
    try:
        return settings.state.codec.decode(record.state)
    except CodecError as error:
        error.add_note(
            f"this is the saved state of the job {task!r}: a change of its class that "
            "old states do not fit needs another version= of the job"
        )
        raise


def seen_state(settings: Settings, record: Record) -> Any:
    """The state that was saved, for those who only look: of another version, its fields.

    Raises:
        CodecError: It cannot be read.
    """
    if record.version == settings.version:
        return settings.state.codec.decode(record.state)
    return _fields(settings, record.state)


def _fields(settings: Settings, data: Encoded) -> Any:
    """The fields of a state, whose class may be another one now."""
    import msgspec

    from resilient.engine.codecs import ANY
    from resilient.engine.codecs.base import BY_ANNOTATION

    if data[:1] == BY_ANNOTATION:
        return msgspec.msgpack.decode(memoryview(data)[5:])
    fields = ANY.fields(data)
    return settings.state.codec.decode(data) if fields is None else fields
