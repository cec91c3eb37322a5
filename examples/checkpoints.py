"""`@checkpointed`: a job that died goes on where it stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import resilient
from resilient import AsyncJob, Job, checkpointed

power = {"is_on": True}
seen: list[int] = []


class PowerCut(Exception):
    """Stands for whatever kills a job: `kill -9`, a crash, a deployment."""


@dataclass
class State:
    """Saved together with the position, so that neither runs ahead of the other."""

    rows: int = 0
    total: int = 0


def count_rows() -> int:
    """Expensive: done once in the life of the job."""
    print("  counting the rows")
    return 12


@checkpointed("add-up:{name}", every=5)
def add_up(job: Job[State], name: str) -> int:
    """Callers leave the job out: `add_up("march")`."""
    total = job.step("count", count_rows)
    for number in job.iterate(range(total)):
        if number == 8 and not power["is_on"]:
            raise PowerCut
        seen.append(number)
        job.state.rows += 1
        job.state.total += number
    return job.state.total


@checkpointed("download:{page}", every=2)
async def download(job: AsyncJob[State], page: str) -> int:
    """The same for an `async def`."""
    async for number in job.iterate(range(6)):
        await asyncio.sleep(0.01)
        if number == 4 and not power["is_on"]:
            raise PowerCut
        job.state.rows += 1
    return job.state.rows


async def downloads() -> None:
    for power["is_on"] in (False, True):
        try:
            print("downloaded:", await download("home"))
        except PowerCut:
            status = await checkpointed.of(download).at("home").status()
            print(f"the download is {status.phase}; its state: {status.checkpoint.state}")


def main() -> None:
    resilient.configure("memory://")
    march = checkpointed.of(add_up).at("march")
    for power["is_on"] in (False, True):
        try:
            print("the sum is", add_up("march"))
        except PowerCut:
            checkpoint = march.status().checkpoint
            print(f"power cut at {checkpoint.percent:.0f} %; saved: {checkpoint.state}")
    print("each row once:", seen)
    print("called again, the finished job answers:", add_up("march"))
    asyncio.run(downloads())


if __name__ == "__main__":
    main()
