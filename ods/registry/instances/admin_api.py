"""What an Admin API writes into the table of the instances, which it shares, while this service runs.

It deletes an instance by writing `Pending_Delete` into its row, and nothing else: the job that carries out
such a delete is derived here. It adds rows: a pass adopts them, as `ods migrate` does, so that each gets what
an instance of ours has, and a job. If something prevents that, the pass writes it into `errormessage` and
leaves the row to the Admin API.
"""

from collections.abc import Collection
from dataclasses import asdict
from datetime import timedelta
from http import HTTPStatus

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
    text,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.arguments import DeleteArguments
from ods.model.operations import (
    AT_REST,
    BACK_TO_EARLIER,
    JOB_UNDER_WAY,
    RULES,
    WAITING,
    InstanceStatus,
    JobStatus,
    Operation,
)
from ods.registry.audit import AuditEntry, append
from ods.registry.instances.deletes import DeleteRules
from ods.registry.instances.naming import database_name
from ods.registry.instances.reservations import require_free_database, reserved_id
from ods.registry.instances.steps import job_values
from ods.registry.storage.errors import NameTakenError
from ods.registry.storage.models import UTC_NOW, DbInstance, InstanceDatabase, Job
from ods.registry.storage.sessions import UNIQUE_VIOLATION, RegistrySessions
from ods.settings.settings import MAX_DATABASE_NAME_BYTES

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


_UNCHANGED = timedelta(minutes=5)
"""A waiting row is adopted after it was unchanged for so long.

An Admin API begins the job of a row that it has added within seconds, unless it leaves its jobs to this
service.
"""
_ROWS_A_PASS = 20

ADOPT = """
WITH adopted AS (
    UPDATE {table} SET
        operation = coalesce(operation, CASE
            WHEN state IN ('Pending_Delete', 'Deleted', 'Delete_Failed') THEN 'Delete' ELSE 'Create' END),
        arguments = CASE
            WHEN operation IS NULL AND state IN ('Pending_Delete', 'Deleted', 'Delete_Failed')
            THEN jsonb_build_object('keep', false, 'backup_first', false) ELSE arguments END,
        jobnumber = 1
    WHERE jobnumber = 0 AND {chosen}
    RETURNING id, databaseid, state, operation, odsinstanceid, databasetemplate, lastrefreshed,
              coalesce(lastmodifieddate, lastrefreshed) AS changed
), published AS (
    UPDATE adminapi.databases AS own SET publishedat = coalesce(publishedat, adopted.changed)
    FROM adopted WHERE own.instanceid = adopted.id AND own.databaseid = adopted.databaseid
        AND (adopted.state IN ('Completed', 'Pending_Delete', 'Delete_Failed')
             OR adopted.odsinstanceid IN (SELECT odsinstanceid FROM dbo.odsinstances))
)
INSERT INTO adminapi.jobstatuses
    (jobid, status, createdat, finishedat, dbinstanceid, operation, databasetemplate)
    SELECT format('%sInstanceJob-%s-1', operation, odsinstanceid),
           CASE WHEN state IN ('Error', 'Delete_Failed') THEN 'Error'
                WHEN state IN ('Completed', 'Deleted') THEN 'Completed'
                WHEN state = 'InProgress' THEN 'InProgress' ELSE 'Pending' END,
           lastrefreshed,
           CASE WHEN state NOT IN ('Pending', 'InProgress', 'Pending_Delete') THEN changed END,
           id, operation, databasetemplate
    FROM adopted WHERE odsinstanceid IS NOT NULL
    ON CONFLICT (jobid) DO NOTHING
"""
"""Gives those of the `chosen` rows of `{table}` that have no job an operation and a job."""


class AdminApiRows:
    """Adopts the rows that an Admin API has added to the table of a tenant with these templates."""

    def __init__(self, engine: AsyncEngine, tenant: str, templates: Collection[str]) -> None:
        self._sessions = RegistrySessions(engine)
        self._tenant = tenant
        self._templates = templates

    async def adopt(self) -> None:
        """Adopt up to twenty rows; write into those that cannot be adopted why not. Safe to repeat."""
        # Rows refused before come last: otherwise twenty of them would keep all others from a turn.
        is_refused = DbInstance.error_message.is_not(None)
        query = select(DbInstance.id).where(_may_be_adopted()).order_by(is_refused, DbInstance.id)
        async with self._sessions.statement() as session:
            ids = (await session.scalars(query.limit(_ROWS_A_PASS))).all()
        for instance_id in ids:
            try:
                await self._adopt(instance_id)
            except _ObstacleError as obstacle:
                await self._record_obstacle(instance_id, str(obstacle))

    async def _adopt(self, instance_id: int) -> None:
        """Adopt one row.

        Raises:
            _ObstacleError: something prevents it; nothing was changed.
        """
        conflicts = {
            UNIQUE_VIOLATION: lambda: _ObstacleError("Another instance has its name or OdsInstanceId.")
        }
        async with self._sessions.transaction(conflicts) as session:
            row = await _locked(session, instance_id)
            if row is None:
                return
            if row.status != InstanceStatus.DELETED:
                await self._complete(session, row)
            row.error_message = None
            await session.flush()
            chosen = ADOPT.format(table="adminapi.managed_instances", chosen="id = :id")
            await session.execute(text(chosen), {"id": instance_id})
            await append(session, self._entry(row))

    async def _complete(self, session: AsyncSession, row: DbInstance) -> None:
        if row.database_template not in self._templates:
            raise _ObstacleError(f"There is no template '{row.database_template}'.")
        database = row.database_name or database_name(row.name, row.database_template)
        if len(database.encode()) > MAX_DATABASE_NAME_BYTES:
            raise _ObstacleError(f"The name of its database would exceed {MAX_DATABASE_NAME_BYTES} bytes.")
        try:
            await require_free_database(session, database, excluding=row)
        except NameTakenError as conflict:
            raise _ObstacleError(str(conflict)) from None
        row.database_name = database
        if row.ods_instance_id is None:
            row.ods_instance_id = await reserved_id(session)

    async def _record_obstacle(self, instance_id: int, obstacle: str) -> None:
        message = f"This service has not adopted the instance, which an Admin API has added. {obstacle}"
        async with self._sessions.transaction() as session:
            row = await _locked(session, instance_id)
            if row is not None:
                row.error_message = message

    def _entry(self, row: DbInstance) -> AuditEntry:
        path, title = f"/v2/dbInstances/{row.id}", f"Adopted from an Admin API: {row.name}"
        return AuditEntry("worker", self._tenant, "ADOPT", path, row.id, None, HTTPStatus.OK, title)


class _ObstacleError(Exception):
    """Why a row cannot be adopted, in words for a client."""


async def _locked(session: AsyncSession, instance_id: int) -> DbInstance | None:
    """The locked row; None if it may not be adopted, or another session has locked it."""
    its = (DbInstance.id == instance_id, _may_be_adopted())
    return (
        await session.scalars(select(DbInstance).where(*its).with_for_update(skip_locked=True))
    ).one_or_none()


def _may_be_adopted() -> ColumnElement[bool]:
    """False for rows that an Admin API says it works on: only `ods migrate` adopts these."""
    changed = func.coalesce(DbInstance.last_modified, DbInstance.last_refreshed)
    is_unchanged = changed < UTC_NOW - literal(_UNCHANGED, Interval)
    waits = and_(DbInstance.status.in_(WAITING), is_unchanged)
    return and_(DbInstance.job_number == 0, or_(waits, DbInstance.status.in_(AT_REST)))
