"""Backups that are made before databases are dropped: whether they can be, as is said before a job starts."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query

from api.dependencies import InstanceQueriesDep, InstanceStoreDep, SettingsDep, TenantDep
from api.schemas.plans import PlannedBackup
from ods.backups.errors import BackupFaultError
from ods.backups.layout import instance_folder
from ods.registry.instances.deletes import PLAIN_DELETE, Delete
from ods.registry.storage.errors import InvalidError
from ods.registry.storage.models import DbInstance
from ods.tenants.backup_store import open_store
from ods.tenants.known_store import require_final_backups

FinalBackup = Annotated[
    bool,
    Query(
        alias="finalBackup",
        description="Back the database up first, and drop it only if the backup is complete and verified.",
    ),
]
"""Whether the client wants a backup before a purge."""


class FinalBackups:
    """Judges requests by which a backup is made first."""

    def __init__(
        self,
        instances: InstanceStoreDep,
        queries: InstanceQueriesDep,
        settings: SettingsDep,
        tenant: TenantDep,
    ) -> None:
        self._instances = instances
        self._queries = queries
        self._settings = settings
        self._tenant = tenant

    async def require_possible(self, instance_id: int, delete: Delete) -> None:
        """Refuse to delete or purge an instance so that is to be backed up first, and cannot be.

        Raises:
            InstanceNotFoundError: as for `InstanceStore.request_delete`.
            RefusedError: as well.
            BackupFaultError: there is no store, or another one than before, or the client programs do not
                suit the server.
        """
        if self._instances.deletes.may_back_up(delete):
            instance = await self._instances.require_deletable(instance_id, delete)
            await self.require_ready([instance], delete)

    async def require_possible_behind(self, ods_instance_id: int) -> None:
        """Refuse the same of the instance behind an ODS instance, in the form of that resource.

        Raises:
            InvalidError: it cannot be backed up.
            BackupFaultError: the server is away.
        """
        if not self._instances.deletes.may_back_up(PLAIN_DELETE):
            return
        instance = await self._queries.instance_behind(ods_instance_id)
        try:
            await self.require_ready([] if instance is None else [instance], PLAIN_DELETE)
        except BackupFaultError as fault:
            if fault.outage:
                raise
            raise InvalidError({"Id": [fault.reason]}) from None

    async def require_ready(self, instances: Sequence[DbInstance], delete: Delete) -> None:
        """Refuse to delete these instances so if one of them is to be backed up first, and cannot be.

        Raises:
            BackupFaultError: there is no store, or another one than before, or the client programs do not
                suit the server.
        """
        if any(self._instances.deletes.backs_up(instance, delete) for instance in instances):
            await require_final_backups(self._tenant)

    async def plan(self, instance: DbInstance, size_bytes: int | None) -> PlannedBackup:
        """The backup that would be made of an instance whose database has this size."""
        encrypted = bool(self._settings.recipients)
        return PlannedBackup(
            location=await self._location(instance),
            encrypted=encrypted,
            needed_bytes=0 if encrypted else size_bytes,
        )

    async def _location(self, instance: DbInstance) -> str | None:
        try:
            store = await open_store(self._settings)
        except BackupFaultError:
            return None
        return store.location(instance_folder(self._tenant.name, instance.ods_instance_id))


FinalBackupsDep = Annotated[FinalBackups, Depends()]
