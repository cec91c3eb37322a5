"""The progress of a run, for people: a bar where there is a terminal, else a line in the log.

rich and tqdm are used where they are installed; neither is needed.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from resilient.engine import clock
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.progress import Progress

__all__ = ["Bar", "Display", "check_bar", "display_of"]

Bar = Literal["auto", "rich", "tqdm", "log"]
BARS = ("auto", "rich", "tqdm", "log")
BAR_EVERY = 0.1
LINE_EVERY = 10.0
"""Seconds between two pictures of a bar, and between two lines in the log."""

log = logging.getLogger("resilient.jobs")


class Display(Protocol):
    """Something that shows how far a run is."""

    due: float
    """When it wants to show the next picture, on the local clock."""

    def show(self, progress: Progress, now: float) -> None:
        """Show this."""
        ...

    def close(self, progress: Progress | None) -> None:
        """Show the last picture, if there is one, and end."""
        ...


def check_bar(bar: object, policy: str) -> None:
    """Refuse a kind of bar that there is not.

    Raises:
        ConfigurationError: It is unknown, or its library is not installed.
    """
    if bar in ("auto", "log"):
        return
    if bar not in BARS:
        raise ConfigurationError(f"@{policy}: progress={bar!r} is not one of {BARS}, nor None")
    if find_spec(str(bar)) is None:
        raise ConfigurationError(f"@{policy}: progress={bar!r} needs the package {bar}")


def display_of(bar: Bar, task: str) -> Display:
    """The display of one run: bars on standard error, and only where that is a terminal."""
    if bar == "log" or not sys.stderr.isatty():
        return Lines(task)
    if bar == "rich" or (bar == "auto" and find_spec("rich") is not None):
        return RichBar(task)
    if bar == "tqdm" or find_spec("tqdm") is not None:
        return TqdmBar(task)
    return Lines(task)


class Lines:
    """A line in the log every so often: logger `resilient.jobs`, level INFO."""

    def __init__(self, task: str) -> None:
        self._task = task
        self.due = clock.now() + LINE_EVERY

    def show(self, progress: Progress, now: float) -> None:
        """Write a line."""
        self.due = now + LINE_EVERY
        log.info("%s: %s", self._task, described(progress))

    def close(self, progress: Progress | None) -> None:
        """Write the last line."""
        if progress is not None:
            log.info("%s: %s", self._task, described(progress))


class RichBar:
    """A bar of rich."""

    def __init__(self, task: str) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars

        self.due = clock.now()
        self._bars = Bars(console=Console(stderr=True), transient=False)
        self._bar = self._bars.add_task(task, total=None)
        self._bars.start()

    def show(self, progress: Progress, now: float) -> None:
        """Draw it."""
        self.due = now + BAR_EVERY
        self._bars.update(self._bar, completed=progress.done, total=progress.total)

    def close(self, progress: Progress | None) -> None:
        """Leave the last picture there."""
        if progress is not None:
            self.show(progress, clock.now())
        self._bars.stop()


class TqdmBar:
    """A bar of tqdm."""

    def __init__(self, task: str) -> None:
        from tqdm import tqdm

        self.due = clock.now()
        self._bar: Any = tqdm(desc=task, total=None, file=sys.stderr)

    def show(self, progress: Progress, now: float) -> None:
        """Draw it."""
        self.due = now + BAR_EVERY
        self._bar.total = progress.total
        self._bar.n = progress.done
        self._bar.refresh()

    def close(self, progress: Progress | None) -> None:
        """Leave the last picture there."""
        if progress is not None:
            self.show(progress, clock.now())
        self._bar.close()


def described(progress: Progress) -> str:
    """How far it is, in words."""
    text = f"{progress.done} done"
    if progress.percent is not None:
        text = f"{progress.percent:.0f} %, {progress.done} of {progress.total}"
    if progress.rate is not None:
        text += f", {progress.rate:.1f} a second"
    if progress.eta is not None:
        text += f", {progress.eta:.0f} s to go"
    return text
