"""`python -m benchmarks [--only lock,cache] [--json] [--rounds 25] [--redis-url URL]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from benchmarks.harness import Group, rows, table
from tests.support.servers import RedisAt, redis_server

FAMILIES = {
    "overhead": "benchmarks.overhead",
    "retry": "benchmarks.retries",
    "lock": "benchmarks.locks",
    "crowd": "benchmarks.crowds",
    "cache": "benchmarks.caches",
    "breaker": "benchmarks.breakers",
    "idempotent": "benchmarks.idempotency",
    "checkpoint": "benchmarks.checkpoints",
    "postgres": "benchmarks.postgres",
}
PEERS = [
    "redis",
    "hiredis",
    "psycopg",
    "tenacity",
    "stamina",
    "python-redis-lock",
    "cashews",
    "circuitbreaker",
    "aiocache",
    "dogpile.cache",
    "cachetools",
    "pybreaker",
    "purgatory",
    "interlock-cb",
    "aws-lambda-powertools",
    "dbos",
]


def main() -> None:
    """Run the chosen families and print what was measured."""
    options = arguments()
    logging.disable(logging.ERROR)  # some peers talk to the terminal
    warnings.simplefilter("ignore")
    groups: list[Group] = []
    with server_at(options.redis_url) as server, tempfile.TemporaryDirectory() as directory:
        about = environment(server)
        if not options.json:
            print("\n".join(f"{name}: {value}" for name, value in about.items()))
        for name in options.only or FAMILIES:
            made: list[Group] = importlib.import_module(FAMILIES[name]).groups()
            for group in made:
                group.run(server, Path(directory), options.rounds)
                groups.append(group)
                if not options.json:
                    print(f"\n{table(group)}", flush=True)
    if options.json:
        json.dump({"environment": about, "rows": rows(groups)}, sys.stdout, indent=1)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=chosen, help=f"some of {','.join(FAMILIES)}, by comma; default: all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=25, help="batches of each case")
    parser.add_argument(
        "--redis-url", default=os.environ.get("REDIS_URL"), help="default: one of its own"
    )
    return parser.parse_args()


def chosen(text: str) -> list[str]:
    """The families named in `--only`."""
    names = text.split(",")
    if unknown := set(names) - set(FAMILIES):
        raise argparse.ArgumentTypeError(f"no such benchmark: {', '.join(sorted(unknown))}")
    return names


@contextlib.contextmanager
def server_at(url: str | None) -> Iterator[RedisAt]:
    """The server at a URL, or one that is started here."""
    if url:
        yield RedisAt(url)
    else:
        with redis_server() as server:
            yield server


def environment(server: RedisAt) -> dict[str, str]:
    """What it runs on."""
    with server.client() as client:
        info = cast(dict[str, Any], client.info("server"))
    versions = {}
    for name in PEERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    valkey = info.get("valkey_version")
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "server": f"valkey {valkey}" if valkey else f"redis {info['redis_version']}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


if __name__ == "__main__":
    main()
