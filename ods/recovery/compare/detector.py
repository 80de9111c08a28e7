"""Compares registry and server of a tenant; nothing is changed here."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from ods.databases.inspection import listing
from ods.databases.statements import server_clock
from ods.recovery.compare import held, routing, strays, surroundings
from ods.recovery.compare.findings import Drift
from ods.recovery.compare.snapshot import Snapshot
from ods.registry.backups.stores import BackupStores
from ods.registry.instances.jobs import StartedJob
from ods.registry.storage import models
from ods.registry.storage.models import OdsInstance, OdsInstanceDerivative
from ods.tenants.tenant import Tenant

_RECHECK_SECONDS = 0.5


@dataclass(frozen=True)
class DriftDetector:
    """Compares a tenant's registry with its server, where databases of other tenants may be as well."""

    tenant: Tenant

    async def detect(self, started: Sequence[StartedJob] = ()) -> list[Drift]:
        """Every contradiction that is there twice, half a second apart: others are of a running job.

        `started` are the jobs whose workflows Temporal still has.
        """
        first = {drift.identity for drift in _contradictions(await self.read(started))}
        if not first:
            return []
        await asyncio.sleep(_RECHECK_SECONDS)
        again = _contradictions(await self.read(started))
        return sorted({drift for drift in again if drift.identity in first})

    async def read(self, started: Sequence[StartedJob] = ()) -> Snapshot:
        """What registry and server have now."""
        tenant, queries = self.tenant, self.tenant.queries
        async with tenant.server.session() as session:
            found = await listing.databases(session)
            directories = await listing.orphan_directories(session)
            obstacle = await tenant.installation.obstacle(session)
            server_time, registry_time = await server_clock(session), await queries.now()
            own_time = _own_time()
        return Snapshot(
            installation=await tenant.installation.id(),
            tenant=tenant.name,
            templates=set(tenant.settings.template_databases.values()),
            strings=tenant.connection_strings,
            clock_lead=registry_time - server_time,
            own_lead=registry_time - own_time,
            time_gap=await tenant.clock.gap(),
            shared_store=await BackupStores(tenant.engine).conflict(),
            obstacle=obstacle,
            last_change=await queries.last_change(),
            databases={database.name: database for database in found},
            orphan_directories=directories,
            instances=await queries.live_instances(),
            trashed=await queries.trashed_instances(),
            versions=await queries.versions(),
            revisions=await queries.revisions(),
            with_versions=await queries.instances_with_versions(),
            known_marks=await queries.known_marks(
                [*(one.mark for one in found if one.mark is not None), *(job.mark for job in started)]
            ),
            ods_instances=await queries.every(OdsInstance),
            derivatives=await queries.every(OdsInstanceDerivative),
            copies=await queries.every(models.Snapshot),
            started=started,
        )


_COMPARISONS: tuple[Callable[[Snapshot], Iterator[Drift]], ...] = (
    surroundings.installation_as_a_whole,
    surroundings.wrong_clocks,
    strays.put_back_registry,
    held.databases_not_as_recorded,
    strays.two_databases,
    strays.without_instance,
    strays.snapshots_without_database,
    routing.instances_without_ods_instance,
    routing.ods_instances_without_database,
    routing.derivatives_of_other_instances,
    routing.ods_instances_of_other_instances,
    routing.ods_instances_on_other_servers,
    surroundings.resets_not_ended,
    surroundings.rows_not_adopted,
    surroundings.wrong_templates,
)


def _contradictions(seen: Snapshot) -> Iterator[Drift]:
    return chain.from_iterable(compare(seen) for compare in _COMPARISONS)


def _own_time() -> datetime:
    """The time by the clock of this process's machine."""
    return datetime.now(UTC)
