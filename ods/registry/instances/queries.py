"""Queries of instances, jobs and ODS instances: pages, and single rows."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Integer,
    Row,
    Select,
    String,
    and_,
    any_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import JobStatus
from ods.model.revisions import KnownRevisions, RevisionState
from ods.registry.instances.instance_list import InstanceFilter, number_of_instances, page_of_instances
from ods.registry.instances.revisions import as_known, known_of_instance
from ods.registry.instances.steps import has_mark, waited_until
from ods.registry.instances.versions import versions_of
from ods.registry.ods_instances.applications import Application, application_ids_of_each, applications_of
from ods.registry.storage.engine import fetch_all
from ods.registry.storage.errors import InstanceNotFoundError
from ods.registry.storage.listing import Listing, Page, by_utf16
from ods.registry.storage.models import (
    UTC_NOW,
    Base,
    DatabaseRevision,
    DbInstance,
    EducationOrganization,
    InstanceDatabase,
    Job,
    OdsInstance,
    OdsInstanceContext,
    OdsInstanceDerivative,
    is_own,
)
from ods.registry.storage.sessions import RegistrySessions

_PLACES = 2**31
"""An instance in the trash comes before the databases that it had before, by the order of this number."""

ODS_INSTANCES = Listing(
    OdsInstance.ods_instance_id,
    {"Name": by_utf16(OdsInstance.name), "InstanceType": by_utf16(OdsInstance.instance_type)},
)
CONTEXTS = Listing(
    OdsInstanceContext.id,
    {
        "ContextKey": by_utf16(OdsInstanceContext.key),
        "ContextValue": by_utf16(OdsInstanceContext.value),
        "OdsInstanceId": OdsInstanceContext.ods_instance_id,
    },
)
DERIVATIVES = Listing(
    OdsInstanceDerivative.id,
    {
        "DerivativeType": by_utf16(OdsInstanceDerivative.derivative_type),
        "OdsInstanceId": OdsInstanceDerivative.ods_instance_id,
    },
)
_IS_VERSION = InstanceDatabase.is_replaced
_IS_OWN = and_(~DbInstance.is_live, is_own(InstanceDatabase))
_TRASHED = (
    select(
        DbInstance.id,
        DbInstance.name,
        DbInstance.ods_instance_id,
        DbInstance.status,
        InstanceDatabase.database_template,
        InstanceDatabase.trash_name.label("trash_database"),
        InstanceDatabase.trashed_at,
        InstanceDatabase.trashed_by,
        InstanceDatabase.purge_after,
        case((~_IS_VERSION, DbInstance.error_message)).label("error_message"),
        _IS_VERSION.label("is_version"),
        (cast(DbInstance.id, BigInteger) * _PLACES + case((_IS_VERSION, InstanceDatabase.id), else_=0)).label(
            "place"
        ),
    )
    .join(InstanceDatabase, InstanceDatabase.instance_id == DbInstance.id)
    .where(InstanceDatabase.reason.is_not(None), or_(_IS_VERSION, _IS_OWN))
    .subquery("trash")
)
TRASH = Listing(
    _TRASHED.c.place,
    {
        "Id": _TRASHED.c.place,
        "Name": by_utf16(_TRASHED.c.name),
        "DeletedAt": _TRASHED.c.trashed_at,
        "PurgeAfter": _TRASHED.c.purge_after,
    },
)

_REPLACED_LAST = (InstanceDatabase.trashed_at.desc(), InstanceDatabase.id.desc())
_RECENT_JOBS = 20
_Row = TypeVar("_Row")
_Table = TypeVar("_Table", bound=Base)


@dataclass(frozen=True)
class RecordedRevisions:
    """The revisions of databases that a registry has ever recorded.

    Attributes:
        of_instances: those of each instance's databases, also those that are void.
        confirmed: that of each database, by the UUID of the database.
        void: those that no database has any more, unless the server was put back.
        confirmed_at: since when that of a database is known, in UTC without a zone, by its UUID.
    """

    of_instances: Mapping[int, Collection[str]]
    confirmed: Mapping[str, str]
    void: Collection[str]
    confirmed_at: Mapping[str, datetime]


class InstanceQueries:
    """Reads one tenant's instances, jobs and ODS instances."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)

    async def database(self) -> str:
        """Name of the registry's own database."""
        return str(await self._one(select(func.current_database())))

    async def require_tables(self) -> None:
        """Check that the registry answers and has its tables.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: it has not.
            OSError: it cannot be reached.
            asyncpg.PostgresError: it refuses the connection.
        """
        await self.instances(offset=0, limit=0)  # no row, but every column must be there

    async def instance(self, instance_id: int) -> DbInstance:
        """The live instance with this id.

        Raises:
            InstanceNotFoundError: there is none, or it is deleted.
        """
        instance = await self.any_instance(instance_id)
        if instance is None or not instance.is_live:
            raise InstanceNotFoundError(instance_id)
        return instance

    async def any_instance(self, instance_id: int) -> DbInstance | None:
        """The instance with this id, even if it is deleted; None if there never was one."""
        return await self._one(select(DbInstance).where(DbInstance.id == instance_id))

    async def instances_with(self, ids: Collection[int]) -> Sequence[DbInstance]:
        """The instances with these ids, deleted ones included."""
        listed = any_(literal(list(ids), ARRAY(Integer)))
        return await self._all(select(DbInstance).where(DbInstance.id == listed).order_by(DbInstance.id))

    async def instances(
        self, *, offset: int, limit: int, instance_id: int | None = None, name: str | None = None
    ) -> Sequence[DbInstance]:
        """A page of instances by id, deleted ones included; the filters are exact."""
        page = Page("Id", offset=offset, limit=limit)
        return await self.chosen_instances(InstanceFilter(id=instance_id, name=name), page)

    async def chosen_instances(self, chosen: InstanceFilter, page: Page) -> Sequence[DbInstance]:
        """A page of the chosen instances."""
        return await self._all(page_of_instances(chosen, page))

    async def count(self, chosen: InstanceFilter) -> int:
        """How many instances are chosen."""
        return await self._one(number_of_instances(chosen)) or 0

    async def live_instances(self) -> Sequence[DbInstance]:
        """Every instance that is not deleted, by id."""
        return await self._all(select(DbInstance).where(DbInstance.is_live).order_by(DbInstance.id))

    async def trashed_instances(self) -> Sequence[DbInstance]:
        """Every instance in the trash, by id."""
        return await self._all(select(DbInstance).where(DbInstance.is_in_trash).order_by(DbInstance.id))

    async def versions(self) -> Sequence[InstanceDatabase]:
        """Every database in the trash that an instance had before a reset, by id."""
        replaced = select(InstanceDatabase).where(InstanceDatabase.is_replaced)
        return await self._all(replaced.order_by(InstanceDatabase.id))

    async def revisions(self) -> RecordedRevisions:
        """The revisions of all instances' databases."""
        rows = await self._all(select(DatabaseRevision))
        of_instances: dict[int, set[str]] = defaultdict(set)
        for row in rows:
            of_instances[row.instance_id].add(str(row.id))
        confirmed = {
            str(row.database_id): str(row.id) for row in rows if row.state == RevisionState.CONFIRMED
        }
        void = {str(row.id) for row in rows if row.state == RevisionState.VOID}
        its = (row for row in rows if row.state == RevisionState.CONFIRMED)
        return RecordedRevisions(of_instances, confirmed, void, {str(row.database_id): row.at for row in its})

    async def revisions_of(self, instance_id: int) -> KnownRevisions:
        """What the registry knows of the instance's databases."""
        its = select(known_of_instance()).where(DbInstance.id == instance_id)
        async with self._sessions.statement() as session:
            return as_known(await session.scalar(its))

    async def instances_with_versions(self) -> Sequence[DbInstance]:
        """Every instance that has such a database, by id: also one that is deleted, or was detached."""
        with_versions = DbInstance.id.in_(
            select(InstanceDatabase.instance_id).where(InstanceDatabase.is_replaced)
        )
        return await self._all(select(DbInstance).where(with_versions).order_by(DbInstance.id))

    async def versions_of(self, instance_id: int) -> Sequence[InstanceDatabase]:
        """The databases that the instance had before resets, the one that was replaced last first."""
        its = select(InstanceDatabase).where(*versions_of(instance_id))
        return await self._all(its.order_by(*_REPLACED_LAST))

    async def kept_versions(self, instances: Iterable[int]) -> Mapping[int, Sequence[str]]:
        """The databases that can come back to each of these instances, by their names in the trash.

        For each instance that has any, the one that was replaced last comes first.
        """
        of_these = InstanceDatabase.instance_id.in_(instances), InstanceDatabase.is_replaced
        its = *of_these, InstanceDatabase.purging_since.is_(None)
        found: dict[int, list[str]] = defaultdict(list)
        for version in await self._all(select(InstanceDatabase).where(*its).order_by(*_REPLACED_LAST)):
            found[version.instance_id].append(version.trash_name)
        return found

    async def trash(self, page: Page) -> Sequence[Row[Any]]:
        """A page of what is in the trash: deleted instances, and databases that instances had before."""
        async with self._sessions.statement() as session:
            rows: Sequence[Row[Any]] = (await session.execute(TRASH.page_of(select(_TRASHED), page))).all()
        return rows

    async def trash_count(self) -> int:
        """How many deleted instances and databases of before are in the trash."""
        return await self._one(select(func.count()).select_from(_TRASHED)) or 0

    async def known_marks(self, marks: Collection[str]) -> set[str]:
        """Those of `marks` that belong to instances, deleted ones included."""
        return {str(mark) for mark in await self._all(select(DbInstance.mark).where(has_mark(marks)))}

    async def marked_instance(self, mark: str) -> DbInstance | None:
        """The instance with this mark, live or in the trash; None if there is none."""
        its = DbInstance.mark == UUID(mark)
        is_there = or_(DbInstance.is_live, DbInstance.is_in_trash)
        return await self._one(select(DbInstance).where(its, is_there))

    async def instance_behind(self, ods_instance_id: int) -> DbInstance | None:
        """The live instance with this OdsInstanceId; None if there is none."""
        its = DbInstance.ods_instance_id == ods_instance_id
        return await self._one(select(DbInstance).where(its, DbInstance.is_live))

    async def now(self) -> datetime:
        """The time in UTC by the registry's clock, which decides what is due."""
        async with self._sessions.statement() as session:
            at: datetime = (await session.scalars(select(UTC_NOW))).one()
        return at.replace(tzinfo=UTC)

    async def last_change(self) -> datetime | None:
        """When an instance was last changed, in UTC; None if there never was one."""
        at = await self._one(select(func.max(DbInstance.last_modified)))
        return at.replace(tzinfo=UTC) if at else None

    async def every(self, table: type[_Table]) -> Sequence[_Table]:
        """Every row of a table, by its key."""
        return await self._all(select(table).order_by(*table.__mapper__.primary_key))

    async def job(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""
        return await self._one(select(Job).where(Job.job_id == job_id))

    async def job_ages(self, job_ids: Sequence[str]) -> dict[str, float]:
        """Seconds since each of these jobs was created, without its waits, by the database's clock."""
        age = func.extract("epoch", UTC_NOW - Job.created_at).cast(Double) - waited_until(UTC_NOW)
        # One array, not a list of parameters: there may be more ids than a statement has room for.
        listed = any_(literal(job_ids, ARRAY(String)))
        async with self._sessions.statement() as session:
            rows = await session.execute(select(Job.job_id, age).where(Job.job_id == listed))
            return dict(rows.all())

    async def waiting_jobs(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of these jobs that wait for the end of an outage."""
        listed = any_(literal(job_ids, ARRAY(String)))
        return await self._all(select(Job).where(Job.job_id == listed, Job.waiting_for.is_not(None)))

    async def usual_duration(self, operation: str, template: str) -> float | None:
        """Median seconds of the last twenty jobs of this kind, without waits; None if there were none."""
        recent = (
            select(Job.worked_seconds.label("seconds"))
            .where(
                Job.operation == operation,
                Job.database_template == template,
                Job.status == JobStatus.COMPLETED,
            )
            .order_by(Job.finished_at.desc())
            .limit(_RECENT_JOBS)
            .subquery()
        )
        return await self._one(select(func.percentile_cont(0.5).within_group(recent.c.seconds)))

    async def ods_instances(
        self,
        page: Page,
        *,
        ods_instance_id: int | None = None,
        name: str | None = None,
        instance_type: str | None = None,
    ) -> Sequence[OdsInstance]:
        """A page of ODS instances; the filters are exact."""
        row = OdsInstance
        wanted = {row.ods_instance_id: ods_instance_id, row.name: name, row.instance_type: instance_type}
        exact = [column == value for column, value in wanted.items() if value is not None]
        return await self._all(ODS_INSTANCES.page_of(select(row).where(*exact), page))

    async def ods_instance(self, ods_instance_id: int) -> OdsInstance | None:
        """The ODS instance with this id; None if there is none."""
        return await self._one(select(OdsInstance).where(OdsInstance.ods_instance_id == ods_instance_id))

    async def applications(self, ods_instance_id: int) -> list[Application]:
        """The applications that may use an ODS instance, by id."""
        async with self._sessions.statement() as session:
            return await applications_of(session, ods_instance_id)

    async def application_ids(self, ods_instance_ids: Collection[int]) -> Mapping[int, list[int]] | None:
        """Ids of the applications that may use each of these ODS instances, if there are any.

        None if the tables of the ODS/API are not there.
        """
        async with self._sessions.statement() as session:
            return await application_ids_of_each(session, ods_instance_ids)

    async def contexts_of(self, ods_instance_id: int) -> Sequence[OdsInstanceContext]:
        """The contexts of an ODS instance, by id."""
        row = OdsInstanceContext
        return await self._all(select(row).where(row.ods_instance_id == ods_instance_id).order_by(row.id))

    async def contexts_of_all(self, ods_instance_ids: Collection[int]) -> dict[int, list[OdsInstanceContext]]:
        """The contexts of these ODS instances, by the OdsInstanceId; those of each by id."""
        table = OdsInstanceContext
        listed = any_(literal(list(ods_instance_ids), ARRAY(Integer)))
        query = select(table).where(table.ods_instance_id == listed).order_by(table.id)
        found: dict[int, list[OdsInstanceContext]] = {}
        for row in await self._all(query) if ods_instance_ids else ():
            found.setdefault(row.ods_instance_id, []).append(row)
        return found

    async def education_organizations(
        self, ods_instance_id: int, limit: int
    ) -> Sequence[EducationOrganization]:
        """The first education organizations of an ODS instance by id, as the last refresh has read them."""
        table = EducationOrganization
        its = select(table).where(table.instance_id == ods_instance_id)
        return await self._all(its.order_by(table.education_organization_id).limit(limit))

    async def contexts(self, page: Page) -> Sequence[OdsInstanceContext]:
        """A page of all contexts."""
        return await self._all(CONTEXTS.page_of(select(OdsInstanceContext), page))

    async def context(self, context_id: int) -> OdsInstanceContext | None:
        """The context with this id; None if there is none."""
        return await self._one(select(OdsInstanceContext).where(OdsInstanceContext.id == context_id))

    async def derivatives_of(self, ods_instance_id: int) -> Sequence[OdsInstanceDerivative]:
        """The derivatives of an ODS instance, by id."""
        row = OdsInstanceDerivative
        return await self._all(select(row).where(row.ods_instance_id == ods_instance_id).order_by(row.id))

    async def derivatives(self, page: Page) -> Sequence[OdsInstanceDerivative]:
        """A page of all derivatives."""
        return await self._all(DERIVATIVES.page_of(select(OdsInstanceDerivative), page))

    async def derivative(self, derivative_id: int) -> OdsInstanceDerivative | None:
        """The derivative with this id; None if there is none."""
        return await self._one(select(OdsInstanceDerivative).where(OdsInstanceDerivative.id == derivative_id))

    async def _all(self, query: Select[_Row]) -> Sequence[_Row]:
        async with self._sessions.statement() as session:
            return await fetch_all(session, query)

    async def _one(self, query: Select[_Row]) -> _Row | None:
        async with self._sessions.statement() as session:
            return (await session.scalars(query)).one_or_none()
