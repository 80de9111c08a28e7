"""The words for the status of an instance on `/v2/odsInstances/manage`.

`Error` and `Delete_Failed` mean that the service tries no more until the operator decides: `CreateError` and
`DeleteError` in the words of that surface. While the service still tries by itself, the job is in progress;
`CreateFailed` and `DeleteFailed`, which promise another try, are never used. There is no word for a rename
either: whether that waits, runs or has failed, the instance exists, and is `Created`.
"""

from enum import StrEnum
from typing import assert_never

from ods.model.operations import RULES, InstanceStatus, Operation


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


def managed_status(status: str, operation: str) -> ManagedStatus:
    """The word for an instance in `status` whose last job is an `operation`."""
    rules, known = RULES[Operation(operation)], InstanceStatus(status)
    if rules.keeps_instance:
        return ManagedStatus.CREATED
    match known:
        case InstanceStatus.PENDING:
            word = ManagedStatus.PENDING_CREATE
        case InstanceStatus.IN_PROGRESS:
            word = ManagedStatus.CREATE_IN_PROGRESS if rules.publishes else ManagedStatus.DELETE_IN_PROGRESS
        case InstanceStatus.COMPLETED:
            word = ManagedStatus.CREATED
        case InstanceStatus.ERROR:
            word = ManagedStatus.CREATE_ERROR
        case InstanceStatus.PENDING_DELETE:
            word = ManagedStatus.PENDING_DELETE
        case InstanceStatus.DELETED:
            word = ManagedStatus.DELETED
        case InstanceStatus.DELETE_FAILED:
            word = ManagedStatus.DELETE_ERROR
        case _:
            assert_never(known)
    return word
