"""`/v2/odsInstances/{id}/snapshots`: read-only copies of instances, which readers of the ODS/API may use."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.dependencies import InstanceStoreDep, ServerDep, SnapshotStoreDep
from api.http import problems
from api.http.audit_context import AuditContextDep
from api.http.parsing import path_id
from api.http.problems import found
from api.idempotency import STARTS_A_JOB, JobRoute
from api.schemas.base import Done, list_response, paced
from api.schemas.snapshots import RequestedSnapshotAnswer, SnapshotAnswer
from api.security.tokens import bearer_token
from api.services.instances import InstanceServiceDep, require_instance_management
from ods.backups.readiness import require_restores
from ods.registry.ods_instances.store import ODS_INSTANCE
from ods.registry.snapshots.store import SNAPSHOT

router = APIRouter(
    prefix="/v2/odsInstances/{instance_id}/snapshots",
    tags=["Snapshots"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
    route_class=JobRoute,
)

_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


async def _managed_instance(
    ods_instance_id: Annotated[int, path_id(ODS_INSTANCE)], snapshots: SnapshotStoreDep
) -> int:
    """The id of the live instance behind the ODS instance.

    Raises:
        ProblemError: 404, there is none: another product may look after the database.
    """
    return found(await snapshots.instance_id(ods_instance_id), ODS_INSTANCE, ods_instance_id)


ManagedInstance = Annotated[int, Depends(_managed_instance)]


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*_REFUSALS, HTTPStatus.CONFLICT),
)
async def request_snapshot(
    instance: ManagedInstance,
    instances: InstanceStoreDep,
    service: InstanceServiceDep,
    server: ServerDep,
    audit: AuditContextDep,
) -> RequestedSnapshotAnswer:
    """Request a read-only copy of the instance as it is then, for the ODS/API to read in its place."""
    audit.instance = instance
    require_restores(server)
    requested = await instances.request_snapshot(instance, audit.client)
    await service.launched(requested)
    return RequestedSnapshotAnswer.model_validate(requested)


@router.get("", response_model=list[SnapshotAnswer], responses=problems.documented(*_REFUSALS))
async def list_snapshots(instance: ManagedInstance, snapshots: SnapshotStoreDep) -> Response:
    """The snapshots of the instance, the newest first."""
    rows = await snapshots.snapshots_of(instance)
    return await list_response(SnapshotAnswer.model_validate(row) async for row in paced(rows))


@router.delete(
    "/{snapshot_id}",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[STARTS_A_JOB],
    responses=problems.documented(*_REFUSALS, HTTPStatus.CONFLICT),
)
async def delete_snapshot(
    instance: ManagedInstance,
    snapshot_id: Annotated[int, path_id(SNAPSHOT, "snapshot_id")],
    snapshots: SnapshotStoreDep,
    audit: AuditContextDep,
) -> Done:
    """Request that a snapshot goes; the ODS/API reads none then, if it was the one that it reads."""
    audit.instance = instance
    await snapshots.request_removal(instance, snapshot_id)
    return Done(title="The snapshot will be dropped when no session uses it.", status=HTTPStatus.ACCEPTED)
