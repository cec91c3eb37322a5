"""Other versions, other arguments, results and states without a stored form."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

import resilient
from resilient import checkpointed
from tests.support.importing import Flaky, Importing
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


def test_a_version_is_not_resumed_by_another(mode: Mode) -> None:
    """The error names both, stays the same at the next try, and the old version can finish."""
    old, new = Importing(mode, version="1"), Importing(mode, version="2")
    old.fails_at[4] = Flaky()
    with pytest.raises(Flaky):
        mode.call(old.run, "x")
    for _ in range(2):
        with pytest.raises(resilient.ConfigurationError, match=r"version='1'.*version='2'"):
            mode.call(new.run, "x")
    assert new.seen == []
    assert mode.call(old.run, "x") == 10
    assert mode.call(new.run, "x") == 10, "a finished job answers its result"
    mode.call(new.at().forget)
    assert mode.call(new.run, "x") == 10
    assert new.seen == list(range(10))


def test_steps_of_another_version_are_not_used(mode: Mode) -> None:
    """Also where there is no checkpoint yet, and at the second try."""
    fails = [True]

    async def body(job: Any) -> int:
        answer: int = await mode.within(job.step, "s", lambda: 1)
        if fails:
            raise Flaky
        return answer

    old = mode.decorate(checkpointed("k", version="1"), body)
    new = mode.decorate(checkpointed("k", version="2"), body)
    with pytest.raises(Flaky):
        mode.call(old)
    for _ in range(2):
        with pytest.raises(resilient.ConfigurationError, match=r"version='1'.*version='2'"):
            mode.call(new)
    fails.clear()
    assert mode.call(old) == 1


@dataclass
class Lines:
    """What this version counts."""

    lines: int = 0


@dataclass
class Row:
    """What an earlier version has counted by, not by its annotation alone."""

    rows: float = 0


class RowStruct(msgspec.Struct):
    rows: int = 0


class RowModel(pydantic.BaseModel):
    rows: int = 0


@attrs.define
class RowAttrs:
    rows: int = 0


@pytest.mark.parametrize("kind", [Row, RowStruct, RowModel, RowAttrs])
def test_what_another_version_has_saved_is_seen_by_its_fields(
    mode: Mode, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `migrate=`, and by who looks: also where the class of then is no more."""

    async def old_body(job: Any) -> None:
        async for _ in each(job.iterate(range(2))):
            job.state.rows += 1
        raise Flaky

    async def new_body(job: Any) -> int:
        lines: int = job.state.lines
        return lines

    def migrated(fields: Any, version: str) -> Lines:
        return Lines(lines=fields["rows"])

    old = mode.decorate(checkpointed("k", state=kind, version="1"), old_body)
    options: dict[str, Any] = {"state": Lines, "version": "2", "migrate": migrated}
    new = mode.decorate(checkpointed("k", **options), new_body)
    with pytest.raises(Flaky):
        mode.call(old)
    monkeypatch.delattr(sys.modules[__name__], kind.__name__)
    job = checkpointed.of(new).at()
    assert mode.call(job.status).checkpoint.state == {"rows": 2}
    assert [each.state for each in mode.call(job.history)] == [{"rows": 2}]
    assert mode.call(new) == 2


def test_other_arguments_under_the_same_key_are_refused(mode: Mode) -> None:
    """Running, stopped and finished; `fingerprint=()` lets them differ."""

    async def body(job: Any, path: str, limit: int = 3) -> int:
        if limit == 0:
            raise Flaky
        return limit

    decorated = mode.decorate(checkpointed("{path}"), body)
    assert mode.call(decorated, "x") == 3
    assert mode.call(decorated, "x", limit=3) == 3
    with pytest.raises(resilient.FingerprintMismatch, match="'x'"):
        mode.call(decorated, "x", 4)
    with pytest.raises(Flaky):
        mode.call(decorated, "y", 0)
    with pytest.raises(resilient.FingerprintMismatch):
        mode.call(decorated, "y", 1)
    loose = mode.decorate(checkpointed("{path}", fingerprint=()), body)
    assert mode.call(loose, "z", 4) == 4
    assert mode.call(loose, "z", 5) == 4


class Total(pydantic.BaseModel):
    """A result."""

    rows: int


@pytest.mark.parametrize("result", [asyncio.Lock(), Total.__new__(Total)], ids=["Lock", "Total"])
def test_a_result_without_a_stored_form_is_not_computed_again(mode: Mode, result: Any) -> None:
    """The caller gets it; a later one is told that it is not there, and nothing runs.

    So also of one that is half made, which raises when it is looked at.
    """
    runs: list[int] = []

    async def body(job: Any) -> Any:
        runs.append(1)
        return result

    decorated = mode.decorate(checkpointed("k"), body)
    assert mode.call(decorated) is result
    with pytest.raises(resilient.ResultUnavailable, match=type(result).__name__):
        mode.call(decorated)
    assert runs == [1]


def test_a_state_that_became_unstorable_says_so(mode: Mode) -> None:
    """At the item that made it so, by the type; what was done before stays saved."""

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(3))):
            job.state["n"] = item if item < 2 else asyncio.Lock()

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(resilient.CodecError, match="Lock"):
        mode.call(decorated)
    assert mode.call(checkpointed.of(decorated).at().status).checkpoint.state == {"n": 1}


@pytest.mark.parametrize("by_key", [False, True], ids=["in order", "by key"])
def test_an_item_whose_state_was_unstorable_is_not_done(mode: Mode, by_key: bool) -> None:
    """Once that is mended, the job goes on with it: nothing that it adds is left out."""
    unstorable: list[Any] = [asyncio.Lock()]

    async def body(job: Any) -> int:
        job.state.setdefault("sum", 0)
        async for item in each(
            job.iterate(lambda after: range((after or 0) + 1, 5), key=int)
            if by_key
            else job.iterate(range(1, 5))
        ):
            job.state["sum"] += item
            job.state["extra"] = unstorable[0] if item == 3 else None
        answer: int = job.state["sum"]
        return answer

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(resilient.CodecError, match="Lock"):
        mode.call(decorated)
    unstorable[0] = 0
    assert mode.call(decorated) == 1 + 2 + 3 + 4
