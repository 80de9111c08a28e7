"""Instances as clients see them: their rows, with how far their jobs are."""

from collections.abc import Callable, Sequence
from typing import assert_never

from api.schemas.base import Waiting, paced
from api.schemas.instances import Instance, InstanceContext, Links, Progress, job_path
from ods.model.arguments import job_kind
from ods.model.operations import InstanceStatus, Operation
from ods.registry.instances.deletes import drops_at_retry
from ods.registry.instances.jobs import job_id
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.registry.storage.models import DbInstance, Wait

_WAITING = "waiting for a worker"


class InstanceDescriptions:
    """Describes instances of one tenant.

    Args:
        queries: reads their jobs.
        instances: knows what a delete does to them.
        workflow_url: the page of the workflow with an OdsInstanceId in the Temporal Web UI, if there is one.
    """

    def __init__(
        self, queries: InstanceQueries, instances: InstanceStore, workflow_url: Callable[[int], str | None]
    ) -> None:
        self._queries = queries
        self._instances = instances
        self._workflow_url = workflow_url

    async def describe(self, rows: Sequence[DbInstance]) -> list[Instance]:
        """The answers for `rows`, in their order."""
        under_way = [row async for row in paced(rows) if _phase(row)]
        progress = await self._progress(under_way)
        waits = await self._waits(under_way)
        contexts = await self._contexts(rows)
        return [
            self._instance(row, contexts.get(row.id, []), progress.get(row.id), waits.get(row.id))
            async for row in paced(rows)
        ]

    async def describe_one(self, row: DbInstance) -> Instance:
        """The answer for `row`."""
        (described,) = await self.describe([row])
        return described

    async def _contexts(self, rows: Sequence[DbInstance]) -> dict[int, list[InstanceContext]]:
        """The contexts of each of `rows`, by its id; those that are reserved until it has an ODS instance."""
        published = {row.id: row.ods_instance_id for row in rows if row.ods_instance_name is not None}
        found = await self._queries.contexts_of_all(published.values())
        of_ods_instances = {
            row_id: [
                InstanceContext(context_key=context.key, context_value=context.value)
                for context in found[ods_instance_id]
            ]
            for row_id, ods_instance_id in published.items()
            if ods_instance_id in found
        }
        reserved = {
            row.id: [
                InstanceContext(context_key=key, context_value=value)
                for key, value in row.reserved_contexts.items()
            ]
            for row in rows
            if row.reserved_contexts
        }
        return {**reserved, **of_ods_instances}

    async def _waits(self, rows: Sequence[DbInstance]) -> dict[int, Wait]:
        """What the jobs of `rows`, which are under way, wait for, by the id of their instances."""
        if not rows:
            return {}
        jobs = await self._queries.waiting_jobs([job for row in rows if (job := _job_id(row))])
        recorded = {job.job_id: job.waiting for job in jobs}
        obstacle = await self._instances.installation.obstacle()
        otherwise = Wait(obstacle) if obstacle else None
        waits = {row.id: recorded.get(_job_id(row) or "") or otherwise for row in rows}
        return {row: wait for row, wait in waits.items() if wait}

    async def _progress(self, rows: Sequence[DbInstance]) -> dict[int, Progress]:
        """The progress of each of `rows`, which are under way, by its id."""
        if not rows:
            return {}
        ages = await self._queries.job_ages([job for row in rows if (job := _job_id(row))])
        kinds = {_kind(row) for row in rows}
        usual = {kind: await self._queries.usual_duration(*kind) if kind else None for kind in kinds}
        return {
            row.id: Progress(
                phase=_phase(row) or row.status,
                elapsed_seconds=round(ages.get(_job_id(row) or "", 0), 3),
                estimated_seconds=_rounded(usual[_kind(row)]),
            )
            async for row in paced(rows)
        }

    def _instance(
        self,
        row: DbInstance,
        contexts: Sequence[InstanceContext],
        progress: Progress | None,
        wait: Wait | None,
    ) -> Instance:
        job = _job_id(row)
        links = Links(
            job=job_path(job) if job else None,
            workflow=self._workflow_url(row.ods_instance_id) if job else None,
        )
        columns = Instance.model_validate(row)
        return columns.model_copy(
            update={
                "contexts": contexts,
                "error_message": columns.error_message if wait is None else wait.message,
                "delete_drops_database": self._instances.deletes.drops_at_delete(row),
                "retry_drops_database": drops_at_retry(row),
                "job_id": job,
                "progress": progress,
                "waiting": None if wait is None else Waiting.model_validate(wait),
                "links": links,
            }
        )


def _phase(row: DbInstance) -> str | None:
    """What is done for the row's job, if that waits or runs."""
    status = InstanceStatus(row.status)
    match status:
        case InstanceStatus.PENDING | InstanceStatus.PENDING_DELETE:
            return _WAITING
        case InstanceStatus.IN_PROGRESS:
            return job_kind(Operation(row.operation), row.arguments).work
        case (
            InstanceStatus.COMPLETED
            | InstanceStatus.ERROR
            | InstanceStatus.DELETED
            | InstanceStatus.DELETE_FAILED
        ):
            return None
        case _:
            assert_never(status)


def _kind(row: DbInstance) -> tuple[str, str] | None:
    """Which jobs take about as long as the row's; None if that depends on another database."""
    if not job_kind(Operation(row.operation), row.arguments).is_of_template:
        return None
    return row.word, row.database_template


def _job_id(row: DbInstance) -> str | None:
    """The row's last job; rows that an Admin API has added or left behind may have none."""
    if row.ods_instance_id is None or not row.is_adopted:
        return None
    return job_id(row.word, row.ods_instance_id, row.job_number)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
