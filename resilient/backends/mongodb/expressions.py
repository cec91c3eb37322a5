"""Aggregation expressions, written so that a pipeline can be read.

An expression is what the server evaluates: `"$field"` of the document as the stage before has left
it, `"$$p.name"` an argument, `"$$each"` an element of a list. Every helper makes one operator.
https://www.mongodb.com/docs/manual/reference/operator/aggregation/

Times are microseconds of the server's clock, as numbers: dates are made for the TTL index only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "EACH",
    "NOW",
    "THIS",
    "VALUE",
    "added",
    "any_of",
    "argument",
    "both",
    "changed_if",
    "chosen",
    "counted",
    "either",
    "element",
    "equal",
    "filtered",
    "first",
    "folded",
    "is_at_least",
    "is_in",
    "is_more",
    "is_not",
    "joined",
    "largest",
    "let",
    "mapped",
    "merged",
    "or_else",
    "put",
    "rest",
    "smallest",
    "subtracted",
    "switch",
    "text",
    "texts",
    "unset",
    "when_gone",
]

Expression = Any
"""What the server evaluates; a plain value stands for itself."""

NOW: Expression = {"$multiply": [{"$toLong": "$$NOW"}, 1000]}
"""The server's time in µs; the same in all stages of a command."""
EACH = "$$each"
"""The element, in `filtered` and `mapped`."""
VALUE, THIS = "$$value", "$$this"
"""What `folded` has so far, and its next element."""


# --- stages


def put(**fields: Expression) -> dict[str, Any]:
    """A stage that sets fields. All of them are made of the document as it was before."""
    return {"$set": fields}


def unset(*fields: str) -> dict[str, Any]:
    """A stage that removes fields."""
    return {"$unset": list(fields)}


# --- values


def argument(name: str) -> Expression:
    """An argument of the command."""
    return f"$$p.{name}"


def or_else(value: Expression, default: Expression) -> Expression:
    """The value; the default if it is null or not there."""
    return {"$ifNull": [value, default]}


def chosen(condition: Expression, then: Expression, otherwise: Expression) -> Expression:
    """One of the two."""
    return {"$cond": [condition, then, otherwise]}


def changed_if(condition: Expression, field: str, value: Expression) -> Expression:
    """The value for a field of the document; if the condition does not hold, what it has."""
    return chosen(condition, value, f"${field}")


def switch(*cases: tuple[Expression, Expression], default: Expression) -> Expression:
    """The value of the first case that is true."""
    return {
        "$switch": {
            "branches": [{"case": case, "then": then} for case, then in cases],
            "default": default,
        }
    }


def let(variables: Mapping[str, Expression], value: Expression) -> Expression:
    """The value, in which `$$name` stands for each of the variables."""
    return {"$let": {"vars": dict(variables), "in": value}}


# --- conditions


def equal(one: Expression, other: Expression) -> Expression:
    """Whether both are the same."""
    return {"$eq": [one, other]}


def is_more(one: Expression, other: Expression) -> Expression:
    """Whether the first is larger. What is not there is smaller than any number."""
    return {"$gt": [one, other]}


def is_at_least(one: Expression, other: Expression) -> Expression:
    """Whether the first is as large, or larger."""
    return {"$gte": [one, other]}


def both(*conditions: Expression) -> Expression:
    """Whether all of them hold."""
    return {"$and": list(conditions)}


def either(*conditions: Expression) -> Expression:
    """Whether one of them holds."""
    return {"$or": list(conditions)}


def is_not(condition: Expression) -> Expression:
    """Whether it does not hold."""
    return {"$not": [condition]}


def is_in(value: Expression, elements: Expression) -> Expression:
    """Whether it is one of the elements."""
    return {"$in": [value, elements]}


# --- numbers and texts


def added(*numbers: Expression) -> Expression:
    """The sum."""
    return {"$add": list(numbers)}


def subtracted(one: Expression, other: Expression) -> Expression:
    """The difference."""
    return {"$subtract": [one, other]}


def largest(*numbers: Expression) -> Expression:
    """The largest of them, or of the elements of a list."""
    return {"$max": numbers[0] if len(numbers) == 1 else list(numbers)}


def smallest(*numbers: Expression) -> Expression:
    """The smallest of them, or of the elements of a list."""
    return {"$min": numbers[0] if len(numbers) == 1 else list(numbers)}


def text(value: Expression) -> Expression:
    """A number as a text."""
    return {"$toString": value}


def texts(*parts: Expression) -> Expression:
    """Texts, one after the other."""
    return {"$concat": list(parts)}


def when_gone(until: Expression, memory: float = 0.0) -> Expression:
    """The date, for the TTL index, of a time in µs and so many seconds."""
    milliseconds = {"$toLong": {"$divide": [until, 1000]}}
    return {"$toDate": added(milliseconds, round(memory * 1000))}


# --- lists and documents


def counted(elements: Expression) -> Expression:
    """How many there are."""
    return {"$size": elements}


def element(elements: Expression, index: Expression) -> Expression:
    """One of them."""
    return {"$arrayElemAt": [elements, index]}


def first(elements: Expression) -> Expression:
    """The first of them; nothing if there is none."""
    return element(elements, 0)


def rest(elements: Expression) -> Expression:
    """All but the first."""
    return {"$slice": [elements, 1, {"$max": [1, {"$size": elements}]}]}


def last(elements: Expression, most: int) -> Expression:
    """No more than so many of a list, the last ones."""
    return {"$slice": [elements, -most]}


def joined(*lists: Expression) -> Expression:
    """One list of several; a Python list of expressions is one of its own."""
    return {"$concatArrays": list(lists)}


def filtered(elements: Expression, condition: Expression) -> Expression:
    """Those for which the condition on `EACH` holds."""
    return {"$filter": {"input": elements, "as": "each", "cond": condition}}


def mapped(elements: Expression, value: Expression) -> Expression:
    """What is made of `EACH`."""
    return {"$map": {"input": elements, "as": "each", "in": value}}


def any_of(elements: Expression, condition: Expression) -> Expression:
    """Whether the condition holds for one of them."""
    return {"$anyElementTrue": [mapped(elements, condition)]}


def folded(elements: Expression, start: Expression, step: Expression) -> Expression:
    """`VALUE` after every step with `THIS`, from the start on."""
    return {"$reduce": {"input": elements, "initialValue": start, "in": step}}


def merged(*documents: Expression) -> Expression:
    """One document with the fields of several; later ones count."""
    return {"$mergeObjects": list(documents)}
