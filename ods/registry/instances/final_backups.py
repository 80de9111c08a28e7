"""Purges that make a backup first, and follow the delete that has moved the database to the trash."""

from datetime import timedelta

from ods.registry.instances.jobs import InstanceJob, job_id
from ods.registry.instances.status import Operation

NEVER_BY_ITSELF = timedelta(days=36_500)
"""How long a database is in the trash whose purge is requested together with its delete.

A worker of an earlier release, which does not know that, drops without a backup what is due.
"""


def following_purge(job: InstanceJob) -> str | None:
    """The id of the purge that follows this delete; None if none does."""
    if not job.purge_follows:
        return None
    return job_id(Operation.PURGE_AFTER_BACKUP, job.ods_instance_id, job.number + 1)
