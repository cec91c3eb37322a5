"""A small, slow and flaky HTTP service, for the examples to call.

It knows what the airports' own data do not tell: climate zones, air pressure, the nearest hub, and
the names of countries. The same question always gets the same answer, when it gets one: some
requests are refused with 503, some take long, and for a while in the middle it is down.

    python examples/flaky_service.py --port 8080      # by hand, to stop and start it while
    python examples/import_airports.py --service http://127.0.0.1:8080      # this one runs
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 2.0
"""Seconds after which a caller gives up on a request."""

HUBS = {
    "ATL": (33.6367, -84.4281),
    "DFW": (32.8968, -97.0380),
    "DXB": (25.2528, 55.3644),
    "FRA": (50.0333, 8.5706),
    "GRU": (-23.4356, -46.4731),
    "HND": (35.5523, 139.7798),
    "JNB": (-26.1392, 28.2460),
    "LHR": (51.4706, -0.4619),
    "SIN": (1.3502, 103.9944),
    "SYD": (-33.9461, 151.1772),
}
"""Where one changes planes: latitude and longitude."""


class ServiceUnavailable(Exception):
    """The service could not be reached, did not answer in time, or answered 503."""


@dataclass(frozen=True)
class Manners:
    """How the service behaves.

    Attributes:
        delay: Seconds that a request takes; every fortieth takes ten times as long.
        failures: The share of requests that are refused with 503: 0 to 1.
        outage: Seconds for which it is down, once, from its 300th request on.
        seed: Of its moods: the same seed, the same refusals.
    """

    delay: float = 0.015
    failures: float = 0.04
    outage: float = 2.0
    seed: int = 1


def ask(url: str, path: str, question: Any = None) -> Any:
    """Ask the service at this URL; its answer.

    Args:
        url: Such as `http://127.0.0.1:8080`.
        path: What is asked for, such as `/countries/CH`.
        question: Sent as JSON; `None`: nothing is sent.

    Raises:
        ServiceUnavailable: It has not answered; asking again may help.
    """
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    try:
        connection.request("POST", path, body=json.dumps(question))
        response = connection.getresponse()
        text = response.read()
    except (OSError, HTTPException) as error:
        raise ServiceUnavailable(f"{url} cannot be reached: {error!r}") from error
    finally:
        connection.close()
    if response.status == 503:
        raise ServiceUnavailable(f"{url}{path}: 503 {response.reason}")
    if response.status != 200:
        raise ValueError(f"{url}{path}: {response.status} {response.reason}")
    return json.loads(text)


@contextlib.contextmanager
def running(manners: Manners, port: int = 0) -> Iterator[str]:
    """Serve in a thread of this process until exit; gives the URL.

    Args:
        manners: How it behaves.
        port: 0: any that is free.
    """
    with FlakyService(manners, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class FlakyService(ThreadingHTTPServer):
    """The server, one thread a request, each of which has ended when it is closed."""

    daemon_threads = False

    def __init__(self, manners: Manners, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.manners = manners
        self._random = random.Random(manners.seed)
        self._requests = 0
        self._down_until = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def server_close(self) -> None:
        """End it; no request takes its time any longer."""
        self._closing.set()
        super().server_close()

    def refuses(self) -> bool:
        """Take the time that a request takes; whether it is refused."""
        manners = self.manners
        with self._lock:
            self._requests += 1
            if self._requests == 300:
                self._down_until = time.monotonic() + manners.outage
            if time.monotonic() < self._down_until:
                return True
            delay = manners.delay * (10 if self._requests % 40 == 0 else 1)
            refused = self._random.random() < manners.failures
        self._closing.wait(delay)
        return refused

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up are nothing to report."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FlakyService

    def do_POST(self) -> None:
        """Answer it, or refuse it."""
        length = int(self.headers.get("Content-Length", 0))
        question = json.loads(self.rfile.read(length) or b"null")
        if self.server.refuses():
            self.send_error(503)
            return
        match self.path.split("/"):
            case ["", "airports"]:
                answer: Any = [about(**airport) for airport in question]
            case ["", "countries", code]:
                answer = country_names().get(code, code)
            case ["", "publications", digest]:
                answer = f"{digest[:8]}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
            case _:
                self.send_error(404)
                return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the caller tells what it sees."""


def about(code: str, lat: float, lon: float, elevation: float) -> dict[str, Any]:
    """What the service knows about one airport.

    Args:
        code: Its ICAO code.
        lat: Degrees north.
        lon: Degrees east.
        elevation: Feet.
    """
    distances = {hub: distance((lat, lon), place) for hub, place in HUBS.items()}
    hub = min(distances, key=lambda name: distances[name])
    return {
        "code": code,
        "climate": "tropical" if abs(lat) < 23.5 else "temperate" if abs(lat) < 66.5 else "polar",
        # The international standard atmosphere, in hectopascal.
        "pressure": round(1013.25 * (1 - 2.25577e-5 * elevation * 0.3048) ** 5.25588, 1),
        "hub": hub,
        "hub_distance": round(distances[hub]),
    }


def distance(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Kilometres along the great circle (haversine)."""
    (lat1, lon1), (lat2, lon2) = ((math.radians(x), math.radians(y)) for x, y in (here, there))
    a = (
        math.sin((lat2 - lat1) / 2) ** 2
        + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * 6371 * math.asin(math.sqrt(a))


def country_names() -> dict[str, str]:
    """English names by ISO code, from the time zone database."""
    table = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8")
    lines = (line for line in table.splitlines() if not line.startswith("#"))
    names: dict[str, str] = dict(line.split("\t", 1) for line in lines)
    return names


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `manners_of` reads."""
    group = parser.add_argument_group("the service")
    group.add_argument(
        "--delay",
        type=amount,
        default=Manners.delay,
        metavar="SECONDS",
        help="what a request takes; now and then ten times as long (default: %(default)s)",
    )
    group.add_argument(
        "--failures",
        type=amount,
        default=Manners.failures,
        metavar="SHARE",
        help="of the requests are refused with 503 (default: %(default)s)",
    )
    group.add_argument(
        "--outage",
        type=amount,
        default=Manners.outage,
        metavar="SECONDS",
        help="for which it is down, from its 300th request on (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=Manners.seed,
        metavar="NUMBER",
        help="of its moods: the same seed, the same refusals (default: %(default)s)",
    )


def amount(text: str) -> float:
    """A number from 0 on, for options."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


def manners_of(options: argparse.Namespace) -> Manners:
    """How the service shall behave by these options."""
    return Manners(options.delay, options.failures, options.outage, options.seed)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A small, slow and flaky HTTP service.")
    parser.add_argument("--port", type=int, default=8080)
    add_options(parser)
    options = parser.parse_args()
    with (
        running(manners_of(options), options.port) as url,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"serving at {url}, until Ctrl-C", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
