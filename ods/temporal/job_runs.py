"""Which attempt at which job a run of a workflow carries out: its first event tells."""

from typing import Any

from temporalio.client import Client, WorkflowHandle

from ods.registry.instances.jobs import InstanceJob
from ods.temporal.codec import UnreadablePayloadError
from ods.temporal.strict_json import OtherReleaseError
from workflows import options
from workflows.job_workflow import WORKFLOW_TYPES


class UnreadableJobError(Exception):
    """It cannot be read which job a workflow carries out: it has another key, or is of another release."""


async def job_of(client: Client, handle: WorkflowHandle[Any, Any]) -> InstanceJob | None:
    """The job that a run was started, or continued, with; None if it is no run of a job.

    Raises:
        UnreadableJobError: it cannot be read.
        temporalio.service.RPCError: Temporal cannot be reached, or has no such run.
    """
    events = handle.fetch_history_events(page_size=1, rpc_timeout=options.RPC_TIMEOUT)
    started = (await anext(events)).workflow_execution_started_event_attributes
    if started.workflow_type.name not in WORKFLOW_TYPES.values():
        return None
    try:
        (job,) = await client.data_converter.decode(started.input.payloads, [InstanceJob])
    except (KeyError, ValueError, RuntimeError, UnreadablePayloadError, OtherReleaseError):
        raise UnreadableJobError from None
    return job if isinstance(job, InstanceJob) else None


def is_same_attempt(found: InstanceJob | None, job: InstanceJob) -> bool:
    """Whether a workflow's job is this attempt, requested by the same installation."""
    if found is None or (found.installation, found.mark) != (job.installation, job.mark):
        return False
    return found.is_attempt(job)
