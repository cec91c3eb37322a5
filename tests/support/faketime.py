"""Servers whose wall clock a test sets, under `libfaketime`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["ServerTime"]


class ServerTime:
    """The wall clock of a server that was started with this `env`.

    Args:
        file: Where the time is told to the server; in a directory of the test's own.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shift(0)

    @property
    def env(self) -> dict[str, str]:
        """What the server's environment needs."""
        found = importlib.util.find_spec("libfaketime")
        assert found is not None
        assert found.origin is not None
        library = Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_FMT": "%s",
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def shift(self, seconds: int) -> None:
        """Have it so many seconds before or after the true time, and go on from there."""
        self._tell(f"{seconds:+d}")

    def stop_at(self, moment: int) -> None:
        """Have it stand still, at so many seconds since the epoch."""
        self._tell(str(moment))

    def _tell(self, text: str) -> None:
        # In one piece: the server reads it whenever it looks at the clock.
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)
