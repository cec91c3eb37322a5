"""The stored form of a checkpoint: where the job is, its state, and the version of its code.

It is self-describing, so that it can be read by hand:
`backend.sync.checkpoints.latest(task).data["loops"]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = ["Record", "Unstored"]


class Record(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        version: Of the code that saved it.
        loops: Each loop's items done, total, whether it is complete, and the loops inside.
        state: The state, as its own codec writes it.
    """

    version: str
    loops: dict[str, Any]
    state: Encoded

    @property
    def done(self) -> int:
        """Items done, over the outermost loops."""
        return sum(done for done, *_ in self.loops.values())

    def encode(self) -> Encoded:
        """The stored form."""
        from resilient.engine import codecs

        return codecs.encode(self._asdict())

    @classmethod
    def decode(cls, data: Encoded) -> Record:
        """Read a stored one.

        Raises:
            CodecError: It was saved by something else.
        """
        from resilient.engine import codecs

        content = codecs.decode(data)
        try:
            return cls(**content)
        except TypeError as error:
            raise CodecError("the checkpoint was not saved by @checkpointed") from error


class Unstored(NamedTuple):
    """In the place of a job's result that has no stored form.

    Attributes:
        reason: Why it has none.
    """

    reason: str
