"""Purges that make a backup first, and follow the delete that has moved the database to the trash."""

from ods.model.operations import RULES, Operation
from ods.registry.instances.jobs import InstanceJob, job_id


def following_purge(job: InstanceJob) -> str | None:
    """The id of the purge that follows this delete; None if none does."""
    if not job.rules.to_trash or not job.backup_first:
        return None
    return job_id(RULES[Operation.PURGE].word, job.ods_instance_id, job.number + 1)
