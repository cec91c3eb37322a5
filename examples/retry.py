"""`@retry`: a transient failure is tried again, within bounds on attempts and time."""

from __future__ import annotations

import asyncio

import resilient
from resilient import retry
from resilient.events import Event, RetryScheduled

moods = iter(["busy", "busy", "fine", "busy", "fine"])


def ask(url: str) -> str:
    """A server of changing moods."""
    if next(moods) == "busy":
        raise ConnectionError("connection reset")
    return f"the page at {url}"


@retry(on=ConnectionError, attempts=5, timeout=10, wait_initial="50ms", wait_jitter="20ms")
def fetch(url: str) -> str:
    """Fails twice, then works."""
    return ask(url)


@retry(on=ConnectionError, attempts=3, wait_initial="50ms", wait_jitter="20ms")
async def afetch(url: str) -> str:
    """The same for an `async def`, which waits without blocking the others."""
    return ask(url)


@retry(on=(ConnectionError, TimeoutError), attempts=3, wait_initial="10ms", wait_jitter=0)
def read(path: str) -> str:
    """Fails for a reason that trying again does not mend: it is raised at once."""
    raise FileNotFoundError(path)


def tell(event: Event) -> None:
    """Every decorator reports what it does as events."""
    if isinstance(event, RetryScheduled):
        pause = 1000 * event.pause
        print(f"  attempt {event.attempt} failed: {event.error}; again in {pause:.0f} ms")


def main() -> None:
    resilient.subscribe(tell)
    print(fetch("https://example.org"))
    print(asyncio.run(afetch("https://example.org/async")))
    try:
        read("missing.txt")
    except FileNotFoundError as error:
        print(f"not retried: {error!r}")


if __name__ == "__main__":
    main()
