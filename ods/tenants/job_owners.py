"""What a job works on, in the terms of the code that works on databases."""

from dataclasses import replace

from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.replacing import Exchange
from ods.databases.trash import TrashJob
from ods.registry.instances.jobs import InstanceJob, Replacement


def owner_of(job: InstanceJob) -> Owner:
    """The instance of the job, and the latest attempt that can have published its database.

    Which requests can have done so, only the instance's row tells: see `Position.requests`.
    """
    number, attempt = job.publication
    return Owner(
        *(job.tenant, job.ods_instance_id, job.job_id, job.mark, number, attempt, job.installation),
        database_mark=job.database_mark,
    )


def exchange_of(job: InstanceJob, owner: KnownOwner) -> Exchange:
    """Which database of the job's instance takes the place of which, for a reset or its undo.

    Raises:
        DatabaseFaultError: the job has no replacement, for its row was changed by hand.
    """
    replacement = replacement_of(job)
    return Exchange(
        current=replace(owner, number=replacement.known_number, attempt=replacement.known_attempt),
        successor=replace(
            owner,
            number=replacement.trashed_number or 0,
            attempt=replacement.trashed_attempt or 0,
            database_mark=replacement.mark,
        ),
        job_id=job.job_id,
        number=job.number,
        attempt=job.attempt,
        database=job.database,
        other=replacement.database,
        replaced=replacement.replaced,
        from_trash=replacement.trashed_number is not None,
    )


def replacement_of(job: InstanceJob) -> Replacement:
    """Which database takes the place of the instance's by the job.

    Raises:
        DatabaseFaultError: the job has no replacement, for its row was changed by hand.
    """
    if job.replacement is None:
        raise DatabaseFaultError("The registry does not say which database takes the place of another.")
    return job.replacement


def trash_job(job: InstanceJob, owner: KnownOwner) -> TrashJob:
    """What the job moves to the trash.

    Raises:
        DatabaseFaultError: the job has no name in the trash, for its row was changed by hand.
    """
    names = [name for name in job.databases if name != job.trash_database]
    return TrashJob(owner, job.number, job.attempt, names, trash_database(job))


def trash_database(job: InstanceJob) -> str:
    """The name of the job's database in the trash.

    Raises:
        DatabaseFaultError: the job has none, for its row was changed by hand.
    """
    if job.trash_database is None:
        raise DatabaseFaultError("The registry has no name in the trash for the instance's database.")
    return job.trash_database
