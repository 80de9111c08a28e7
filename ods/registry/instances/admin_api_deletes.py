"""Deletes that an Admin API writes into the table of the instances, which it shares with this service.

It sets the status of a row, and nothing else: which job that asks for is said here.
"""

from dataclasses import asdict, dataclass
from datetime import timedelta

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
from ods.registry.instances.steps import job_values
from ods.registry.instances.versions import name_in_trash
from ods.registry.storage.models import UTC_NOW, DbInstance, Job

_WORD = case(
    (DbInstance.brings_earlier_back, BACK_TO_EARLIER.word),
    *((DbInstance.operation == operation, rules.word) for operation, rules in RULES.items()),
)
"""What clients call the operation of the instance's last job."""
_JOB_ID = func.format("%sInstanceJob-%s-%s", _WORD, DbInstance.ods_instance_id, DbInstance.job_number)
"""The id of that job, as `ods.registry.instances.jobs.job_id` makes it."""

_WAS_THERE = and_(DbInstance.job_number == 1, DbInstance.attempt == 0)
"""Whether `ods migrate` has adopted the row with its delete, on which this service has not worked yet.

The first job of an instance of this service is its create."""


@dataclass(frozen=True)
class AdminApiDeletes:
    """How such deletes are carried out, as those that this service is asked for.

    Attributes:
        trash: how long a deleted instance can come back; zero if its database is dropped at once.
        final_backup: whether it is backed up before it is dropped.
    """

    trash: timedelta
    final_backup: bool

    def to_the_trash(self) -> ColumnElement[bool]:
        """Those that no job is recorded of yet, or that were there, and that move the database to the trash.

        They are those of which `DeleteRules.way` says so: what never had a database, by the
        registry, goes there as well, but not to be backed up. Nothing is decided of one that
        asks for a backup and would keep nothing.
        """
        new = and_(
            DbInstance.status == InstanceStatus.PENDING_DELETE,
            DbInstance.operation == Operation.DELETE,
            ~DbInstance.goes_to_trash,
            DbInstance.is_adopted,
            or_(~is_recorded(), _WAS_THERE, DbInstance.backup_first),
        )
        if self.trash:
            return new
        # A delete that has failed before it may have been requested with a backup.
        backs_up = or_(literal(self.final_backup), DbInstance.backup_first)
        return and_(new, DbInstance.published_at.is_not(None), backs_up)

    def moved_to_trash(self, *conditions: ColumnElement[bool]) -> Update:
        """Let these, or those of them that fulfil the `conditions`, move the databases to the trash.

        For a time, or until they are backed up and dropped, which is requested once they are there. Rows that
        another session has locked are left to the next sweep; no job begins of them before.
        """
        chosen = (
            select(DbInstance.id).where(self.to_the_trash(), *conditions).with_for_update(skip_locked=True)
        )
        kept = DeleteArguments(keep=True, backup_first=not self.trash)
        return (
            update(DbInstance)
            .where(DbInstance.id.in_(chosen))
            .values(
                arguments_column=asdict(kept),
                trash_database=func.coalesce(DbInstance.trash_database, name_in_trash(DbInstance.job_number)),
                purge_after=UTC_NOW + literal(self.trash, Interval) if self.trash else None,
                deleted_by=None,
            )
        )

    def recorded(self) -> Insert:
        """Records the jobs of deletes that wait and are not known to: an Admin API has requested them.

        Rows that another session has locked, as one in which a job begins, are left to the next sweep, as are
        those of which `moved_to_trash` is first.
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
                not_(self.to_the_trash()),
            )
            .with_for_update(skip_locked=True)
        )
        return (
            insert(Job)
            .from_select(list(columns), unknown)
            .on_conflict_do_update(
                index_elements=[Job.job_id],
                set_={"status": waits, "errormessage": None, "finishedat": None},
            )
        )


def overtaken_jobs_ended() -> Update:
    """Records as failed the jobs that an Admin API has overtaken with a delete: no worker can record it.

    An instance has one job at a time, and each step of another one is refused. Rows that another session has
    locked are left to the next sweep.
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
    """Whether the instance's last job has a row of its own, which fulfils the `conditions`."""
    return exists().where(Job.job_id == _JOB_ID, *conditions)
