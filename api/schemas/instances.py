"""Instances, as clients see them."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, AliasPath, Field

from api.schemas.base import ResponseModel, UtcTime, Waiting, paced
from api.services import Services
from registry.instances.jobs import job_id
from registry.instances.status import InstanceStatus, Operation
from registry.storage.models import DbInstance

_WAITING = "waiting for a worker"
_PHASES = {
    (InstanceStatus.PENDING, Operation.CREATE): _WAITING,
    (InstanceStatus.PENDING_DELETE, Operation.DELETE): _WAITING,
    (InstanceStatus.PENDING, Operation.RENAME): _WAITING,
    (InstanceStatus.IN_PROGRESS, Operation.CREATE): "cloning the template",
    (InstanceStatus.IN_PROGRESS, Operation.DELETE): "dropping the database",
    (InstanceStatus.IN_PROGRESS, Operation.RENAME): "renaming the database",
}


def _job_path(job: str) -> str:
    return f"/v2/jobs/{job}"


class Accepted(ResponseModel):
    """A request that was committed; its job goes on by itself."""

    id: int = Field(validation_alias=AliasPath("instance", "id"))
    name: str = Field(validation_alias=AliasPath("instance", "name"))
    ods_instance_id: int = Field(validation_alias=AliasPath("instance", "ods_instance_id"))
    status: str = Field(validation_alias=AliasPath("instance", "status"))
    job_id: str = Field(validation_alias=AliasPath("job", "job_id"))
    location: Annotated[str, AfterValidator(_job_path)] = Field(
        validation_alias=AliasPath("job", "job_id"), description="Where to ask how far the job is."
    )


class Progress(ResponseModel):
    """How far a job is."""

    phase: str
    elapsed_seconds: float = Field(description="Since the job was requested.")
    estimated_seconds: float | None = Field(description="What such a job usually takes; null if unknown.")


class Links(ResponseModel):
    """Where there is more to read."""

    job: str | None
    workflow: str | None = Field(description="The page of the workflow in the Temporal Web UI.")


class Instance(ResponseModel):
    """One instance: its row and, in the fields that have defaults, its last job."""

    id: int
    name: str
    ods_instance_id: int | None
    ods_instance_name: str | None
    status: str
    database_template: str
    database_name: str | None
    last_refreshed: UtcTime
    last_modified_date: UtcTime | None = Field(validation_alias="last_modified")
    operation: str
    new_name: str | None = Field(description="The name that a rename gives it.")
    error_message: str | None
    job_id: str | None = None
    progress: Progress | None = None
    waiting: Waiting | None = None
    links: Links = Links(job=None, workflow=None)


async def describe(rows: Sequence[DbInstance], services: Services) -> list[Instance]:
    """The answers for `rows`, in their order."""
    under_way = [row async for row in paced(rows) if _phase(row)]
    progress = await _progress(under_way, services)
    waits = await _waits(under_way, services)
    return [_instance(row, progress.get(row.id), waits.get(row.id), services) async for row in paced(rows)]


async def _waits(rows: Sequence[DbInstance], services: Services) -> dict[int, Waiting]:
    """What the jobs of `rows`, which are under way, wait for, by the id of their instances."""
    if not rows:
        return {}
    jobs = await services.queries.waiting_jobs([job for row in rows if (job := _job_id(row))])
    waits = {job.job_id: Waiting.model_validate(job.waiting) for job in jobs if job.waiting}
    return {row.id: waiting for row in rows if (waiting := waits.get(_job_id(row) or ""))}


async def _progress(rows: Sequence[DbInstance], services: Services) -> dict[int, Progress]:
    """The progress of each of `rows`, which are under way, by its id."""
    if not rows:
        return {}
    ages = await services.queries.job_ages([job for row in rows if (job := _job_id(row))])
    usual = {
        kind: await services.queries.usual_duration(*kind)
        for kind in {(row.operation, row.database_template) for row in rows}
    }
    return {
        row.id: Progress(
            phase=_phase(row) or row.status,
            elapsed_seconds=round(ages.get(_job_id(row) or "", 0), 3),
            estimated_seconds=_rounded(usual[row.operation, row.database_template]),
        )
        async for row in paced(rows)
    }


def _instance(
    row: DbInstance, progress: Progress | None, waiting: Waiting | None, services: Services
) -> Instance:
    job = _job_id(row)
    links = Links(
        job=_job_path(job) if job else None,
        workflow=services.workflow_url(row.ods_instance_id) if job else None,
    )
    columns = Instance.model_validate(row)
    return columns.model_copy(
        update={"job_id": job, "progress": progress, "waiting": waiting, "links": links}
    )


def _phase(row: DbInstance) -> str | None:
    return _PHASES.get((InstanceStatus(row.status), Operation(row.operation)))


def _job_id(row: DbInstance) -> str | None:
    """The row's last job; deleted rows that an Admin API left behind may have none."""
    if row.ods_instance_id is None:
        return None
    return job_id(Operation(row.operation), row.ods_instance_id, row.job_number)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
