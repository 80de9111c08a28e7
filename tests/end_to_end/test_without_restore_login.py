"""Nothing is restored with the rights of the service unless the settings accept that."""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, JobStatus
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from tests.end_to_end.conftest import Operator
from tests.end_to_end.steps import created, names
from tests.end_to_end.test_backups import backed_up, passed
from tests.servers import make_settings

pytestmark = pytest.mark.usefixtures("workers")

REFUSED = "ODS_RESTORE_DSN is not set"


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str, store: Path) -> Settings:
    return make_settings(
        postgres, registry_dsn, backup_url=store.as_uri(), backup_verify="always", restore_dsn=None
    )


def is_refused(answer: httpx.Response) -> bool:
    """Whether the answer, or the plan, says why, and what to set."""
    text = json.dumps(answer.json())
    return REFUSED in text and "ODS_RESTORE_AS_SERVICE=true" in text


async def test_what_would_restore_is_refused_at_the_request_when_no_login_restores(
    operator: Operator, api: httpx.AsyncClient, name: str
) -> None:
    job = await created(operator, name)
    backup = await backed_up(api, job)
    checked = await passed(api, backup)
    assert checked["verification"] == "Error"
    assert REFUSED in checked["verificationError"]

    instance = f"/v2/dbInstances/{job.instance_id}"
    origins: tuple[Mapping[str, Any], ...] = ({"copyOf": job.instance_id}, {"backupId": backup["id"]})
    for path, body in (
        *(("/v2/dbInstances", {"name": f"{name} new", **origin}) for origin in origins),
        *((f"{instance}/reset", origin) for origin in origins),
    ):
        answer, plan = await api.post(path, json=body), await api.post(f"{path}?dryRun=true", json=body)
        assert (answer.status_code, plan.status_code, plan.json()["status"]) == (400, 200, 400)
        assert is_refused(answer)
        assert is_refused(plan)
    for answer in (
        await api.post(f"/v2/backups/{backup['id']}/verify"),
        await api.post(f"/v2/odsInstances/{job.ods_instance_id}/snapshots"),
        await api.delete(f"{instance}?purge=true&finalBackup=true"),
    ):
        assert answer.status_code == 409
        assert is_refused(answer)
    assert is_refused(await api.delete(f"{instance}?purge=true&finalBackup=true&dryRun=true"))
    closed = {"name": f"{name} closed", "copyOf": job.instance_id, "mode": "closed"}
    plan = await api.post("/v2/dbInstances?dryRun=true", json=closed)
    assert plan.json()["status"] == 202


async def _copy(operator: Operator, job: InstanceJob, _: str) -> InstanceJob:
    origin = CopyOrigin(job.instance_id, CopyMode.ONLINE)
    return (await operator.instances.reserve(f"{job.name} new", "Minimal", origin=origin)).job


async def _restore(operator: Operator, job: InstanceJob, backup: str) -> InstanceJob:
    return (await operator.instances.reserve(f"{job.name} new", "Minimal", origin=BackupOrigin(backup))).job


async def _snapshot(operator: Operator, job: InstanceJob, _: str) -> InstanceJob:
    return (await operator.instances.request_snapshot(job.instance_id)).job


async def _purge(operator: Operator, job: InstanceJob, _: str) -> InstanceJob:
    trashed = (await operator.instances.request_delete(job.instance_id, Delete(Way.TRASH))).job
    await operator.starter.start(trashed)
    assert await operator.ended(trashed) is JobStatus.COMPLETED
    return (await operator.instances.request_purge(job.instance_id, final_backup=True)).job


WAITING: Mapping[str, Callable[[Operator, InstanceJob, str], Awaitable[InstanceJob]]] = {
    "a copy": _copy,
    "a restore": _restore,
    "a snapshot": _snapshot,
    "a purge with a final backup": _purge,
}


@pytest.mark.parametrize("kind", WAITING)
async def test_job_that_waits_fails_for_good_and_loses_nothing_when_no_login_restores(
    operator: Operator, api: httpx.AsyncClient, admin: asyncpg.Connection, name: str, kind: str
) -> None:
    job = await created(operator, name)
    backup = await backed_up(api, job)
    waiting = await WAITING[kind](operator, job, backup["id"])
    before = await names(admin, job.mark)
    await operator.starter.start(waiting)
    assert await operator.ended(waiting) is JobStatus.ERROR
    failed = (await api.get(f"/v2/jobs/{waiting.job_id}")).json()
    assert REFUSED in failed["errorMessage"]
    assert await names(admin, job.mark) == before
    if kind == "a purge with a final backup":
        (final,) = (await api.get("/v2/backups", params={"kind": "final"})).json()
        assert final["verification"] != "Error"  # it says nothing about the backup
    else:
        assert (await operator.instance(job)).status == InstanceStatus.COMPLETED
