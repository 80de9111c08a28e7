"""Purges that make a backup first, and follow the delete that has moved the database to the trash."""

from ods.registry.instances.jobs import InstanceJob, job_id
from ods.registry.instances.status import Operation


def following_purge(job: InstanceJob) -> str | None:
    """The id of the purge that follows this delete; None if none does."""
    if not job.purge_follows:
        return None
    return job_id(Operation.PURGE_AFTER_BACKUP, job.ods_instance_id, job.number + 1)
