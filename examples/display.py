"""What one sees of the main example: a progress bar, and what the decorators do behind it."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from resilient import Progress
from resilient.events import CircuitChanged, Event, JobResumed, RetryScheduled


class Display:
    """A progress bar with what happens above it; plain lines where the output is no terminal.

    Args:
        batch: How many things the job does in one go.
        things: What they are called.
    """

    def __init__(self, batch: int, things: str) -> None:
        self.batch = batch
        self.things = things
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.is_used = False
        self.retries = 0
        self.bar = Bar(
            BarColumn(None),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )
        self._task = self.bar.add_task("")
        self._next_line = 0.0

    def show(self, progress: Progress) -> None:
        """Show how far the job is."""
        self.is_used = True
        text = f"{progress.percent:3.0f} %  {progress.done} of {progress.total} batches"
        if progress.rate and progress.eta is not None:
            text += (
                f"  {progress.rate * self.batch:,.0f} {self.things}/s  {progress.eta:.0f} s left"
            )
        self.bar.update(self._task, completed=progress.done, total=progress.total, description=text)
        is_done = progress.done == progress.total
        if self.bar.disable and (is_done or time.monotonic() >= self._next_line):
            self._next_line = time.monotonic() + 2
            self.console.print(text)

    def tell(self, event: Event) -> None:
        """Tell what the decorators do behind the scenes."""
        match event:
            case RetryScheduled():
                self.retries += 1
            case CircuitChanged():
                self.console.print(f"the service: {event.before} → {event.after} ({event.reason})")
            case JobResumed():
                self.console.print(f"attempt {event.attempt}: going on where the last one stopped")
