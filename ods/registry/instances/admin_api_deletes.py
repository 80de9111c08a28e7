"""Deletes that an Admin API requests by writing `Pending_Delete` into a row of the shared table.

It writes nothing else. This module derives the job that carries out such a delete.
"""

from dataclasses import asdict

from sqlalchemy import (
    ColumnElement,
    Interval,
    Update,
    and_,
    case,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from ods.model.arguments import DeleteArguments
from ods.model.operations import BACK_TO_EARLIER, JOB_UNDER_WAY, RULES, InstanceStatus, JobStatus, Operation
from ods.registry.instances.deletes import DeleteRules
from ods.registry.instances.steps import job_values
from ods.registry.storage.models import UTC_NOW, DbInstance, InstanceDatabase, Job

_WORD = case(
    (DbInstance.brings_earlier_back, BACK_TO_EARLIER.word),
    *((DbInstance.operation == operation, rules.word) for operation, rules in RULES.items()),
)
"""The name that clients know for the operation of the instance's last job."""
_JOB_ID = func.format("%sInstanceJob-%s-%s", _WORD, DbInstance.ods_instance_id, DbInstance.job_number)
"""The id of that job, as `ods.registry.instances.jobs.job_id` makes it."""

_WAS_THERE = and_(DbInstance.job_number == 1, DbInstance.attempt == 0)
"""`ods migrate` has adopted the row with its delete; the first job of any other instance is its create."""


def to_the_trash(rules: DeleteRules) -> ColumnElement[bool]:
    """Whether the delete moves the database to the trash, and is not yet recorded as one that does.

    As in `DeleteRules.way`, an instance without a database goes to the trash too, but is not backed up. A
    recorded delete counts if it asks for a backup and would keep nothing.
    """
    new = and_(
        DbInstance.status == InstanceStatus.PENDING_DELETE,
        DbInstance.operation == Operation.DELETE,
        ~DbInstance.goes_to_trash,
        DbInstance.is_adopted,
        or_(~is_recorded(), _WAS_THERE, DbInstance.backup_first),
    )
    if rules.trash:
        return new
    # An earlier delete, which has failed, may have been requested with a backup.
    backs_up = or_(literal(rules.final_backup), DbInstance.backup_first)
    return and_(new, DbInstance.is_published, backs_up)


def moved_to_trash(rules: DeleteRules, *conditions: ColumnElement[bool]) -> Update:
    """Record that these deletes, if they fulfil the `conditions`, move their databases to the trash.

    They stay there as long as the `rules` say; without a trash, until the purge that follows has backed them
    up and drops them. Rows locked by another session wait for the next sweep, and their jobs with them.
    """
    chosen = select(DbInstance.id).where(to_the_trash(rules), *conditions).with_for_update(skip_locked=True)
    kept = DeleteArguments(keep=True, backup_first=not rules.trash)
    moved = (
        update(DbInstance)
        .where(DbInstance.id.in_(chosen))
        .values(arguments_column=asdict(kept))
        .returning(DbInstance.id.label("instance"), DbInstance.database_id.label("database"))
        .cte("moved")
    )
    its = InstanceDatabase.instance_id == moved.c.instance, InstanceDatabase.database_id == moved.c.database
    purge_after = UTC_NOW + literal(rules.trash, Interval) if rules.trash else None
    return update(InstanceDatabase).where(*its).values(purge_after=purge_after, trashed_by=None)


def recorded(rules: DeleteRules) -> Insert:
    """Record the jobs of deletes that wait and have no job yet.

    Rows locked by another session (a job may be beginning) wait for the next sweep, and so do those that
    `moved_to_trash` must handle first.
    """
    waits = literal(JobStatus.PENDING.value)
    columns = {
        Job.job_id: _JOB_ID,
        Job.status: waits,
        Job.created_at: UTC_NOW,
        Job.instance_id: DbInstance.id,
        Job.operation: _WORD,
        Job.database_template: DbInstance.database_template,
    }
    known = select(Job.id).where(Job.job_id == _JOB_ID, Job.status != JobStatus.PENDING)
    ended = exists(known.correlate(DbInstance).with_for_update(skip_locked=True))
    unknown = (
        select(*columns.values())
        .where(
            DbInstance.status == InstanceStatus.PENDING_DELETE,
            DbInstance.is_adopted,
            or_(~is_recorded(), ended),
            not_(to_the_trash(rules)),
        )
        .with_for_update(skip_locked=True)
    )
    return (
        insert(Job)
        .from_select(list(columns), unknown)
        .on_conflict_do_update(
            index_elements=[Job.job_id], set_={"status": waits, "errormessage": None, "finishedat": None}
        )
    )


def overtaken_jobs_ended() -> Update:
    """Record as failed the jobs of instances whose delete an Admin API has requested meanwhile.

    Each step of theirs is refused, so no worker can. Rows locked by another session wait for the next sweep.
    """
    overtaken = (
        select(Job.id)
        .join(DbInstance, Job.instance_id == DbInstance.id)
        .where(
            Job.status.in_(JOB_UNDER_WAY),
            DbInstance.is_adopted,
            Job.job_id.regexp_match(r"^[A-Za-z]+InstanceJob-\d+-\d+$"),
            Job.job_id != _JOB_ID,
        )
        .with_for_update(of=Job, skip_locked=True)
    )
    ended = job_values(JobStatus.ERROR, "Another product has requested a delete of the instance meanwhile.")
    return update(Job).where(Job.id.in_(overtaken)).values(**ended)


def is_recorded(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the instance's last job has a row of its own that fulfils the `conditions`."""
    return exists().where(Job.job_id == _JOB_ID, *conditions)
