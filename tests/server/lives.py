"""Brings instances into any state, by the registry's own steps."""

from instances.jobs import InstanceJob
from instances.registry import Registry
from instances.status import Template

CONNECTION_STRING = "iv|ciphertext|hmac"
STATES = [
    *("Pending", "InProgress", "Completed", "Error"),
    *("Pending_Delete", "InProgress_Delete", "Deleted", "Delete_Failed"),
]


async def bring_to(registry: Registry, state: str, name: str) -> InstanceJob:
    """A new instance in `state`; returns the job that brought it there."""
    created = await registry.reserve(name, Template.MINIMAL)
    if state == "Pending":
        return created.job
    await registry.begin(created.job)
    if state == "Error":
        await registry.fail(created.job, "It could not be created.")
    elif state != "InProgress":
        await registry.finish_create(created.job, CONNECTION_STRING)
        if state != "Completed":
            return await _bring_to_deletion(registry, state, created.job.instance_id)
    return created.job


async def _bring_to_deletion(registry: Registry, state: str, instance_id: int) -> InstanceJob:
    job = (await registry.request_delete(instance_id)).job
    if state == "Pending_Delete":
        return job
    await registry.begin(job)
    if state == "Deleted":
        await registry.finish_delete(job)
    elif state == "Delete_Failed":
        await registry.fail(job, "It could not be deleted.")
    return job
