"""What a job works on, in the terms of the code that works on databases."""

from dataclasses import replace

from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.replacing import Exchange
from ods.databases.retiring import TrashJob
from ods.registry.instances.jobs import InstanceJob, Replacement


def owner_of(job: InstanceJob) -> Owner:
    """The instance of the job; only the registry knows the revisions of its databases (`Position.known`)."""
    its = (job.tenant, job.ods_instance_id, job.job_id, job.mark, job.installation, job.number)
    return Owner(*its, database_id=job.database_id, name=job.name, template=job.template)


def exchange_of(job: InstanceJob, owner: KnownOwner) -> Exchange:
    """Which database of the job's instance takes the place of which, for a reset or its undo."""
    replacement = replacement_of(job)
    return Exchange(
        current=owner,
        successor=replace(owner.of_database(replacement.database_id), template=replacement.template),
        database=job.database,
        other=replacement.database,
        replaced=job.trash_database,
        from_trash=replacement.from_trash,
    )


def replacement_of(job: InstanceJob) -> Replacement:
    """Which database takes the place of the instance's by the job."""
    if job.replacement is None:
        raise DatabaseFaultError("The registry does not say which database takes the place of another.")
    return job.replacement


def trash_job(job: InstanceJob, owner: KnownOwner) -> TrashJob:
    """What the job moves to the trash."""
    names = [name for name in job.databases if name != job.trash_database]
    return TrashJob(owner, names, job.trash_database)
