"""`@cached`: computed once, however many ask at the same moment."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import resilient
from resilient import cached

computations: list[str] = []


@dataclass(frozen=True)
class Profile:
    """What is cached comes back as what it was."""

    user_id: int
    name: str


@cached("{user_id}", ttl="10m", tags=("users",))
def profile(user_id: int) -> Profile | None:
    """Slow, and perhaps `None`, which is a value like any other."""
    computations.append(f"profile {user_id}")
    time.sleep(0.1)
    return Profile(user_id, "Ada") if user_id == 7 else None


@cached(ttl="10m")  # without a template the key is made of all arguments, with their types
async def square(number: float) -> float:
    """The same for an `async def`."""
    computations.append(f"square {number!r}")
    await asyncio.sleep(0.1)
    return number * number


async def squares() -> None:
    await asyncio.gather(*(square(3) for _ in range(50)))
    await square(3.0)  # 3 and 3.0 are two entries
    print("51 calls:", computations)


def main() -> None:
    resilient.configure("memory://")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(profile, [7] * 20))
    print(f"20 calls at once: {set(answers)}, computed: {computations}")

    began = time.perf_counter()
    profile(7)
    print(f"one more took {1e6 * (time.perf_counter() - began):.0f} µs")
    profile(8), profile(8)
    print("nobody is there, which is remembered too:", computations)

    cached.of(profile).invalidate(7)
    resilient.invalidate_tags("users")  # all that carry the tag, of any function
    profile(7)
    print("after it was invalidated:", computations)
    print(cached.of(profile).stats())

    computations.clear()
    asyncio.run(squares())


if __name__ == "__main__":
    main()
