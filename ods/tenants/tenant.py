"""What one tenant is made of, once in a process: nothing of it is shared with another tenant."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from ods.databases.rights.restore_login import RestoreLogin
from ods.databases.server import Server
from ods.databases.templates.reports import TemplateInspector, remove_leftovers
from ods.databases.templates.spare_pool import SparePool
from ods.registry.backups.expiry import BackupExpiry
from ods.registry.backups.records import BackupRecords
from ods.registry.backups.scheduled import ScheduledBackups
from ods.registry.clock import RegistryClock
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings, connection_strings
from ods.registry.education_organizations.refreshes import RefreshJobs
from ods.registry.installation import InstallationStore
from ods.registry.instances.admin_api import AdminApiRows
from ods.registry.instances.adoptions import AdoptionStore
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.sizes import SizeHistory
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.store import InstanceStore
from ods.registry.instances.versions import VersionStore
from ods.registry.snapshots.store import ScheduledSnapshots, SnapshotStore
from ods.registry.storage.engine import create_registry_engine
from ods.registry.storage.unit_of_work import unit_of_work
from ods.settings.secret_files import CurrentDsn
from ods.settings.settings import AnySettings, Settings
from ods.tenants.installation_check import InstallationCheck
from ods.tenants.rights_check import RightsCheck
from ods.tenants.snapshots import Snapshots

_logger = logging.getLogger(__name__)

_READING_TIMEOUT = 30
"""Seconds that a statement of a refresh may take: refreshes of one ODS instance wait for each other."""


@dataclass(frozen=True)
class Tenant:
    """A tenant: its registry, the server of its ODS databases, and how the ODS/API connects to them."""

    name: str
    settings: Settings
    engine: AsyncEngine
    instances: InstanceStore
    adoptions: AdoptionStore
    jobs: JobStore
    admin_api_rows: AdminApiRows
    versions: VersionStore
    cancellations: JobCancellations
    queries: InstanceQueries
    sizes: SizeHistory
    backups: BackupRecords
    scheduled_backups: ScheduledBackups
    backup_expiry: BackupExpiry
    scheduled_snapshots: ScheduledSnapshots
    server: Server
    connection_strings: OdsConnectionStrings
    installation: InstallationCheck
    rights: RightsCheck
    clock: RegistryClock
    spares: SparePool
    snapshots: Snapshots
    templates: TemplateInspector
    refreshes: RefreshJobs
    # Connections of refreshes, held while an ODS database is read, which may hang: status writes have others.
    reading_engine: AsyncEngine

    @classmethod
    def compose(
        cls,
        name: str,
        settings: Settings,
        engine: AsyncEngine,
        connection_strings: OdsConnectionStrings,
        installations: Mapping[str, InstallationStore],
    ) -> Self:
        """Make the parts of the tenant `name`; no connection is opened yet."""
        own = installations[name]
        siblings = {other: one for other, one in installations.items() if other != name}
        server_dsn = CurrentDsn(settings.master_dsn, f"The address of the server of tenant {name}")
        restore_login = None
        if settings.restore_dsn is not None:
            dsn = CurrentDsn(settings.restore_dsn, f"The address of the login of tenant {name} that restores")
            restore_login = RestoreLogin(dsn, settings.restored_owner)
        server = Server(server_dsn, restore_login, restores_as_service=settings.restore_as_service)
        queries = InstanceQueries(engine)
        clock = RegistryClock(engine, timedelta(seconds=settings.reconcile_interval))
        factory = JobFactory(own, ExecutionPolicy.from_settings(settings), name)
        trash = timedelta(days=settings.trash_days)
        templates = set(settings.template_databases.values())
        installation = InstallationCheck(own, name, siblings, shares_server=settings.shared_server)
        snapshots = SnapshotStore(engine, own, settings.snapshot_keep)
        return cls(
            name=name,
            settings=settings,
            engine=engine,
            instances=InstanceStore(
                engine,
                factory,
                trash,
                protect_new=settings.protect_new,
                final_backup=settings.final_backup,
                strings=connection_strings,
            ),
            adoptions=AdoptionStore(
                engine, factory, trash, protect_new=settings.protect_new, strings=connection_strings
            ),
            jobs=JobStore(
                engine, factory, trash, final_backup=settings.final_backup, strings=connection_strings
            ),
            admin_api_rows=AdminApiRows(engine, name, settings.template_databases),
            versions=VersionStore(engine, factory),
            cancellations=JobCancellations(engine, factory),
            queries=queries,
            sizes=SizeHistory(engine),
            backups=BackupRecords(engine, name),
            scheduled_backups=ScheduledBackups(engine, factory, settings.backup_verify),
            backup_expiry=BackupExpiry(engine, own, settings.kept_backups, settings.backup_verify),
            scheduled_snapshots=ScheduledSnapshots(engine, factory),
            server=server,
            connection_strings=connection_strings,
            installation=installation,
            rights=RightsCheck(engine, templates, settings.needed_memberships),
            clock=clock,
            snapshots=Snapshots(snapshots, server, connection_strings, installation, name),
            spares=SparePool.from_settings(settings, server, partial(_confirmed_id, own)),
            templates=TemplateInspector(server, installation.id, settings.template_databases),
            refreshes=RefreshJobs(engine, name),
            reading_engine=create_registry_engine(
                _registry_dsn(name, settings), settings.refresh_concurrency, _READING_TIMEOUT
            ),
        )

    async def begin_pass(self) -> bool:
        """Record that a pass begins; first call off the drops of a registry that may have been restored.

        Returns whether nothing is to be purged because of a gap, whichever pass has found it.

        A registry that was put back knows nothing of what clients have kept since. If no pass has run for a
        while, its clock may be wrong instead: then nothing gets a later time by that.
        """
        await self.jobs.installation.require_confirmed()  # which calls them off, and says so
        cancelled: Sequence[InstanceJob] = ()
        async with unit_of_work(self.engine):  # of several workers that start, one does
            is_gap, has_other_timeline = await self.clock.doubts()
            if has_other_timeline:
                cancelled = await self.cancellations.hold_drops()
            elif is_gap:
                cancelled = await self.cancellations.call_off_drops()
            await self.clock.observe()
        for job in cancelled:
            _logger.warning("%s was cancelled: the registry may have been restored.", job.job_id)
        return await self.clock.gap() is not None

    async def look_before_drop(self) -> None:
        """Do what a pass begins with, if none has begun since the registry may have been restored."""
        if await self.clock.is_in_doubt():
            await self.begin_pass()

    async def remove_template_leftovers(self) -> list[str]:
        """Remove what loads of its templates have left; returns the names of these databases."""
        async with self.server.session() as session:
            await self.installation.require_confirmed(session)
            needed = set(self.settings.template_databases.values())
            return await remove_leftovers(session, await self.installation.id(), needed)

    async def close(self) -> None:
        """Close the connections that are kept."""
        await asyncio.gather(self.engine.dispose(), self.reading_engine.dispose(), self.server.close())


def _registry_dsn(name: str, settings: Settings) -> CurrentDsn:
    return CurrentDsn(settings.admin_dsn, f"The address of the registry of tenant {name}")


async def _confirmed_id(installation: InstallationStore) -> str:
    return (await installation.require_confirmed()).id


@asynccontextmanager
async def open_tenants(settings: AnySettings) -> AsyncIterator[list[Tenant]]:
    """All tenants; in the end their connections are closed.

    Raises:
        InvalidSettingsError: the settings of a tenant do not make connection strings.
    """
    strings = connection_strings(settings)
    engines = {
        name: create_registry_engine(_registry_dsn(name, own)) for name, own in settings.tenants.items()
    }
    installations = {name: InstallationStore(engine) for name, engine in engines.items()}
    tenants = [
        Tenant.compose(name, own, engines[name], strings[name], installations)
        for name, own in settings.tenants.items()
    ]
    try:
        yield tenants
    finally:
        await asyncio.gather(*(tenant.close() for tenant in tenants))
