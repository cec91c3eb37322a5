"""`@idempotent`: the same request takes effect once, and every caller gets the same answer.

`plan` is the policy; `contest` how a call is claimed, `outcomes` how its outcome is stored and
replayed; `current` is what its body can know, `controls` what else can be done, and `decorator` its
form.
"""

from resilient.policies.idempotent.current import IdempotentCall, current_idempotency
from resilient.policies.idempotent.decorator import idempotent

__all__ = [
    "IdempotentCall",
    "current_idempotency",
    "idempotent",
]
