"""The words for the status of an instance on `/v2/odsInstances/manage`.

`Error` and `Delete_Failed` mean that the service tries no more until the operator decides: `CreateError` and
`DeleteError` in the words of that surface. While the service still tries by itself, the job is in progress;
`CreateFailed` and `DeleteFailed`, which promise another try, are never used. There is no word for a rename
either: whether that waits, runs or has failed, the instance exists, and is `Created`.
"""

from enum import StrEnum

from registry.instances.status import InstanceStatus, Operation, traits


class ManagedStatus(StrEnum):
    """Statuses of an instance on that surface."""

    PENDING_CREATE = "PendingCreate"
    CREATE_IN_PROGRESS = "CreateInProgress"
    CREATED = "Created"
    CREATE_FAILED = "CreateFailed"
    CREATE_ERROR = "CreateError"
    PENDING_DELETE = "PendingDelete"
    DELETE_IN_PROGRESS = "DeleteInProgress"
    DELETED = "Deleted"
    DELETE_FAILED = "DeleteFailed"
    DELETE_ERROR = "DeleteError"


_WORDS = {
    InstanceStatus.PENDING: ManagedStatus.PENDING_CREATE,
    InstanceStatus.COMPLETED: ManagedStatus.CREATED,
    InstanceStatus.ERROR: ManagedStatus.CREATE_ERROR,
    InstanceStatus.PENDING_DELETE: ManagedStatus.PENDING_DELETE,
    InstanceStatus.DELETED: ManagedStatus.DELETED,
    InstanceStatus.DELETE_FAILED: ManagedStatus.DELETE_ERROR,
}


def managed_status(status: str, operation: str) -> ManagedStatus:
    """The word for an instance in `status` whose last job is an `operation`."""
    kind = traits(Operation(operation))
    if kind.keeps_instance:
        return ManagedStatus.CREATED
    if status == InstanceStatus.IN_PROGRESS:
        return ManagedStatus.CREATE_IN_PROGRESS if kind.publishes else ManagedStatus.DELETE_IN_PROGRESS
    return _WORDS[InstanceStatus(status)]
