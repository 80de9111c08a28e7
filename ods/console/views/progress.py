"""How far a job is, as a bar and words show it."""

from dataclasses import dataclass

from api.schemas.instances import Instance
from ods.console.texts import t
from ods.registry.instances.job_list import JobState

_MOST = 99
"""Percent of a job that goes on."""


@dataclass(frozen=True)
class ProgressView:
    """What is under way.

    Attributes:
        phase: what is done, in words; or what the job waits for.
        percent: how far it is; None if that is not known.
        seconds_left: about how long it will take from now on; None if that is not known.
    """

    phase: str
    percent: int | None = None
    seconds_left: float | None = None


def progress_of(instance: Instance, job: JobState | None) -> ProgressView | None:
    """How far the instance's job is; None if none waits or runs.

    Args:
        instance: the instance.
        job: the state of its job.
    """
    progress = instance.progress
    if progress is None:
        return None
    if instance.waiting is not None:
        return ProgressView(t("progress.waits", reason=instance.waiting.reason))
    if job is not None and job.percent is not None:
        return ProgressView(progress.phase, job.percent, job.eta_seconds)
    usual = progress.estimated_seconds
    if not usual:
        return ProgressView(progress.phase)
    percent = min(_MOST, round(100 * progress.elapsed_seconds / usual))
    left = usual - progress.elapsed_seconds
    return ProgressView(progress.phase, percent, left if left > 0 else None)
