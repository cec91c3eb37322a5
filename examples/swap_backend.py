"""The same functions on any backend: what changes is one line, and no function."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import resilient
from resilient import Job, cached, checkpointed, distributed_lock, idempotent

calls: list[str] = []


@cached("{number}", ttl="1m")
def square(number: int) -> int:
    calls.append(f"square {number}")
    return number * number


@idempotent("order:{order_id}", ttl="1h")
def order(order_id: str) -> str:
    calls.append(f"order {order_id}")
    return f"ordered {order_id}"


@checkpointed("add-up")
def add_up(job: Job) -> int:
    for number in job.iterate(range(4)):
        job.state["sum"] = job.state.get("sum", 0) + square(number)
    calls.append("add-up")
    return int(job.state["sum"])


@distributed_lock("everything")
def everything() -> tuple[int, str, int]:
    return square(3), order("A-7"), add_up()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        urls = ["memory://", f"sqlite:///{Path(directory) / 'state.db'}"]
        if "RESILIENT_URL" in os.environ:  # such as redis://localhost:6379/0
            urls.append(os.environ["RESILIENT_URL"])
        for url in urls:
            calls.clear()
            # For the whole process there is `resilient.configure(url)`.
            with resilient.using(url, prefix=f"swap-backend-{os.getpid()}:"):
                answers = {everything() for _ in range(2)}
            print(f"{url.partition(':')[0]:6}  {answers}  {len(calls)} calls of the functions")


if __name__ == "__main__":
    main()
