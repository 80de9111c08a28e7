"""What clients may do with backups: request, verify, read and delete them."""

import logging
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request

from api.dependencies import (
    BackupRecordsDep,
    InstanceStoreDep,
    SettingsDep,
    TenantDep,
    VerificationStarterDep,
)
from api.http import temporal_calls
from api.http.audit_context import AuditContextDep
from api.http.problems import ProblemError
from api.services.instances import InstanceServiceDep
from api.tenant_services import services_of
from ods.backups.errors import BackupFaultError
from ods.backups.layout import folder_of
from ods.backups.manifest import BackupKind, Manifest
from ods.backups.readiness import require_restores
from ods.backups.restoring import read_dump
from ods.backups.storage import BackupStore
from ods.observability.logs import fault_name
from ods.registry.backups.records import BackupState
from ods.registry.instances.store import Requested
from ods.registry.storage.models import Backup
from ods.registry.storage.unit_of_work import after_commit
from ods.tenants.backup_store import find_elsewhere, key_of, load_recorded, open_store, remove_stored
from ods.tenants.known_store import require_backups, unshared_store

_DOWNLOAD_BYTES = 64 * 1024
"""Pieces of a download: one or two are in memory while its client takes nothing."""

_logger = logging.getLogger(__name__)


async def _read_id(
    text: Annotated[str, Path(alias="backup_id", json_schema_extra={"format": "uuid"})],
) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemError.not_found("backup", text) from None


BackupId = Annotated[UUID, Depends(_read_id)]


async def require_readiness(request: Request) -> None:
    """Check that backups can be made here, which asks the server.

    Raises:
        BackupFaultError: there is no store, or another one than before, or the client programs do not suit
            the server.
    """
    await require_backups(services_of(request).tenant)


class BackupService:
    """Carries such requests out; one that cannot be granted raises an error that says why."""

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        service: InstanceServiceDep,
        instances: InstanceStoreDep,
        records: BackupRecordsDep,
        settings: SettingsDep,
        tenant: TenantDep,
        verifications: VerificationStarterDep,
        audit: AuditContextDep,
    ) -> None:
        self._verifications = verifications
        self._service = service
        self._instances = instances
        self._records = records
        self._settings = settings
        self._tenant = tenant
        self._audit = audit

    async def request(self, instance_id: int) -> Requested:
        """Request a backup of an instance, after `require_readiness`."""
        request = partial(self._instances.request_backup, kind=BackupKind.REQUESTED)
        return await self._service.change(instance_id, request)

    async def delete(self, backup_id: UUID, *, forget: bool = False) -> None:
        """Delete a backup; if the store is away or refuses, a pass removes later what is stored.

        Args:
            backup_id: the backup.
            forget: also if it is in another store, where it stays: the registry does not know it any more.

        Raises:
            BackupNotFoundError: there is none, or it is deleted already.
            BackupFaultError: there is no store; the backup is in another one.
        """
        store = await open_store(self._settings)
        backup = (await self._records.get(backup_id)).backup
        if forget and backup.location not in {None, self._here(store, backup)}:
            backup = await self._records.leave(backup_id)
        else:
            await self._require_here(store, backup)
            backup = await self._records.mark_deleted(backup_id)
        self._audit.instance = backup.instance_id
        await after_commit(partial(self._remove_stored, backup))

    async def _require_here(self, store: BackupStore, backup: Backup) -> None:
        if await find_elsewhere(store, self._tenant, [backup]):
            raise BackupFaultError(
                f"The backup is at {backup.location}, and not in the store of ODS_BACKUP_URL. Set that to the"
                f" earlier store, or copy the backup to {self._here(store, backup)}. If it is gone, or is to"
                " stay where it is: `ods backup delete --forget`, or DELETE with ?forget=true."
            )

    def _here(self, store: BackupStore, backup: Backup) -> str:
        """Where a stored backup would be in this store."""
        return store.location(folder_of(key_of(self._tenant.name, backup)))

    async def _remove_stored(self, backup: Backup) -> None:
        try:
            await remove_stored(await unshared_store(self._tenant), self._tenant, backup)
        except BackupFaultError as fault:
            _logger.warning("What is stored of the backup %s is left to a pass: %s", backup.id, fault.reason)
        else:
            await self._records.forget(backup)

    async def dump(self, backup_id: UUID) -> tuple[Manifest, AsyncGenerator[bytes, None]]:
        """What is recorded of a dump, and its bytes, which fail at the end if they are not what was written.

        Raises:
            BackupFaultError: the store is away or refuses, or the backup is not there, or
                another dump is.
        """
        backup = await self._records.stored(backup_id)
        self._audit.instance = backup.instance_id
        store = await open_store(self._settings)
        manifest = await load_recorded(store, self._tenant.name, backup)
        return manifest, read_dump(store, manifest, _DOWNLOAD_BYTES)

    async def verify(self, backup_id: UUID) -> BackupState:
        """Request that a backup is verified.

        Raises:
            RestoreRefusedError: no login restores; an encrypted backup is only read.
            BackupFaultError: there is no store; the backup is in another one.
        """
        store, backup = await open_store(self._settings), await self._records.stored(backup_id)
        if not backup.encrypted:
            require_restores(self._tenant.server)
        await self._require_here(store, backup)
        state = await self._records.request_verification(backup_id)
        self._audit.instance = state.backup.instance_id
        await after_commit(partial(self._start_verification, backup_id))
        return state

    async def _start_verification(self, backup_id: UUID) -> None:
        try:
            await temporal_calls.answer_of(self._verifications.start(backup_id))
        except temporal_calls.FAULTS as error:
            _logger.warning("The next pass starts the verification of %s: %s", backup_id, fault_name(error))


BackupServiceDep = Annotated[BackupService, Depends()]
