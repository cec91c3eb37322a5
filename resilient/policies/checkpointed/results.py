"""What a job, or one of its steps, has answered: in its stored form, and out of it.

Both have taken effect by then. So a result that has no stored form leaves word of that in its
place, and nothing is run again for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from resilient.errors import ResultUnavailable
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec

__all__ = ["Unstored", "opened", "stored", "unstored"]


class Unstored(NamedTuple):
    """In the place of a result that has no stored form.

    Attributes:
        reason: Why it has none.
    """

    reason: str


def stored(codec: Codec, answer: Any) -> tuple[Encoded, str]:
    """The stored form, and `""`; or word that there is none, and why."""
    try:
        return codec.encode(answer), ""
    except Exception as error:  # whatever a codec raises
        return unstored(codec, error)


def unstored(codec: Codec, error: Exception) -> tuple[Encoded, str]:
    """Word that there is no stored form, and why: the codec has raised this."""
    from resilient.engine.codecs import reason_of

    reason = reason_of(error)
    return codec.encode(Unstored(reason)), reason


def opened(codec: Codec, result: Encoded, task: str, step: str | None = None) -> Any:
    """What the job, or this step of it, has answered.

    Raises:
        ResultUnavailable: That had no stored form.
        CodecError: It cannot be read.
    """
    answer = codec.decode(result)
    if isinstance(answer, Unstored):
        done = (
            f"the job {task!r} has run to its end"
            if step is None
            else f"the step {step!r} of the job {task!r} is done"
        )
        raise ResultUnavailable(
            f"{done}, but its result had no stored form: {answer.reason}", key=task
        )
    return answer
