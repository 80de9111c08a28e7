"""Backups of instances: requested, listed, looked at, verified, downloaded and deleted."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from api.audited_download import AuditedDownload
from api.dependencies import BackupRecordsDep
from api.http import problems
from api.http.paging import words_of
from api.http.parsing import DEFAULT_LIMIT, Count, Limit, Offset, path_id
from api.idempotency import STARTS_A_JOB, JobRoute, asks_first
from api.schemas.backups import BackupAccepted, BackupAnswer
from api.schemas.base import list_response, paced
from api.security.tokens import bearer_token, needs_scope
from api.services.backups import BackupId, BackupServiceDep, require_readiness
from api.services.instances import require_instance_management
from ods.backups.manifest import BackupKind
from ods.registry.backups.records import BackupFilter, BackupState
from ods.registry.clients.credentials import BACKUP_DOWNLOAD
from ods.registry.storage.listing import Page

router = APIRouter(
    prefix="/v2",
    tags=["Backups"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=JobRoute,
)

InstanceId = Annotated[int, path_id("dbInstance")]

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_OF_LISTS = problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS)
_OF_LISTS_OF_ONE = problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS, HTTPStatus.NOT_FOUND)
_OF_ONE = problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND)
_OF_CHANGES = problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_OF_DOWNLOADS = problems.documented(
    *_REFUSALS, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS
)
_DUMP: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    403: _OF_CHANGES[HTTPStatus.CONFLICT] | {"description": HTTPStatus.FORBIDDEN.phrase},
}


@router.post(
    "/dbInstances/{instance_id}/backups",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=_OF_CHANGES,
)
@asks_first(require_readiness)
async def create_backup(
    instance_id: InstanceId, service: BackupServiceDep, response: Response
) -> BackupAccepted:
    """Request a backup of the instance, which goes on being used."""
    accepted = BackupAccepted.model_validate(await service.request(instance_id))
    response.headers["Location"] = f"{router.prefix}/backups/{accepted.backup_id}"
    return accepted


@router.get(
    "/dbInstances/{instance_id}/backups", response_model=list[BackupAnswer], responses=_OF_LISTS_OF_ONE
)
async def list_backups_of_instance(
    instance_id: InstanceId, records: BackupRecordsDep, offset: Offset = 0, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """A page of the backups of an instance, the newest first; also if the instance is gone."""
    chosen = BackupFilter(instance_id=instance_id)
    return await _answer(await records.page(chosen, Page("Id", offset=offset, limit=limit)))


@router.get("/backups", response_model=list[BackupAnswer], responses=_OF_LISTS)
async def list_backups(
    records: BackupRecordsDep,
    kinds: Annotated[list[str], words_of("kind", BackupKind)],
    instanceId: Count | None = None,  # noqa: N803 - the query's own word
    offset: Offset = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """A page of the backups, the newest first; those of instances that are gone as well."""
    chosen = BackupFilter(kinds, instanceId)
    return await _answer(await records.page(chosen, Page("Id", offset=offset, limit=limit)))


@router.get("/backups/{backup_id}", responses=_OF_ONE)
async def get_backup(backup_id: BackupId, records: BackupRecordsDep) -> BackupAnswer:
    """One backup."""
    return BackupAnswer.of(await records.get(backup_id))


@router.get(
    "/backups/{backup_id}/dump",
    response_class=StreamingResponse,
    dependencies=[needs_scope(BACKUP_DOWNLOAD, "Downloading a backup")],
    responses={**_OF_DOWNLOADS, **_DUMP},
)
async def download_backup(backup_id: BackupId, service: BackupServiceDep) -> AuditedDownload:
    """The dump as it is stored: what `pg_restore` reads, encrypted with age if the backup is."""
    manifest, chunks = await service.dump(backup_id)
    name = f"{backup_id}.dump{'.age' if manifest.encrypted else ''}"
    return AuditedDownload(chunks, manifest.size_bytes, name)


@router.delete(
    "/backups/{backup_id}",
    status_code=HTTPStatus.NO_CONTENT,
    dependencies=[STARTS_A_JOB],
    responses=_OF_CHANGES,
)
async def delete_backup(
    backup_id: BackupId,
    service: BackupServiceDep,
    forget: Annotated[  # noqa: FBT002 - a parameter of the query
        bool,
        Query(description="Also if it is in another store than the one of now, where nothing is removed."),
    ] = False,
) -> None:
    """Delete a backup; it cannot come back."""
    await service.delete(backup_id, forget=forget)


@router.post(
    "/backups/{backup_id}/verify",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=_OF_CHANGES,
)
async def verify_backup(backup_id: BackupId, service: BackupServiceDep) -> BackupAnswer:
    """Request that the backup is restored to a private database, compared, and dropped again."""
    return BackupAnswer.of(await service.verify(backup_id))


async def _answer(states: Sequence[BackupState]) -> Response:
    return await list_response(BackupAnswer.of(state) async for state in paced(states))
