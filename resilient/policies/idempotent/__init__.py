"""`@idempotent`: the same request takes effect once, and every caller gets the same answer.

`plan` is the policy, `decorator` its form.
"""

from resilient.policies.idempotent.decorator import idempotent

__all__ = ["idempotent"]
