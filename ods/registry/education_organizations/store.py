"""The education organizations that refreshes have read, per ODS instance."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass

from sqlalchemy import ARRAY, Integer, any_, delete, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.storage.models import UTC_NOW, EducationOrganization, OdsInstance
from ods.registry.storage.sessions import RegistrySessions

_LOCK = select(func.pg_advisory_xact_lock(text("hashtext('education organizations')"), text(":id")))
_WAIT_BRIEFLY = select(func.set_config("lock_timeout", "3s", True))
"""Then PostgreSQL refuses a lock that another session holds: other ODS instances are to be read as well."""
_COLUMNS = (
    EducationOrganization.instance_id,
    EducationOrganization.instance_name,
    EducationOrganization.education_organization_id,
    EducationOrganization.name_of_institution,
    EducationOrganization.short_name,
    EducationOrganization.discriminator,
    EducationOrganization.parent_id,
    EducationOrganization.database_name,
)


@dataclass(frozen=True)
class Organization:
    """An education organization, as it is in an ODS database."""

    id: int
    name: str
    short_name: str | None
    discriminator: str
    parent_id: int | None


@dataclass(frozen=True)
class OdsDatabase:
    """An ODS instance, and where its database is: `connection_string` is encrypted."""

    ods_instance_id: int
    name: str
    connection_string: str | None


class EducationOrganizations:
    """The education organizations of one tenant's ODS instances."""

    def __init__(self, engine: AsyncEngine, connection_strings: OdsConnectionStrings) -> None:
        self._sessions = RegistrySessions(engine)
        self._connection_strings = connection_strings

    async def databases(self, after: int, limit: int, only: int | None = None) -> Sequence[OdsDatabase]:
        """A page of ODS instances with ids above `after`, by id; or `only` this one."""
        columns = (OdsInstance.ods_instance_id, OdsInstance.name, OdsInstance.connection_string)
        query = select(*columns).where(OdsInstance.ods_instance_id > after)
        if only is not None:
            query = query.where(OdsInstance.ods_instance_id == only)
        async with self._sessions.statement() as session:
            rows = await session.execute(query.order_by(OdsInstance.ods_instance_id).limit(limit))
            return [OdsDatabase(*row) for row in rows]

    async def replace(
        self,
        source: OdsDatabase,
        database: str | None,
        read: Callable[[], Awaitable[Sequence[Organization]]],
    ) -> None:
        """Make the ODS instance's rows what `read` returns; if it raises, they stay.

        Of several refreshes of an ODS instance one reads at a time, so that the last one to write is also the
        last one to have read. Nothing is written for an ODS instance that was deleted or got another database
        since it was listed.

        `database` is None if the connection string has none.

        Raises:
            sqlalchemy.exc.DBAPIError: another session has locked the ODS instance (SQLSTATE 55P03), …
        """
        async with self._sessions.transaction() as session:
            await session.execute(_LOCK, {"id": source.ods_instance_id})
            found = await read()
            await session.execute(_WAIT_BRIEFLY)
            if await self._is_still(session, source):
                await _replace(session, source, database, found)

    async def _is_still(self, session: AsyncSession, source: OdsDatabase) -> bool:
        """Whether the ODS instance still has the same database; it keeps it until the transaction ends."""
        query = select(OdsInstance.connection_string).where(
            OdsInstance.ods_instance_id == source.ods_instance_id
        )
        found = (await session.execute(query.with_for_update(read=True))).one_or_none()
        return found is not None and self._connection_strings.are_alike(found[0], source.connection_string)

    async def forget_deleted(self) -> None:
        """Remove the rows of ODS instances that do not exist any more."""
        there = select(OdsInstance.ods_instance_id)
        async with self._sessions.statement() as session:
            await session.execute(
                delete(EducationOrganization).where(EducationOrganization.instance_id.not_in(there))
            )


async def forget(session: AsyncSession, ods_instance_id: int) -> None:
    """Remove the rows of an ODS instance that is being deleted."""
    its = EducationOrganization.instance_id == ods_instance_id
    await session.execute(delete(EducationOrganization).where(its))


async def _replace(
    session: AsyncSession, source: OdsDatabase, database: str | None, found: Sequence[Organization]
) -> None:
    """Remove and insert only what differs: new rows at each refresh would use up ids of four bytes."""
    table = EducationOrganization
    its = table.instance_id == source.ods_instance_id
    missing = {(source.ods_instance_id, source.name, *astuple(one), database) for one in found}
    gone = []
    for row_id, *values in await session.execute(select(table.id, *_COLUMNS).where(its)):
        if tuple(values) in missing:
            missing.remove(tuple(values))
        else:
            gone.append(row_id)
    await session.execute(delete(table).where(table.id == any_(literal(gone, ARRAY(Integer)))))
    if missing:
        names = [column.key for column in _COLUMNS]
        await session.execute(insert(table), [dict(zip(names, row, strict=True)) for row in missing])
    await session.execute(update(table).where(its).values(last_refreshed=UTC_NOW))
