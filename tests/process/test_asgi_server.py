"""The `Idempotency-Key` header with a real server of four processes and a real HTTP client."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.fixtures import Target

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
DUPLICATES = 50


@contextlib.contextmanager
def served(target: Target, effects: Path, log: Path) -> Iterator[httpx.Client]:
    """The application under `uvicorn`, in four processes, and a client of it.

    Over a unix socket: no other process can take its address. Its path may be 107 bytes long.
    """
    environment = {
        **os.environ,
        "RESILIENT_URL": target.url,
        "RESILIENT_PREFIX": target.prefix,
        "TEST_EFFECTS": str(effects),
    }
    with tempfile.TemporaryDirectory(prefix="rsl-") as directory, log.open("w") as output:
        address = f"{directory}/s"
        command = [
            sys.executable, "-m", "uvicorn", "tests.process.idempotency_app:app",
            "--app-dir", str(ROOT), "--uds", address, "--workers", str(WORKERS),
            # A worker that imports on a busy machine is not a dead one.
            "--timeout-worker-healthcheck", "60",
        ]  # fmt: skip
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while log.read_text().count("Application startup complete") < WORKERS:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            # A connection for each request: so that all processes get some.
            limits = httpx.Limits(max_keepalive_connections=0)
            transport = httpx.HTTPTransport(uds=address, limits=limits)
            with httpx.Client(transport=transport, base_url="http://api", timeout=30) as client:
                yield client
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            server.terminate()
            server.wait(30)


def test_duplicates_over_workers_take_effect_once(shared_target: Target, tmp_path: Path) -> None:
    """50 duplicates of one POST over 4 processes: one effect; no other user or path sees it."""
    effects = tmp_path / "effects"
    effects.touch()
    with served(shared_target, effects, tmp_path / "log") as client:

        def post(path: str = "/pay/A-7", user: str = "ada", body: bytes = b"5") -> httpx.Response:
            headers = {"Authorization": f"Bearer {user}", "Idempotency-Key": '"7e0d"'}
            return client.post(path, content=body, headers=headers)

        def insistent(_: int) -> tuple[httpx.Response, int]:
            refused = 0
            while (response := post()).status_code == 409:
                refused += 1
                assert int(response.headers["retry-after"]) == 1
                time.sleep(0.05)
            return response, refused

        with ThreadPoolExecutor(DUPLICATES) as pool:
            answers = list(pool.map(insistent, range(DUPLICATES)))

        # One effect, and one response, byte for byte, but for what was not chosen to be replayed.
        assert effects.read_text() == "A-7\n"
        assert sum(refused for _, refused in answers) > 0
        responses = [response for response, _ in answers]
        assert {
            (each.status_code, each.content, each.headers["location"]) for each in responses
        } == {(201, b"A-7\x00\xff5", "/pay/A-7")}
        assert Counter(each.headers.get("idempotency-replayed") for each in responses) == {
            "true": DUPLICATES - 1,
            None: 1,
        }
        assert sum("x-worker" in each.headers for each in responses) == 1

        # Another user and another path are other requests; another payload is refused.
        others = [post(user="bob"), post("/pay/A-8")]
        assert [each.headers.get("idempotency-replayed") for each in others] == [None, None]
        assert effects.read_text() == "A-7\nA-7\nA-8\n"
        assert post(body=b"6").status_code == 422
        assert client.post("/pay/A-7").status_code == 400
        malformed = client.post("/pay/A-7", headers={"Idempotency-Key": '"'})
        assert malformed.status_code == 400
        assert effects.read_text() == "A-7\nA-7\nA-8\n"

        # What is too long is bounded on its way in, and passed on, once, on its way out.
        assert post(body=b"x" * 100_001).status_code == 413
        first, second = post("/export"), post("/export")
        assert (first.status_code, len(first.content)) == (200, 500_000)
        assert (second.status_code, "retry-after" in second.headers) == (409, False)
        assert effects.read_text().count("export") == 1

        # Whoever hangs up in the middle of that does not have it run again.
        hasty = {"Authorization": "Bearer hasty", "Idempotency-Key": "k"}
        with client.stream("POST", "/export", headers=hasty) as response:
            next(response.iter_raw())
        while "retry-after" in (done := client.post("/export", headers=hasty)).headers:
            time.sleep(0.05)
        assert (done.status_code, done.json()["title"]) == (409, "Request is done")
        assert effects.read_text().count("export") == 2

        refused = client.post("/busy")
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (409, True)
