"""The stored form of a checkpoint: where the job is, its state, and the version of its code.

It is self-describing, so that it can be read by hand:
`backend.sync.checkpoints.latest(task).data["loops"]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = ["Record"]


LARGE = 16 * 1024
"""Bytes of a stored state from which it is compressed, where that makes it smaller."""


class Record(NamedTuple):
    """What a checkpoint holds. The store keeps it beside the job, not in it: a large one is written
    with its own checkpoint, and never again.

    Attributes:
        version: Of the code that saved it.
        loops: Each loop's items done, total, whether it is complete, and the loops inside; then
            the key of the last item and the digest of all, of a loop that has them.
        state: The state, as its own codec writes it.
        rate: Items a second when it was saved.
        code: A digest of the function's source.
    """

    version: str
    loops: dict[str, Any]
    state: Encoded
    rate: float | None = None
    code: str = ""

    @property
    def done(self) -> int:
        """Items done, over the outermost loops."""
        return sum(done for done, *_ in self.loops.values())

    @property
    def total(self) -> int | None:
        """Items that there are, over the outermost loops; `None` unless each knows its own."""
        totals = [total for _, total, *_ in self.loops.values()]
        return None if not totals or None in totals else sum(totals)

    def encode(self) -> Encoded:
        """The stored form."""
        import zlib

        from resilient.engine import codecs

        content = self._asdict()
        if len(self.state) >= LARGE and len(packed := zlib.compress(self.state, 1)) < len(
            self.state
        ):
            content |= {"state": packed, "packed": True}
        return codecs.encode(content)

    @classmethod
    def decode(cls, data: Encoded) -> Record:
        """Read a stored one.

        Raises:
            CodecError: It was saved by something else.
        """
        import zlib

        from resilient.engine import codecs

        content = codecs.decode(data)
        try:
            if content.pop("packed", False):
                content["state"] = zlib.decompress(content["state"])
            return cls(**content)
        except (TypeError, AttributeError, KeyError, zlib.error) as error:
            raise CodecError("the checkpoint was not saved by @checkpointed") from error
