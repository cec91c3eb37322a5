"""A web API whose POST may be retried: the `Idempotency-Key` header with FastAPI.

Run it to see what a client sees, over any backend (`RESILIENT_URL`, by default this process's
memory); or serve it with several workers, over a shared store:

    RESILIENT_URL=redis://localhost:6379/0 uvicorn --app-dir examples payments_api:app --workers 4
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import resilient
from resilient.integrations.asgi import IdempotencyMiddleware, by_authorization
from resilient.integrations.fastapi import install

payments: list[str] = []

app = FastAPI()
app.add_middleware(IdempotencyMiddleware, ttl="24h", user=by_authorization, required=("/payments",))
install(app)  # what the decorators refuse becomes 409, 429 or 503


class Payment(BaseModel):
    """What a client wants to pay."""

    amount: int


@app.post("/payments", status_code=201)
def pay(payment: Payment) -> dict[str, int]:
    """Take money, which must not happen twice."""
    payments.append(f"{payment.amount}")
    time.sleep(0.5)
    return {"payment": len(payments), "amount": payment.amount}


@app.post("/reports")
@resilient.distributed_lock("report", ttl=30, wait=0)
def report() -> dict[str, int]:
    """One report at a time: a second one is told to come again."""
    time.sleep(0.3)
    return {"payments": len(payments)}


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The API behind a real server, in a thread; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def shown(what: str, response: httpx.Response) -> None:
    retry = response.headers.get("retry-after")
    replayed = response.headers.get("idempotency-replayed")
    print(
        f"{what}: {response.status_code} {response.json().get('title', response.text)}"
        f"{f', retry after {retry} s' if retry else ''}{', replayed' if replayed else ''}"
    )


def main() -> None:
    resilient.configure(os.environ.get("RESILIENT_URL", "memory://"))
    with served() as url, httpx.Client(base_url=url) as client:
        ada = {"Authorization": "Bearer ada", "Idempotency-Key": '"7e0d5b0e"'}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.post, "/payments", json={"amount": 5}, headers=ada)
            while not payments:
                time.sleep(0.01)
            shown("the same, meanwhile", client.post("/payments", json={"amount": 5}, headers=ada))
            shown("the first", first.result())
        shown("the same again", client.post("/payments", json={"amount": 5}, headers=ada))
        shown("another amount", client.post("/payments", json={"amount": 9}, headers=ada))
        shown("no key", client.post("/payments", json={"amount": 5}))
        bob = {**ada, "Authorization": "Bearer bob"}
        shown("another user", client.post("/payments", json={"amount": 7}, headers=bob))
        print(f"payments: {payments}")
        with ThreadPoolExecutor(2) as pool:
            for response in pool.map(client.post, ["/reports"] * 2):
                shown("one of two reports at once", response)


if __name__ == "__main__":
    main()
