"""The steps of jobs and passes, as Temporal runs them.

What every step may meet is said here once:

* `step` (`activities/errors.py`) makes an activity that translates its faults. While the registry, the server
  or the store of backups is away, full or read-only, that is an error of type `Outage`: the workflow waits,
  and the job loses no attempt. So is an installation that must be confirmed, and a right that is missing.
  Another fault has the name of its class as its type, and is an answer about the job.
* A step behind the fence of an instance (`activities/job_fence.py`) ends with `SupersededError` if the
  instance has moved on to another job or attempt, and with `JobCancelledError` if a client has cancelled it.
* What a step is done to may be another instance's (`NotOursError`), or may not be what the registry knows
  (`DisagreementError`): nothing is changed then.

The docstring of a step says only what is particular to it. All are safe to repeat.
"""
