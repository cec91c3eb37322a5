"""Resumable jobs against their model."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import LEASES, Machine, World
from resilient.testing.conformance.models.answers import ANYTHING
from resilient.testing.conformance.models.checkpoints import (
    Checkpoint,
    CheckpointModel,
    Started,
)

__all__ = ["CheckpointMachine"]

TASKS = st.sampled_from(["a", "a", "b"])
OWNERS = st.sampled_from(["ann", "bob"])
TTL = 86400.0
DATA = st.sampled_from([b"", b"state", b"\x00\xff\n"]).map(Encoded)
KEEP = st.integers(1, 3)
WRITERS = st.sampled_from(["runner", "runner", "last", "stale"])
"""Who writes: a live runner (one is started if there is none), the last one whatever has become of
it, or one that somebody else has replaced."""


class CheckpointMachine(Machine):
    """Two runners, few jobs; every fence that was ever given is tried again."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = CheckpointModel()
        self._fences: dict[str, list[int]] = defaultdict(list)
        """Of each job, the model's fences, the newest last."""

    @rule(
        task=TASKS,
        owner=OWNERS,
        lease=LEASES,
        version=st.sampled_from(["1", "2"]),
        fingerprint=st.sampled_from(["x", "x", "x", "y", ""]),
        rerun=st.sampled_from([False, False, True]),
        times=st.integers(1, 2),
    )
    def start(
        self, task: str, owner: str, lease: float, version: str, fingerprint: str, rerun: bool,
        times: int,
    ) -> None:  # fmt: skip
        self._start(self.name(task), owner, lease, version, fingerprint, rerun, times)

    def _start(
        self, task: str, owner: str, lease: float, version: str, fingerprint: str, rerun: bool,
        times: int,
    ) -> None:  # fmt: skip
        if not self.model.fingerprint(task):
            fingerprint = "x"  # what an empty one becomes later is left open
        if self.model.owner(task) == owner:
            if self.model.state(task) == "expired":
                return  # whether that is the same run or the next is left open
            version = self.model.version(task)
        for _ in range(times):
            expected = self.model.start(
                task, owner=owner, lease=lease, ttl=TTL, version=version,
                fingerprint=fingerprint, rerun=rerun,
            )  # fmt: skip
            actual = self.ask(
                self.store.start(
                    task, owner=owner, lease=lease, ttl=TTL, version=version,
                    fingerprint=fingerprint, rerun=rerun,
                )
            )  # fmt: skip
            self.agree(task, expected, actual)
            if isinstance(expected, Started) and expected.fence not in self._fences[task]:
                self._fences[task].append(expected.fence)

    @rule(task=TASKS, owner=OWNERS, lease=LEASES)
    def renew(self, task: str, owner: str, lease: float) -> None:
        task = self.name(task)
        expected = self.model.renew(task, owner=owner, lease=lease)
        actual = self.ask(self.store.renew(task, owner=owner, lease=lease))
        self.agree(task, expected, actual)
        if expected is ANYTHING:
            self._forget(task)

    @rule(
        task=TASKS,
        data=DATA,
        writer=WRITERS,
        numbered=st.booleans(),
        progress=st.sampled_from([None, 0.0, 12.5, 100.0]),
        eta=st.sampled_from([None, 3.25]),
        label=st.sampled_from(["", "half\nway"]),
        keep=KEEP,
        times=st.integers(1, 2),
    )
    def save(
        self, task: str, data: Encoded, writer: str, numbered: bool, progress: float | None,
        eta: float | None, label: str, keep: int, times: int,
    ) -> None:  # fmt: skip
        task = self.name(task)
        mine, theirs = self._fence(task, writer)
        if mine > 0 and self.model.state(task) not in ("running", "absent"):
            return  # whether a run that has ended, or run out, may still save is left open
        number = self.model.sequence(task) + 1 if numbered else None
        for _ in range(times if numbered else 1):
            expected = self.model.save(
                task, data, fence=mine, sequence=number, progress=progress, eta=eta, label=label,
                keep=keep, ttl=TTL, lease=None,
            )  # fmt: skip
            actual = self.ask(
                self.store.save(
                    task, data, fence=theirs, sequence=number, progress=progress,
                    eta=eta, label=label, keep=keep, ttl=TTL, lease=None,
                )
            )  # fmt: skip
            self._agree_on_saved(task, expected, actual)

    @rule(task=TASKS, data=DATA, keep=KEEP)
    def save_by_hand(self, task: str, data: Encoded, keep: int) -> None:
        task = self.name(task)
        if self.model.state(task) not in ("absent", "idle", "running"):
            return
        expected = self.model.save(
            task, data, fence=None, sequence=None, progress=None, eta=None, label="",
            keep=keep, ttl=TTL, lease=None,
        )  # fmt: skip
        actual = self.ask(self.store.save(task, data, keep=keep, ttl=TTL))
        self._agree_on_saved(task, expected, actual)

    @rule(
        task=TASKS,
        name=st.sampled_from(["one", "two: with % and {braces}"]),
        value=DATA,
        writer=WRITERS,
        lease=st.none() | LEASES,
    )
    def step(self, task: str, name: str, value: Encoded, writer: str, lease: float | None) -> None:
        task = self.name(task)
        mine, theirs = self._fence(task, writer)
        if mine > 0 and self.model.state(task) not in ("running", "absent"):
            return
        expected = self.model.step(task, name, value, fence=mine, ttl=TTL, lease=lease)
        actual = self.ask(self.store.step(task, name, value, fence=theirs, ttl=TTL, lease=lease))
        self.agree(task, expected, actual)

    @rule(
        task=TASKS,
        result=DATA,
        writer=WRITERS,
        times=st.integers(1, 2),
    )
    def finish(self, task: str, result: Encoded, writer: str, times: int) -> None:
        task = self.name(task)
        mine, theirs = self._fence(task, writer)
        if mine > 0 and self.model.state(task) in ("idle", "expired"):
            return
        for _ in range(times):
            expected = self.model.finish(task, result, fence=mine, ttl=TTL)
            actual = self.ask(self.store.finish(task, result, fence=theirs, ttl=TTL))
            self.agree(task, expected, actual)

    @rule(task=TASKS, owner=OWNERS)
    def stop(self, task: str, owner: str) -> None:
        task = self.name(task)
        expected = self.model.stop(task, owner=owner)
        self.agree(task, expected, self.ask(self.store.stop(task, owner=owner)))
        if expected is ANYTHING and self.model.state(task) == "expired":
            self._forget(task)

    @rule(task=TASKS)
    def runner(self, task: str) -> None:
        task = self.name(task)
        expected = self.model.runner(task)
        self.agree(task, expected, self.ask(self.store.runner(task)))

    @rule(task=TASKS)
    def cancel(self, task: str) -> None:
        task = self.name(task)
        expected = self.model.cancel(task)
        self.agree(task, expected, self.ask(self.store.cancel(task)))

    @rule(task=TASKS, sequence=st.integers(1, 4), ends=st.booleans())
    def rewind(self, task: str, sequence: int, ends: bool) -> None:
        task = self.name(task)
        if ends and (owner := self.model.owner(task)) is not None:
            self.ask(self.store.stop(task, owner=owner))
            self.model.stop(task, owner=owner)
        if self.model.state(task) == "expired":
            return  # a lease that has run out here may have done so a moment later there
        expected = self.model.rewind(task, sequence)
        self.agree(task, expected, self.ask(self.store.rewind(task, sequence)))

    @rule(task=TASKS)
    def steps(self, task: str) -> None:
        task = self.name(task)
        expected = self.model.steps(task)
        self.agree(task, expected, dict(self.ask(self.store.steps(task))))

    @rule(task=TASKS)
    def latest(self, task: str) -> None:
        task = self.name(task)
        expected = self.model.latest(task)
        self.agree(task, expected, self.ask(self.store.latest(task)))

    @rule(task=TASKS, sequence=st.integers(0, 8))
    def load(self, task: str, sequence: int) -> None:
        task = self.name(task)
        expected = self.model.load(task, sequence)
        self.agree(task, expected, self.ask(self.store.load(task, sequence)))

    @rule(task=TASKS)
    def history(self, task: str) -> None:
        task = self.name(task)
        expected = self.model.list(task)
        self.agree(task, expected, self.ask(self.store.list(task)))

    @rule(task=TASKS, keep=KEEP)
    def trim(self, task: str, keep: int) -> None:
        task = self.name(task)
        expected = self.model.trim(task, keep=keep)
        assert self.ask(self.store.trim(task, keep=keep)) == expected

    @rule(task=TASKS)
    def delete(self, task: str) -> None:
        self._forget(self.name(task))

    def _forget(self, task: str) -> None:
        expected = self.model.delete(task)
        self.agree(task, expected, self.ask(self.store.delete(task)))

    def _fence(self, task: str, writer: str) -> tuple[int, int]:
        """The model's and the store's fence of a writer; the model's is negative if it is stale."""
        known = self._fences[task]
        if writer == "runner" and self.model.state(task) != "running":
            self._run(task)
        if writer == "stale" and len(known) < 2:
            self._run(task)
            self.ask(self.store.stop(task, owner=self.model.owner(task)))
            self.model.stop(task, owner=self.model.owner(task))
            self._run(task)
        if not known:
            return -1, 1
        if writer == "stale":
            return -1, self.numbers(task)[known[-2]]
        return known[-1], self.numbers(task)[known[-1]]

    def _run(self, task: str) -> None:
        """See to it that the job has a live runner."""
        owner = self.model.owner(task)
        other = "bob" if owner == "ann" else "ann"
        self._start(task, other, 200.0, "1", "x", rerun=True, times=1)

    def _agree_on_saved(
        self, task: str, expected: Checkpoint | None, actual: Checkpoint | None
    ) -> None:
        """A store need not read back the data that it has just been given."""
        if expected is not None and actual is not None and actual.data == b"":
            expected = expected._replace(data=ANYTHING)
        self.agree(task, expected, actual)
