"""`@idempotent`: the same request takes effect once, and every caller gets the same answer."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import resilient
from resilient import FingerprintMismatch, idempotent

charges: list[str] = []


@dataclass(frozen=True)
class Receipt:
    """What a duplicate gets is equal, and of the same type."""

    order_id: str
    amount: Decimal
    at: datetime


class Declined(Exception):
    """The bank said no, and would say so again."""


@idempotent("charge:{order_id}", ttl="24h", replay_errors=(Declined,))
def charge(order_id: str, amount: Decimal) -> Receipt:
    """Take money, which must not happen twice."""
    charges.append(order_id)
    time.sleep(0.1)
    if amount > 100:
        raise Declined(f"{amount} is too much")
    return Receipt(order_id, amount, datetime.now(UTC))


@idempotent("mail:{address}", ttl="1h")
async def welcome(address: str) -> str:
    """The same for an `async def`."""
    charges.append(address)
    await asyncio.sleep(0.1)
    return f"welcomed {address}"


async def mails() -> None:
    answers = await asyncio.gather(*(welcome("ada@example.org") for _ in range(10)))
    print(f"10 mails at once: {set(answers)}, sent: {charges}")


def main() -> None:
    resilient.configure("memory://")
    with ThreadPoolExecutor(10) as pool:
        receipts = set(pool.map(charge, ["A-7"] * 10, [Decimal("9.90")] * 10))
    print(f"10 requests at once: {len(charges)} charge, the receipt of each: {receipts}")

    try:
        charge("A-7", Decimal("99.00"))
    except FingerprintMismatch as error:
        print(f"another amount for the same order:\n  {error}")

    for _ in range(2):
        try:
            charge("A-8", Decimal(1000))
        except Declined as error:
            print(f"declined: {error}; charges: {charges}")

    charges.clear()
    asyncio.run(mails())


if __name__ == "__main__":
    main()
