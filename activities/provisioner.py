"""Making the databases of instances, each from its origin: a template, another instance, or a backup."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import assert_never

import asyncpg

from activities.backup_restoring import provision_from_backup
from activities.following import Following
from activities.instance_copies import provision_as_copy
from ods.databases import provisioning
from ods.databases.constants import DISK_FULL
from ods.databases.errors import DatabaseFaultError
from ods.databases.ownership import KnownOwner
from ods.databases.provisioning import CloneRequest, ProvisionedDatabase, TemplateSizes
from ods.databases.publishing import DatabaseAccess
from ods.observability.metrics.job_phases import phase
from ods.registry.instances.origins import BackupOrigin, CopyOrigin, Origin, TemplateOrigin
from ods.tenants.tenant import Tenant

_DISK_FULL_SECONDS = 30
"""How long no clone is begun on a server that has said that its disk is full: others would fail as well."""


@dataclass(frozen=True)
class Wanted:
    """A database that shall be made.

    Attributes:
        owner: the instance that it belongs to.
        database: its name.
        template: the name of its template.
        origin: what it is made from.
    """

    owner: KnownOwner
    database: str
    template: str
    origin: Origin


class Provisioner:
    """Makes the databases of one tenant's instances.

    Args:
        tenant: the tenant.
        refill: requests a refill after a spare was claimed; without it, no spares are claimed.
    """

    def __init__(self, tenant: Tenant, refill: Callable[[], None] | None = None) -> None:
        self._tenant = tenant
        self._refill = refill
        self._template_sizes = TemplateSizes()
        self._disk_full_until = 0.0

    async def make(
        self,
        session: asyncpg.Connection,
        wanted: Wanted,
        following: Following,
        report: Callable[[], Awaitable[object]],
    ) -> ProvisionedDatabase:
        """Make the database, or find that an earlier attempt has made it.

        Args:
            session: a session with the fence of the instance. As soon as it has ended, the work ends as well.
            wanted: the database.
            following: told how far it is, if that takes long.
            report: awaited each second then.

        Raises:
            NotOursError: a database has the wanted name and is not the instance's.
            DisagreementError: the instance, or the one that is copied, has a database of another name, or one
                that is closed or half dropped.
            BackupFaultError: a program has failed, or the backup cannot be read or restored.
            DatabaseFaultError: the origin is gone, the disk is full, a right is missing, the server is
                away, …
        """
        with self._refuse_while_disk_is_full():
            return await self._made(session, wanted, following, report)

    async def verify(self, made: ProvisionedDatabase, database: str) -> None:
        """Prove that what was made as `database` answers, unless it was a spare, which has proved it.

        Raises:
            DatabaseFaultError: it does not.
        """
        if not made.claimed:
            with phase("verify"):
                await provisioning.verify(self._tenant.server, database)

    def replace_claimed(self, made: ProvisionedDatabase) -> None:
        """Request a refill if the database was a spare."""
        if made.claimed and self._refill:
            self._refill()

    async def _made(
        self,
        session: asyncpg.Connection,
        wanted: Wanted,
        following: Following,
        report: Callable[[], Awaitable[object]],
    ) -> ProvisionedDatabase:
        origin, request = wanted.origin, self._request(wanted)
        match origin:
            case TemplateOrigin():
                clone = await self._of_template(request, wanted.template)
                return await provisioning.provision(session, clone, self._template_sizes)
            case BackupOrigin():
                like = await self._of_template(request, wanted.template)
                return await provision_from_backup(
                    self._tenant, session, like, origin.backup_id, following, report
                )
            case CopyOrigin():
                return await provision_as_copy(self._tenant, session, request, origin, following, report)
            case _:
                assert_never(origin)

    def _request(self, wanted: Wanted) -> CloneRequest:
        """The database that is made, whatever it is a copy of."""
        settings = self._tenant.settings
        access = DatabaseAccess(settings.database_owner, settings.granted)
        return CloneRequest(wanted.owner, "", wanted.database, settings.clone_strategy, access=access)

    async def _of_template(self, request: CloneRequest, template: str) -> CloneRequest:
        """The same as a clone of the template, or a spare of it."""
        installation = await self._tenant.jobs.installation.require_confirmed()
        return replace(
            request,
            template=self._template_database(template),
            installation=installation.id if self._refill else None,
        )

    def _template_database(self, template: str) -> str:
        """The database behind a template.

        Raises:
            DatabaseFaultError: the settings do not name it any more.
        """
        databases = self._tenant.settings.template_databases
        if template not in databases:
            raise DatabaseFaultError(
                f"The settings name no template '{template}'. Add it to ODS_TEMPLATES, restart the"
                " workers, then retry."
            )
        return databases[template]

    @contextmanager
    def _refuse_while_disk_is_full(self) -> Iterator[None]:
        """Begin no clone for `_DISK_FULL_SECONDS` after the server has said that its disk is full.

        Raises:
            DatabaseFaultError: an outage, without asking the server.
        """
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
