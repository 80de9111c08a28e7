"""Which attempt at which job a run of a workflow carries out: its first event tells."""

from typing import Any

from temporalio.client import Client, WorkflowHandle

from ods.registry.instances.jobs import InstanceJob
from ods.temporal.codec import UnreadablePayloadError
from workflows import options


class UnreadableJobError(Exception):
    """It cannot be read which job a workflow carries out: the payload was encrypted with an unknown key."""


async def job_of(client: Client, handle: WorkflowHandle[Any, Any]) -> InstanceJob | None:
    """The job that a run was started, or continued, with; None if it is no run of a job.

    Raises:
        UnreadableJobError: it cannot be read.
        temporalio.service.RPCError: Temporal cannot be reached, or has no such run.
    """
    events = handle.fetch_history_events(page_size=1, rpc_timeout=options.RPC_TIMEOUT)
    started = (await anext(events)).workflow_execution_started_event_attributes
    try:
        (job,) = await client.data_converter.decode(started.input.payloads, [InstanceJob])
    except (TypeError, ValueError):
        return None
    except (KeyError, RuntimeError, UnreadablePayloadError):
        raise UnreadableJobError from None
    return job if isinstance(job, InstanceJob) else None


def is_same_attempt(found: InstanceJob | None, job: InstanceJob) -> bool:
    """Whether a workflow's job is this attempt, requested by the same installation if it names one."""
    if found is None or found.installation not in {None, job.installation}:
        return False
    return found.mark == job.mark and found.is_attempt(job)
