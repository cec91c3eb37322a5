"""Import the airports of the world, through a slow and flaky service, whatever happens meanwhile.

    python examples/import_airports.py

Press Ctrl-C, or `kill -9` it, at any moment, and run it again: it goes on where it stopped, and the
result is the same to the byte as that of an undisturbed run. All that takes are the decorators of
the functions below; the functions themselves are what one would write anyway.

The state is kept in SQLite at ./.resilient/state.db, or, with RESILIENT_URL=redis://localhost:6379
in the environment, on a Redis server.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import airportsdata
from display import Display
from flaky_service import ServiceUnavailable, add_options, manners_of, running
from flaky_service import ask as ask_once

import resilient
from resilient import (
    CircuitOpen,
    Consecutive,
    FailureRate,
    HalfOpen,
    Job,
    cached,
    checkpointed,
    circuit_breaker,
    distributed_lock,
    idempotent,
    retry,
)

BATCH = 50
"""Airports in one question to the service."""

AIRPORTS = """
    CREATE TABLE IF NOT EXISTS airports (
        code TEXT PRIMARY KEY, name TEXT, city TEXT, country TEXT, lat REAL, lon REAL,
        elevation REAL, climate TEXT, pressure REAL, hub TEXT, hub_distance INTEGER
    ) WITHOUT ROWID
"""
# Written twice, a row is the same as written once: items that a killed run has done, but not saved
# any more, are simply done again.
UPSERT = """
    INSERT OR REPLACE INTO airports VALUES (
        :code, :name, :city, :country, :lat, :lon,
        :elevation, :climate, :pressure, :hub, :hub_distance
    )
"""


# --- the service: retried when it fails, left alone when it is down, not asked twice the same


@retry(on=(ServiceUnavailable, CircuitOpen), attempts=None, timeout=10, wait_jitter="50ms")
@circuit_breaker(
    "airport-service",
    trip=Consecutive(5) | FailureRate(0.5),
    open_for=1,
    half_open=HalfOpen(permits=2),
    record=ServiceUnavailable,
)
def ask(service: str, path: str, question: Any = None) -> Any:
    """The service's answer. While it is down nobody asks it, in this process or another."""
    return ask_once(service, path, question)


@cached("{code}", ttl="1d")
def country_name(code: str, service: str) -> str:
    """The English name of a country: asked for once a day."""
    return str(ask(service, f"/countries/{code}"))


# --- the job: saved as it goes, by one importer at a time


@dataclass
class Tally:
    """What the job keeps of the airports that are done. It is saved together with the position."""

    airports: int = 0
    countries: set[str] = field(default_factory=set)
    highest: tuple[float, str] = (0.0, "")


@dataclass(frozen=True)
class Report:
    """What the finished job returns, now and whenever it is called again."""

    tally: Tally
    digest: str


@checkpointed(
    "airports:{output}",
    version=airportsdata.__version__,
    every=20,
    seconds=1,
    fingerprint=("limit",),
)
def import_airports(
    job: Job[Tally], output: str, limit: int | None, service: str, display: Display
) -> Report:
    """Enrich the airports, batch by batch, and write them to a database."""
    airports = list(airportsdata.load().values())[:limit]
    batches = [airports[i : i + BATCH] for i in range(0, len(airports), BATCH)]
    job.step("prepare", prepare, output)
    with closing(sqlite3.connect(output)) as database:
        for batch in job.iterate(batches):  # those that are not done yet
            display.show(job.progress)
            rows = enriched(batch, service)
            with database:
                database.executemany(UPSERT, rows)
            job.state.airports += len(rows)
            job.state.countries.update(row["country"] for row in rows)
            highest = max((row["elevation"], row["name"]) for row in rows)
            job.state.highest = max(job.state.highest, highest)
        display.show(job.progress)
        return Report(job.state, digest(database))


def prepare(output: str) -> None:
    """An empty table: once in the life of the job, and not again when it is resumed."""
    with closing(sqlite3.connect(output)) as database, database:
        database.execute(AIRPORTS)
        database.execute("DELETE FROM airports")


def enriched(batch: list[Any], service: str) -> list[dict[str, Any]]:
    """Rows for the database: what the airports' data tell, and what the service knows."""
    facts = ("lat", "lon", "elevation")
    question = [{"code": each["icao"], **{fact: each[fact] for fact in facts}} for each in batch]
    answer = ask(service, "/airports", question)
    return [
        {**airport, **more, "country": country_name(airport["country"], service)}
        for airport, more in zip(batch, answer, strict=True)
    ]


def digest(database: sqlite3.Connection) -> str:
    """A fingerprint of the result: the same after any number of interruptions."""
    content = hashlib.sha256()
    for row in database.execute("SELECT * FROM airports ORDER BY code"):
        content.update(repr(row).encode())
    return content.hexdigest()


@idempotent("publish-airports:{report.digest}", ttl="30d", fingerprint=())
def publish(report: Report, service: str) -> str:
    """Announce a result, once; the receipt. Later calls get the first one's receipt."""
    return str(ask(service, f"/publications/{report.digest}"))


@distributed_lock("import-airports:{output}", wait=0)
def run(
    output: str, limit: int | None, service: str, display: Display, *, fresh: bool
) -> tuple[Report, str]:
    """The whole of it, while no other process does it."""
    if fresh or not Path(output).exists():
        checkpointed.of(import_airports).at(output, limit, service, display).forget()
    report = import_airports(output, limit, service, display)
    return report, publish(report, service)


# --- the command


def main() -> int:
    """Run it, and turn what can go wrong into a line of text."""
    options = arguments()
    display = Display(BATCH, "airports")
    say = display.console.print
    again = "What is done is saved: run it again to go on."
    with ExitStack() as stack:
        try:
            resilient.configure()
            stack.callback(resilient.subscribe(display.tell))
            service = options.service or stack.enter_context(running(manners_of(options)))
            output = str(Path(options.output).resolve())
            with display.bar:
                report, receipt = run(output, options.limit, service, display, fresh=options.fresh)
        except KeyboardInterrupt:
            say(f"Stopped. {again}")
            return 130
        except (ServiceUnavailable, CircuitOpen) as error:
            say(f"The service is down: {error}.\n{again}")
            return 1
        except resilient.LockNotAcquired as error:
            say(f"Another importer is at work: {error}.")
            return 1
        except (resilient.FingerprintMismatch, resilient.ConfigurationError) as error:
            say(f"Not begun: {error}.\n--fresh begins anew.")
            return 1
        except (resilient.ResilientError, sqlite3.Error) as error:
            say(f"Failed: {error}.\n{again}")
            return 1
    tally = report.tally
    feet, highest = tally.highest
    say(
        f"{'Done' if display.is_used else 'Done before'}: {tally.airports:,} airports in "
        f"{len(tally.countries)} countries, in {options.output}; the highest is {highest}, at "
        f"{feet:,.0f} ft.\n{display.retries} questions were asked again. The result's digest is "
        f"{report.digest[:16]}, its publication {receipt}."
    )
    return 0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description="Import the airports of the world through a slow and flaky service. "
        "Stop it at any moment and run it again: it goes on where it stopped.",
        epilog="RESILIENT_URL=redis://... keeps the state on Redis instead of in a SQLite file.",
    )
    parser.add_argument(
        "--output",
        default="airports.db",
        metavar="FILE",
        help="the result, a SQLite database (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="import the first N airports only")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even if it is done")
    parser.add_argument("--service", metavar="URL", help="ask this one instead of starting one")
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
