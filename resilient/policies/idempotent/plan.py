"""The idempotent call, as a plan: claim, run, complete; or wait, and replay.

The claim is a lease. Its owner completes it with the call's outcome, and every write names the
owner, so that one that was taken over changes nothing. Duplicates wait for the outcome and are
woken by it, those of one process together. A result that has no stored form completes the call all
the same: it has taken effect, and must not run again.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from resilient import events
from resilient.engine import clock, identity
from resilient.engine.guard import guarded
from resilient.engine.joining import joined
from resilient.engine.persistence import asked_again
from resilient.engine.plan import NOW, Body, Plan
from resilient.engine.waiting import tried
from resilient.errors import BackendError, CallInProgress, LeaseLost
from resilient.policies.idempotent.at_hand import AtHand, outcomes_at_hand
from resilient.policies.idempotent.contest import Answer, ClaimContest
from resilient.policies.idempotent.current import Claim, current
from resilient.policies.idempotent.outcomes import replayed, stored, stored_error, unknown, unlike
from resilient.policies.idempotent.settings import POLICY, Settings
from resilient.protocols.idempotency import (
    Claimed,
    Completed,
    IdempotencyStore,
    InProgress,
    Unknown,
)
from resilient.protocols.values import Encoded

__all__ = ["once"]


async def once(settings: Settings, key: str, fingerprint: str) -> Any:
    """Run the body if nobody has, else answer what it answered.

    In one piece: each coroutine around the body is gone through twice in every call.
    """
    backend = settings.source.backend()
    if backend is None:
        return await Body()
    at_hand: AtHand | None = None
    if settings.local is not None:
        at_hand = AtHand(outcomes_at_hand(settings, backend, settings.local), key, fingerprint)
        if (found := at_hand.find()) is not None:
            known, outcome = found
            if fingerprint and known and fingerprint != known:
                raise unlike(settings, key)
            return replayed(settings, key, outcome)
    store = backend.idempotency
    assert store is not None  # its source has looked
    began, owner = clock.now(), identity.new_owner()
    contest = ClaimContest(settings, store, key, owner, fingerprint, backend.max_ttl)
    wait, parties = settings.wait, backend.parties
    answer: Answer
    try:
        if wait != 0 and parties.waits_for(contest):
            began, answer = await joined(contest, parties, backend.hub, wait, began)
        else:
            began, answer = await tried(contest, began)
            if type(answer) is InProgress:
                if wait == 0:
                    raise contest.refusal(answer, 0.0)
                began, answer = await joined(contest, parties, backend.hub, wait, began)
    except CallInProgress:
        if settings.skip:
            return settings.skipped
        raise
    except BackendError as error:
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble(POLICY, key, error))
        return await Body()
    if type(answer) is not Claimed:
        if type(answer) is Completed:
            if at_hand is not None:
                at_hand.keep(began, answer)
            return replayed(settings, key, answer)
        raise unknown(settings, key, answer) if type(answer) is Unknown else unlike(settings, key)
    if answer.takeover:
        events.emit(events.CallTakenOver(key, answer.attempt))
    heartbeat = backend.heartbeat
    claim = Claim("call", key, owner, answer.fence, settings.lease, began, store, heartbeat)
    claim.answer = answer
    claim.kept = contest.ttl
    try:
        claim.keep()
        outer = current.get()
        try:
            current.set(claim)
            result = await Body(None, claim, True)
        except BaseException as error:
            current.set(outer)
            if isinstance(error, settings.replay_errors):
                await complete(settings, store, claim, at_hand, *stored_error(error))
            else:
                claim.drop()  # first: a plan that is closed here goes no further than it asks
                await given_up(settings, store, claim, error)
            raise
        current.set(outer)
        await complete(settings, store, claim, at_hand, *stored(settings.codec, result))
        return result
    finally:
        heartbeat.leases.discard(claim)  # wherever this is interrupted, nothing renews it for ever


async def given_up(
    settings: Settings, store: IdempotencyStore, claim: Claim, error: BaseException
) -> None:
    """Let the next caller make a call that failed, or that was interrupted, without waiting."""
    interrupted = not isinstance(error, Exception)
    if claim.inherited or (interrupted and not settings.frees_on_cancel):
        return
    with suppress(BackendError):
        await store.abandon(claim.key, owner=claim.owner)


async def complete(
    settings: Settings,
    store: IdempotencyStore,
    claim: Claim,
    at_hand: AtHand | None,
    outcome: str,
    result: Encoded,
) -> None:
    """Complete the claim with an outcome; `LeaseLost` if it is no longer the caller's.

    The call has taken effect: from here on nothing gives the claim up, whatever happens.
    """
    if claim.inherited:
        raise claim.error()
    began = 0.0 if at_hand is None else await NOW
    try:
        try:
            accepted = await _completion(store, claim, outcome, result)
        except BackendError as error:
            # For as long as nobody else may claim the call.
            ask = partial(_completion, store, claim, outcome, result)
            accepted = await asked_again(error, ask, until=claim.deadline)
    except BackendError as error:
        error.add_note(
            f"{settings.name} has taken effect under the idempotency key {claim.key!r}, "
            "but that could not be recorded"
        )
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble(POLICY, claim.key, error))
        return
    except LeaseLost:
        # A lock around the call was lost, and refuses its outcome.
        with suppress(BackendError):
            await store.abandon(claim.key, owner=claim.owner)
        raise
    except Exception:
        raise
    except BaseException:
        # Interrupted, perhaps before the request was sent: once more, which changes nothing else.
        with suppress(BackendError, LeaseLost):
            await _completion(store, claim, outcome, result)
        raise
    if not accepted:
        claim.lose("another caller has taken the call over")
        raise claim.error()
    if at_hand is not None:
        at_hand.keep(began, Completed(outcome, result, claim.kept, claim.answer.attempt))


def _completion(store: IdempotencyStore, claim: Claim, outcome: str, result: Encoded) -> Plan[bool]:
    return guarded(
        lambda: store.complete(
            claim.key, owner=claim.owner, result=result, ttl=claim.kept, outcome=outcome
        )
    )
