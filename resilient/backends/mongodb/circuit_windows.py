"""What a closed circuit is judged by on MongoDB: its latest outcomes, by number or by time.

The same windows as `resilient.engine.transactional.circuit_windows`, folded over the outcomes of
one operation at the server: the circuit is judged after each of them.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    THIS,
    VALUE,
    added,
    argument,
    both,
    chosen,
    counted,
    either,
    element,
    equal,
    filtered,
    folded,
    is_at_least,
    is_in,
    is_more,
    is_not,
    joined,
    largest,
    let,
    mapped,
    merged,
    smallest,
    subtracted,
    switch,
    texts,
)

__all__ = [
    "after_counted",
    "after_timed",
    "failures_in",
    "has_failed",
    "is_set",
    "rule",
    "runs_of",
    "share",
    "slow_in",
    "succeeded",
    "totals_of",
]

Expression = Any


COUNT = "$$count"
"""How many outcomes are counted together."""
MOST_TOGETHER = 99_999


def rule(name: str) -> Expression:
    """One of the circuit's rules."""
    return argument(f"rules.{name}")


def is_set(value: Expression) -> Expression:
    """Whether there is such a rule."""
    return is_not(equal(value, None))


# --- outcomes


def has_failed(outcome: Expression) -> Expression:
    """Whether this outcome is a failure."""
    return is_in(outcome, ["1", "3", "f"])


def succeeded(outcome: Expression) -> Expression:
    """Whether it is a success: what is under way yet is neither."""
    return is_in(outcome, ["0", "2", "o"])


def _is_slow(outcome: Expression) -> Expression:
    return is_in(outcome, ["2", "3", "s"])


def _is_call(outcome: Expression) -> Expression:
    return is_in(outcome, ["0", "1", "2", "3", "s"])


def _times_in(text: Expression, character: str) -> Expression:
    return subtracted(counted({"$split": [text, character]}), 1)


def failures_in(outcomes: Expression) -> Expression:
    """How many of a text of outcomes are failures."""
    return added(_times_in(outcomes, "1"), _times_in(outcomes, "3"))


def slow_in(outcomes: Expression) -> Expression:
    """How many are slow."""
    return added(_times_in(outcomes, "2"), _times_in(outcomes, "3"))


def share(some: Expression, calls: Expression) -> Expression:
    """The share of some calls."""
    return {"$divide": [some, largest(calls, 1)]}


def totals_of(buckets: Expression, field: str) -> Expression:
    """The sum of a field of all buckets."""
    return folded(buckets, 0, added(VALUE, f"{THIS}.{field}"))


# --- one more outcome


def _last(text: Expression, count: Expression) -> Expression:
    """The last characters of a text."""
    return {"$substrCP": [text, largest(0, subtracted({"$strLenCP": text}, count)), count]}


def _amended(ring: Expression) -> Expression:
    """A ring whose latest slow success was none."""
    pieces = {"$split": [ring, "2"]}
    tail = element("$$pieces", -1)
    head = subtracted({"$strLenCP": ring}, added({"$strLenCP": "$$tail"}, 1))
    return let(
        {"pieces": pieces},
        chosen(
            is_more(counted("$$pieces"), 1),
            let({"tail": tail}, texts({"$substrCP": [ring, 0, head]}, "3", "$$tail")),
            ring,
        ),
    )


def _ring_with(outcome: Expression) -> Expression:
    """The ring of the latest so many outcomes, with one more, or several successes."""
    ring = f"{VALUE}.ring"
    entered = texts(
        ring,
        switch(
            (equal(outcome, "0"), {"$substrBytes": [argument("successes"), 0, COUNT]}),
            (equal(outcome, "s"), "2"),
            default=outcome,
        ),
    )
    return switch(
        (_is_call(outcome), let({"entered": entered}, _last("$$entered", rule("window")))),
        (equal(outcome, "f"), _amended(ring)),
        default=ring,
    )


NUMBER = {"$toLong": {"$floor": {"$divide": [subtracted(NOW, argument("age")), "$$width"]}}}
UNTIL = {"$toLong": {"$floor": {"$multiply": [added("$$number", rule("buckets")), "$$width"]}}}
"""The part of time to which the outcomes belong, and when it leaves the window."""


def _in_time(value: Expression) -> Expression:
    """A value in which `$$number` and `$$leaves` are those of the outcomes' part of time."""
    width = {"$divide": [rule("seconds"), rule("buckets")]}
    return let({"width": width}, let({"number": NUMBER}, let({"leaves": UNTIL}, value)))


def _begun(buckets: Expression) -> Expression:
    """The buckets of the window, with that of the outcomes."""
    new = {"number": "$$number", "until": "$$leaves", "calls": 0, "failures": 0, "slow": 0}
    is_there = is_in("$$number", mapped("$$live", f"{EACH}.number"))
    return let(
        {"live": filtered(buckets, is_more(f"{EACH}.until", NOW))},
        chosen(
            either(is_there, is_not(is_more("$$leaves", NOW))),
            "$$live",
            joined("$$live", [new]),
        ),
    )


