"""Compares registry and server of a tenant; nothing is changed here."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime

from ods.databases import inspection
from ods.databases.server import Server
from ods.databases.statements import server_clock
from ods.registry.backups.stores import BackupStores
from ods.registry.clock import RegistryClock
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.instances.jobs import StartedJob
from ods.registry.instances.queries import InstanceQueries
from ods.tenants.drift.clocks import wrong_clocks
from ods.tenants.drift.databases import snapshots_without, unexpected_databases, wrong_templates
from ods.tenants.drift.findings import Drift, DriftKind
from ods.tenants.drift.instances import (
    deletes_not_done,
    instances_without,
    resets_not_ended,
    rows_not_adopted,
)
from ods.tenants.drift.ods_instances import (
    derivatives_of_other_instances,
    ods_instances_of_other_instances,
    ods_instances_on_other_servers,
    ods_instances_without_database,
    served_without_mark,
)
from ods.tenants.drift.older_registry import older_than_server, published_later
from ods.tenants.drift.second_databases import second_databases
from ods.tenants.drift.snapshot import Snapshot
from ods.tenants.drift.trash import (
    changed_in_trash,
    missing_from_trash,
    unlisted_in_trash,
    versions_without_database,
)
from ods.tenants.installation_check import InstallationCheck
from ods.tenants.store_claims import SHARED_WAY_OUT, store_is_shared

_RECHECK_SECONDS = 0.5


class DriftDetector:
    """Compares a tenant's registry with its server, where databases of other tenants may be as well."""

    def __init__(  # noqa: PLR0913, PLR0917 - what is compared
        self,
        installation: InstallationCheck,
        server: Server,
        queries: InstanceQueries,
        templates: Collection[str],
        connection_strings: OdsConnectionStrings,
        clock: RegistryClock,
        stores: BackupStores,
    ) -> None:
        self._installation = installation
        self._tenant = installation.tenant
        self._server = server
        self._queries = queries
        self._templates = templates
        self._connection_strings = connection_strings
        self._clock = clock
        self._stores = stores

    async def detect(self, started: Sequence[StartedJob] = ()) -> list[Drift]:
        """Every contradiction that is there twice, half a second apart: others are those of a running job.

        Args:
            started: jobs whose workflows Temporal still has.

        Raises:
            DatabaseFaultError: the server cannot be read.
        """
        first = {drift.identity for drift in self._contradictions(await self._snapshot(started))}
        if not first:
            return []
        await asyncio.sleep(_RECHECK_SECONDS)
        again = self._contradictions(await self._snapshot(started))
        return sorted({drift for drift in again if drift.identity in first})

    async def _snapshot(self, started: Sequence[StartedJob]) -> Snapshot:
        async with self._server.session() as session:
            found = await inspection.databases(session)
            directories = await inspection.orphan_directories(session)
            obstacle = await self._installation.obstacle(session)
            server_time, registry_time = await server_clock(session), await self._queries.now()
            own_time = _own_time()
        return Snapshot(
            installation=await self._installation.id(),
            clock_lead=registry_time - server_time,
            own_lead=registry_time - own_time,
            time_gap=await self._clock.gap(),
            shared_store=await self._stores.conflict(),
            obstacle=obstacle,
            last_change=await self._queries.last_change(),
            databases={database.name: database for database in found},
            orphan_directories=directories,
            instances=await self._queries.live_instances(),
            trashed=await self._queries.trashed_instances(),
            versions=await self._queries.versions(),
            with_versions=await self._queries.instances_with_versions(),
            known_marks=await self._queries.known_marks(
                [*(one.mark for one in found if one.mark is not None), *(job.mark for job in started)]
            ),
            ods_instances=await self._queries.all_ods_instances(),
            derivatives=await self._queries.all_derivatives(),
            copies=await self._queries.all_snapshots(),
            started=started,
        )

    def _contradictions(self, seen: Snapshot) -> Iterator[Drift]:
        if seen.obstacle is not None:
            yield Drift(DriftKind.INSTALLATION_NOT_CONFIRMED, seen.installation, seen.obstacle)
        yield from wrong_clocks(seen)
        if seen.shared_store is not None:
            words = f"{store_is_shared(seen.shared_store)} {SHARED_WAY_OUT}"
            yield Drift(DriftKind.STORE_SHARED, seen.shared_store, words)
        later = published_later(seen)
        yield from older_than_server(seen, later)
        yield from changed_in_trash(seen, self._tenant)
        yield from second_databases(seen, {database.name for database in later})
        yield from missing_from_trash(seen)
        yield from unlisted_in_trash(seen)
        yield from snapshots_without(seen)
        yield from versions_without_database(seen, self._tenant)
        yield from resets_not_ended(seen)
        yield from rows_not_adopted(seen)
        yield from deletes_not_done(seen)
        yield from instances_without(seen, {database.mark for database in later})
        yield from ods_instances_without_database(seen, self._connection_strings)
        yield from derivatives_of_other_instances(seen, self._connection_strings)
        yield from ods_instances_of_other_instances(seen, self._connection_strings)
        yield from ods_instances_on_other_servers(seen, self._connection_strings)
        expected = {*self._templates, *served_without_mark(seen, self._connection_strings)}
        expected.update(database.name for database in later)
        yield from unexpected_databases(seen, expected)
        yield from wrong_templates(seen, self._templates)
        for directory in seen.orphan_directories:
            words = "This directory below base/ belongs to no database; a crashed server may have left it."
            yield Drift(DriftKind.ORPHAN_DIRECTORY, directory, words)


def _own_time() -> datetime:
    """The time by the clock of this process's machine."""
    return datetime.now(UTC)
