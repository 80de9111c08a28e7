"""How the instances of a tenant are used: figures of their databases, and what the registry knows of them.

Figures are shown only of databases that carry the mark of the instance: another one of its name may be
another tenant's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from ods.databases.errors import DatabaseFaultError, DisagreementError, NotOursError
from ods.databases.inspection.usage import DatabaseFigures, TableFigures, UsageReader, read_sizes
from ods.databases.ownership import Owner
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant

_NO_DATABASE = "The instance has no database."
_NOT_ITS_OWN = "The instance has no database yet: the one of that name is not its own."
_IN_TRASH = "Its database is in the trash, closed."


class DatabaseNotFoundError(Exception):
    """The server has no database of this name, or one that clients are told nothing of."""

    def __init__(self, database: str) -> None:
        super().__init__(f"there is no database {database}")
        self.database = database


@dataclass(frozen=True)
class InstanceFigures:
    """What is known of an instance without a session in its database."""

    database: DatabaseFigures
    application_ids: Sequence[int] | None  # None if the registry has no tables of the ODS/API


class InstanceUsage:
    """Tells how the instances of one tenant are used."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._reader = UsageReader(tenant.server)

    async def of_instance(self, instance_id: int) -> tuple[InstanceFigures, TableFigures]:
        """The figures of an instance, and those of the tables in its database.

        Raises:
            InstanceNotFoundError: there is no such instance, or it is deleted.
            DatabaseNotFoundError: it has no database.
        """
        row = await self._tenant.queries.instance(instance_id)
        await self._tenant.installation.id()  # for `owner_of`
        name = row.database_name
        if name is None:
            raise DatabaseNotFoundError(str(instance_id))
        try:
            tables = await self._reader.tables(owner_of(self._tenant, row), name)
        except NotOursError:
            raise DisagreementError(name, _unmarked(row)) from None
        database = (await self._reader.figures([name])).get(name)
        if tables is None or database is None:
            raise DatabaseNotFoundError(name)
        return _figures(row, database, await self._applications([row])), tables

    async def of_page(self, rows: Sequence[DbInstance]) -> Callable[[DbInstance], InstanceFigures | str]:
        """Gives the figures of each instance of a page, or why there are none, such as a server that is away.

        The function is called with one row at a time, for a page may be long.
        """
        live = [row for row in rows if may_have_database(row)]
        reason = _NO_DATABASE
        try:
            databases = await self._figures(live)
        except DatabaseFaultError as fault:
            reason, databases = fault.reason, {}
        applications = await self._applications(rows)

        def figures_of(row: DbInstance) -> InstanceFigures | str:
            if not may_have_database(row):
                return _IN_TRASH if row.is_in_trash else _NO_DATABASE
            database = databases.get(row.database_name)
            if database is None:
                return reason
            if not self._is_its_own(row, database):
                return _unmarked(row)
            return _figures(row, database, applications)

        return figures_of

    async def _figures(self, rows: Sequence[DbInstance]) -> Mapping[str, DatabaseFigures]:
        """The figures of the databases of these names.

        If one does not carry the mark, it is read again: a reset gives row and database another mark, and
        figures may be older than the row.
        """
        await self._tenant.installation.id()  # for `owner_of`
        began = monotonic()
        databases = await self._reader.figures({row.database_name for row in rows})
        of_others = {
            row.database_name
            for row in rows
            if (database := databases.get(row.database_name)) and not self._is_its_own(row, database)
        }
        if not of_others:
            return databases
        again = await self._reader.figures(of_others, since=began)
        return {name: known for name, known in databases.items() if name not in of_others} | dict(again)

    def _is_its_own(self, row: DbInstance, database: DatabaseFigures) -> bool:
        return owner_of(self._tenant, row).owns(database.comment)

    async def _applications(self, rows: Sequence[DbInstance]) -> Mapping[int, Sequence[int]] | None:
        ids = [row.ods_instance_id for row in rows if row.ods_instance_id is not None]
        return await self._tenant.queries.application_ids(ids)


async def record_sizes(tenant: Tenant) -> int:
    """Record today's size of each instance's database that carries its mark; returns how many there are."""
    await tenant.installation.id()  # for `owner_of`
    rows = [row for row in await tenant.queries.live_instances() if may_have_database(row)]
    async with tenant.server.session() as session:
        found = await read_sizes(session, {row.database_name for row in rows})
    sizes = {
        row.id: size.bytes
        for row in rows
        if (size := found.get(row.database_name)) and owner_of(tenant, row).owns(size.comment)
    }
    await tenant.sizes.record(sizes, forget=await tenant.clock.is_steady())
    return len(sizes)


def owner_of(tenant: Tenant, row: DbInstance) -> Owner:
    """The owner of the instance's database, for its mark alone.

    Raises:
        RuntimeError: the tenant's installation was not read yet.
    """
    return Owner(
        *(tenant.name, row.ods_instance_id, "", str(row.mark)),
        installation=tenant.instances.installation.known_id,
        database_id=str(row.database_id),
    )


def may_have_database(row: DbInstance) -> bool:
    """Whether the instance may have a database outside the trash."""
    return row.database_name is not None and row.is_live


def is_without_database(told: InstanceFigures | str) -> bool:
    """Whether the instance is known to have no database outside the trash."""
    return told in {_NO_DATABASE, _NOT_ITS_OWN, _IN_TRASH} if isinstance(told, str) else False


def _unmarked(row: DbInstance) -> str:
    if not row.is_published:
        return _NOT_ITS_OWN  # nor may it be handed over: the create has failed, or is under way
    return (
        f"The database '{row.database_name}' does not carry the mark of this instance. If it is the"
        f" instance's, hand it over: `ods instance adopt {row.id}`."
    )


def _figures(
    row: DbInstance, database: DatabaseFigures, applications: Mapping[int, Sequence[int]] | None
) -> InstanceFigures:
    used_by = None if applications is None else applications.get(row.ods_instance_id, [])
    return InstanceFigures(database, used_by)
