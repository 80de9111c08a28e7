"""Making the databases of instances, each from its origin: a template, another instance, or a backup."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import assert_never
from uuid import UUID

from activities.backup_requests import locale_of, rights_of
from activities.following import FencedWork
from ods.backups.copying import copy_contents
from ods.backups.restoring import restore
from ods.backups.snapshots import Database
from ods.databases import provisioning
from ods.databases.constants import DISK_FULL
from ods.databases.copying import Source, copy_closed, create_like, provision_copy
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner, Owner
from ods.databases.provisioning import CloneRequest, ProvisionedDatabase, TemplateSizes
from ods.databases.publishing import DatabaseAccess
from ods.databases.rights.inner import Rights, give_rights, read_rights
from ods.databases.statements import analyze
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin, TemplateOrigin
from ods.observability.metrics.job_phases import phase
from ods.registry.storage.errors import BackupNotFoundError, BackupRefusedError
from ods.tenants.backup_store import load_recorded, open_store
from ods.tenants.tenant import Tenant

_DISK_FULL_SECONDS = 30
"""How long no clone is begun after the server has said that its disk is full."""


@dataclass(frozen=True)
class Wanted:
    """A database that shall be made."""

    owner: KnownOwner
    database: str
    template: str
    origin: Origin


class Provisioner:
    """Makes the databases of one tenant's instances.

    Without `refill`, which is called after a spare was claimed, no spares are claimed.
    """

    def __init__(self, tenant: Tenant, refill: Callable[[], None] | None = None) -> None:
        self._tenant = tenant
        self._refill = refill
        self._template_sizes = TemplateSizes()
        self._disk_full_until = 0.0

    async def make(self, work: FencedWork, wanted: Wanted) -> ProvisionedDatabase:
        """Make the database, or find that an earlier attempt has made it."""
        with self._refuse_while_disk_is_full():
            settings = self._tenant.settings
            access = DatabaseAccess(settings.database_owner, settings.granted)
            request = CloneRequest(wanted.owner, "", wanted.database, settings.clone_strategy, access=access)
            match wanted.origin:
                case TemplateOrigin():
                    clone = await self._of_template(request, wanted.template)
                    return await provisioning.provision(work.session, clone, self._template_sizes)
                case BackupOrigin():
                    like = await self._of_template(request, wanted.template)
                    return await self._restored(work, like, wanted.origin)
                case CopyOrigin():
                    return await self._copied(work, request, wanted.origin)
                case _:
                    assert_never(wanted.origin)

    async def verify(self, made: ProvisionedDatabase, database: str) -> None:
        """Prove that what was made as `database` answers; a spare has proved it before."""
        if not made.claimed:
            with phase("verify"):
                await provisioning.verify(self._tenant.server, database)

    def replace_claimed(self, made: ProvisionedDatabase) -> None:
        """Request a refill if the database was a spare."""
        if made.claimed and self._refill:
            self._refill()

    async def _of_template(self, request: CloneRequest, template: str) -> CloneRequest:
        """The same as a clone of the template, or a spare of it."""
        installation = await self._tenant.jobs.installation.require_confirmed()
        database = self._tenant.settings.template_databases.get(template)
        if database is None:
            raise DatabaseFaultError(
                f"The settings name no template '{template}'. Add it to ODS_TEMPLATES, restart the"
                " workers, then retry."
            )
        return replace(request, template=database, installation=installation.id if self._refill else None)

    async def _restored(
        self, work: FencedWork, request: CloneRequest, origin: BackupOrigin
    ) -> ProvisionedDatabase:
        """Restore a backup under a private name, with its locale, and rights and settings of the template."""
        tenant, session = self._tenant, work.session
        if (made := await provisioning.already_made(session, request)) is not None:
            return made
        try:
            backup = await tenant.backups.stored(UUID(origin.backup_id))
        except BackupNotFoundError:
            deleted = f"The backup {origin.backup_id} is deleted: nothing can be restored."
            raise DatabaseFaultError(deleted) from None
        except BackupRefusedError as refusal:
            raise DatabaseFaultError(f"{refusal.reason} {refusal.next_step}") from None
        store = await open_store(tenant.settings)
        manifest = await load_recorded(store, tenant.name, backup)
        staging = request.owner.staging_name

        async def restore_contents() -> None:
            with work.following.monitor() as monitor:
                await restore(store, manifest, Database(tenant.server, staging), monitor)
            await self._complete(staging, await rights_of(tenant, manifest))

        with phase("clone"):
            await create_like(session, request.template, staging, locale_of(manifest))
            await work.done(restore_contents())
        return await provisioning.publish_filled(session, request, None)

    async def _copied(
        self, work: FencedWork, request: CloneRequest, origin: CopyOrigin
    ) -> ProvisionedDatabase:
        server, source = self._tenant.server, await self._source(origin)
        wanted = replace(request, template=source.database)
        staging = wanted.owner.staging_name

        async def copy_online() -> None:
            of, to = Database(server, source.database), Database(server, staging)
            with work.following.monitor() as monitor:
                await copy_contents(of, to, monitor, with_owners=True)
            async with server.connected(source.database) as inside:
                rights = await read_rights(inside, server.restored_owner)
            await self._complete(staging, rights)

        async def make_staging() -> None:
            with phase("clone"):
                match origin.mode:
                    case CopyMode.CLOSED:
                        await copy_closed(server, work.session, wanted)
                    case CopyMode.ONLINE:
                        await create_like(work.session, source.database, staging)
                        await work.done(copy_online())
                    case _:
                        assert_never(origin.mode)

        return await provision_copy(work.session, wanted, source, make_staging)

    async def _source(self, origin: CopyOrigin) -> Source:
        """The instance that is copied; the registry keeps it from being renamed meanwhile."""
        tenant = self._tenant
        row = await tenant.queries.any_instance(origin.instance_id)
        if row is None or not row.is_live or str(row.mark) != origin.mark:
            raise DatabaseFaultError(f"The instance {origin.instance_id}, which is to be copied, is gone.")
        owner = Owner(
            *(tenant.name, row.ods_instance_id, "", str(row.mark), await tenant.installation.id()),
            database_id=str(row.database_id),
        )
        return Source(owner, row.database_name)

    async def _complete(self, filled: str, rights: Rights) -> None:
        """Give a database that a program has filled its statistics and rights."""
        async with self._tenant.server.connected(filled) as inside:
            await analyze(inside)
            await give_rights(inside, rights)

    @contextmanager
    def _refuse_while_disk_is_full(self) -> Iterator[None]:
        if time.monotonic() < self._disk_full_until:
            raise DatabaseFaultError(
                "The PostgreSQL server has run out of disk space; clones pause. Free some.", outage=True
            )
        try:
            yield
        except DatabaseFaultError as fault:
            if fault.sqlstate == DISK_FULL:
                self._disk_full_until = time.monotonic() + _DISK_FULL_SECONDS
            raise
