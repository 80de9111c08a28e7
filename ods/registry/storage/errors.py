"""Errors that say why a request cannot be granted; clients are shown their messages."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

FieldErrors: TypeAlias = Mapping[str, Sequence[str]]
"""Everything that is wrong with each property of a request, by the property's name in PascalCase."""


class InstanceError(Exception):
    """Base of the errors with which the registry refuses a request."""


class InstanceNotFoundError(InstanceError):
    """No live instance has this id."""

    def __init__(self, instance_id: int) -> None:
        super().__init__(f"no live instance has the id {instance_id}")
        self.instance_id = instance_id


class NameTakenError(InstanceError):
    """The name, its database name or the reserved id belongs to another instance or ODS instance."""


class ContextTakenError(InstanceError):
    """A context that an instance had belongs to another one."""


class DerivativeTakenError(InstanceError):
    """The ODS/API cannot be given a snapshot to read.

    Args:
        derivative: the id of a derivative that leads to another database; None if the ODS instance is gone.
    """

    def __init__(self, derivative: int | None = None) -> None:
        if derivative is None:
            self.reason = "The ODS instance does not exist any more."
            self.next_step = (
                "Make it anew: `ods instance adopt ID --database NAME`, with the name of the instance's"
                " database. Then request the snapshot again."
            )
        else:
            self.reason = (
                f"The derivative {derivative} of type Snapshot leads to a database that is no snapshot"
                " of this service; it is not overwritten."
            )
            self.next_step = (
                f"Remove it (DELETE /v2/odsInstanceDerivatives/{derivative}), then request the snapshot"
                " again."
            )
        super().__init__(f"{self.reason} {self.next_step}")


class RefusedError(InstanceError):
    """The instance's state does not allow the request.

    Attributes:
        status: the status the instance is in.
        reason: why the request is refused.
        next_step: what the client can do instead.
        others: the request would be refused for these reasons as well.
    """

    def __init__(
        self, status: str, reason: str, next_step: str, others: Sequence["RefusedError"] = ()
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.next_step = next_step
        self.others = others


class JobRefusedError(RefusedError):
    """The job's state does not allow the request; `status` is the job's."""


class BackupNotFoundError(InstanceError):
    """There is no backup with this id."""

    def __init__(self, backup_id: str) -> None:
        super().__init__(f"no backup has the id {backup_id}")
        self.backup_id = backup_id


class BackupRefusedError(RefusedError):
    """The backup's state does not allow the request; `status` is the backup's."""


class InstallationNotConfirmedError(InstanceError):
    """The registry was copied or moved, and the operator has not confirmed yet what it is.

    The message says what the operator can do.
    """


class KeyInUseError(InstanceError):
    """A request under the same idempotency key has not been answered yet."""


class KeyOfAnotherRequestError(InstanceError):
    """Another request was answered under the same idempotency key."""


class RowNotFoundError(InstanceError):
    """There is no such row."""

    def __init__(self, resource: str, identifier: int) -> None:
        super().__init__(f"no {resource} has the id {identifier}")
        self.resource = resource
        self.identifier = identifier


class InvalidError(InstanceError):
    """The request breaks rules."""

    def __init__(self, errors: FieldErrors) -> None:
        super().__init__(f"invalid: {', '.join(errors)}")
        self.errors = errors


class CancelledDropError(Exception):
    """A client has cancelled the drop of an instance that had another database before a reset.

    What is recorded as done has that dropped as well: the client may have cancelled it for that.
    """


def require_granted(refusals: Sequence[RefusedError]) -> None:
    """Refuse a request for the first of these reasons, which tells of the others."""
    if refusals:
        first, *others = refusals
        raise RefusedError(first.status, first.reason, first.next_step, others)


def require_valid(errors: FieldErrors) -> None:
    """Refuse a request with which something is wrong."""
    if any(errors.values()):
        raise InvalidError(errors)
