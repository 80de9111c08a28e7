"""Brings instances into any state, by the registry's own steps."""

from registry.instances.jobs import InstanceJob
from registry.instances.status import Template
from registry.instances.store import InstanceStore

CONNECTION_STRING = "iv|ciphertext|hmac"
STATES = [
    *("Pending", "InProgress", "Completed", "Error"),
    *("Pending_Delete", "InProgress_Delete", "Deleted", "Delete_Failed"),
    *("Pending_Rename", "InProgress_Rename", "Completed_Rename", "Error_Rename"),
]


def status_in(state: str) -> str:
    """The status of an instance in `state`, which tells the operation as well where that leaves a doubt."""
    return "InProgress" if state == "InProgress_Delete" else state.removesuffix("_Rename")


async def bring_to(instances: InstanceStore, state: str, name: str) -> InstanceJob:
    """A new instance in `state`; returns the job that brought it there."""
    created = await instances.reserve(name, Template.MINIMAL)
    if state == "Pending":
        return created.job
    await instances.begin(created.job)
    if state == "Error":
        await instances.fail(created.job, "It could not be created.")
    elif state != "InProgress":
        await instances.finish_create(created.job, CONNECTION_STRING)
        if state.endswith("_Rename"):
            return await _bring_to_rename(instances, state, created.job)
        if state != "Completed":
            return await _bring_to_deletion(instances, state, created.job.instance_id)
    return created.job


async def _bring_to_deletion(instances: InstanceStore, state: str, instance_id: int) -> InstanceJob:
    job = (await instances.request_delete(instance_id)).job
    if state == "Pending_Delete":
        return job
    await instances.begin(job)
    if state == "Deleted":
        await instances.finish_delete(job)
    elif state == "Delete_Failed":
        await instances.fail(job, "It could not be deleted.")
    return job


async def _bring_to_rename(instances: InstanceStore, state: str, created: InstanceJob) -> InstanceJob:
    job = (await instances.request_rename(created.instance_id, f"{created.name} new")).job
    if state == "Pending_Rename":
        return job
    await instances.begin(job)
    if state == "Completed_Rename":
        await instances.finish_rename(job, CONNECTION_STRING)
    elif state == "Error_Rename":
        await instances.fail(job, "It could not be renamed.")
    return job