def _buckets_with(outcome: Expression) -> Expression:
    """The buckets with one more outcome, or several successes."""
    buckets = f"{VALUE}.buckets"
    has_slow_success = both(
        is_more(f"{EACH}.slow", 0), is_more(f"{EACH}.calls", f"{EACH}.failures")
    )
    latest = largest(mapped(filtered(buckets, has_slow_success), f"{EACH}.number"))
    counts = {
        "calls": added(f"{EACH}.calls", chosen(_is_call(outcome), COUNT, 0)),
        "failures": added(f"{EACH}.failures", chosen(has_failed(outcome), 1, 0)),
        "slow": added(f"{EACH}.slow", chosen(_is_slow(outcome), 1, 0)),
    }
    target = switch((equal(outcome, "f"), latest), (_is_call(outcome), "$$number"), default=None)
    return let(
        {"target": target},
        mapped(buckets, chosen(equal(f"{EACH}.number", "$$target"), merged(EACH, counts), EACH)),
    )


# --- judged after each

RUNS = argument("runs")
"""The outcomes as a text, six characters for each: what it is, and how many in a row. It is no
list, which would be copied whenever one of the arguments is looked at."""
WIDTH = 6
OUTCOME = "$$outcome"


def runs_of(outcomes: str) -> str:
    """Outcomes as the pipelines take them.

    Only successes are taken together, and the first of them never: after it has not opened the
    circuit, the others only lower the shares of what went wrong.
    """
    runs: list[str] = []
    for outcome, group in groupby(outcomes):
        count = len(list(group))
        if outcome != "0":
            runs += [f"{outcome}00001"] * count
            continue
        runs.append("000001")
        while count > 1:
            together = min(count - 1, MOST_TOGETHER)
            runs.append(f"0{together:05}")
            count -= together
    return "".join(runs)


def _verdict(enough: Expression) -> Expression:
    """Why a closed circuit must open by `$$calls` and so on; `""` if it need not."""
    return switch(
        (
            both(is_set(rule("consecutive")), is_at_least("$$consecutive", rule("consecutive"))),
            "consecutive",
        ),
        (is_more(largest(enough, 1), "$$calls"), ""),
        (
            both(
                is_set(rule("failure_rate")),
                is_at_least(share("$$failures", "$$calls"), rule("failure_rate")),
            ),
            "failure_rate",
        ),
        (
            both(
                is_set(rule("slow_rate")),
                is_at_least(share("$$slow", "$$calls"), rule("slow_rate")),
            ),
            "slow_rate",
        ),
        default="",
    )


def _judged(
    window: dict[str, Expression], totals: dict[str, Expression], enough: Expression
) -> Expression:
    """`VALUE` after one more outcome: the window, and what it comes to.

    `used` is how many outcomes were counted: those after a transition belong to calls that were
    admitted before it.
    """
    consecutive = chosen(
        equal(OUTCOME, "s"),
        f"{VALUE}.consecutive",
        chosen(has_failed(OUTCOME), added(f"{VALUE}.consecutive", 1), 0),
    )
    opens = both(
        is_not(equal("$$breach", "")), equal("$state", "closed"), equal(rule("quorum"), None)
    )
    # Several successes may come past the number of calls that is enough: it is judged there too.
    calls, wrong = f"{VALUE}.calls", {n: f"{VALUE}.{n}" for n in ("failures", "slow")}
    is_past = is_more(added(calls, COUNT), "$$enough")
    comes_past = both(is_more(COUNT, 1), is_more("$$enough", calls), is_past)
    on_the_way = let({**wrong, "calls": "$$enough"}, _verdict("$$enough"))
    verdict = let(
        {"on_the_way": chosen(comes_past, on_the_way, "")},
        chosen(equal("$$on_the_way", ""), _verdict("$$enough"), "$$on_the_way"),
    )
    after = let(
        {**totals, "enough": largest(enough, 1)},
        let(
            {"breach": verdict},
            {
                **{name: f"$${name}" for name in totals},
                **{name: f"$${name}" for name in window},
                "consecutive": "$$consecutive",
                "breach": "$$breach",
                "opens": opens,
                "used": added(f"{VALUE}.used", COUNT),
            },
        ),
    )
    run = {
        "outcome": {"$substrBytes": [RUNS, THIS, 1]},
        "count": {"$toInt": {"$substrBytes": [RUNS, added(THIS, 1), WIDTH - 1]}},
    }
    step = let(run, let({**window, "consecutive": consecutive}, after))
    return chosen(f"{VALUE}.opens", VALUE, step)


EACH_RUN = {"$range": [0, {"$strLenBytes": RUNS}, WIDTH]}
START = {"consecutive": "$consecutive", "breach": "$breach", "opens": False, "used": 0}


def _totals_of_ring(ring: Expression) -> dict[str, Expression]:
    return {
        "calls": {"$strLenCP": ring},
        "failures": failures_in(ring),
        "slow": slow_in(ring),
    }


def _totals_of_buckets(buckets: Expression) -> dict[str, Expression]:
    return {name: totals_of(buckets, name) for name in ("calls", "failures", "slow")}


after_counted = let(
    {"before": _last("$outcomes", rule("window"))},
    folded(
        EACH_RUN,
        {**START, **_totals_of_ring("$$before"), "ring": "$$before"},
        _judged(
            {"ring": _ring_with(OUTCOME)},
            _totals_of_ring("$$ring"),
            smallest(rule("min_calls"), rule("window")),
        ),
    ),
)
"""`{"ring", "consecutive", "breach", "opens", "used"}` after all, of a window by number."""

after_timed = _in_time(
    let(
        {"before": _begun("$buckets")},
        folded(
            EACH_RUN,
            {**START, **_totals_of_buckets("$$before"), "buckets": "$$before"},
            _judged(
                {"buckets": _buckets_with(OUTCOME)},
                _totals_of_buckets("$$buckets"),
                rule("min_calls"),
            ),
        ),
    )
)
"""The same of a window by time, with `buckets` instead of the `ring`."""
