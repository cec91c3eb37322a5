"""`@checkpointed`: a killed batch job goes on where it stopped.

`plan` is the policy: become the job's runner, run the body, store its result. `run` is what one
runner knows and saves, `places` where in its loops it is, `job` what the body sees of it, and
`decorator` and `controls` are the two sides of the decorated function.
"""

from resilient.policies.checkpointed.controls import JobCheckpoint, JobStatus
from resilient.policies.checkpointed.decorator import checkpointed
from resilient.policies.checkpointed.job import AsyncJob, Job, current_job
from resilient.policies.checkpointed.progress import Progress

__all__ = [
    "AsyncJob",
    "Job",
    "JobCheckpoint",
    "JobStatus",
    "Progress",
    "checkpointed",
    "current_job",
]
