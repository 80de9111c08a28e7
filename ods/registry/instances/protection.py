"""Protected instances: no request takes their data away before a client has ended the protection."""

from ods.model.operations import InstanceStatus, next_step
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import DbInstance


def protection_refusal(instance: DbInstance) -> RefusedError | None:
    """Why the data of the instance must stay; None if it is not protected.

    The only place that decides it, for each operation that deletes or replaces an instance's data. The caller
    has locked the row, so that the protection does not change before its request is committed.
    """
    if not instance.is_protected:
        return None
    first = f"undelete it (`ods instance undelete {instance.id}`), then " if instance.is_in_trash else ""
    return RefusedError(
        instance.status,
        "The instance is protected: its data can be neither deleted nor replaced.",
        f"End the protection first: {first}PATCH /v2/dbInstances/{instance.id} with"
        f' {{"protected": false}}, or `ods instance unprotect {instance.id}`.',
    )


def require_unprotected(instance: DbInstance) -> None:
    """Refuse a request that takes the data of a protected instance away.

    Raises:
        RefusedError: the instance is protected.
    """
    if (refusal := protection_refusal(instance)) is not None:
        raise refusal


def require_protectable(instance: DbInstance) -> None:
    """Refuse a protection that comes too late.

    Raises:
        RefusedError: a job takes the data of the instance away, or is about to, or has failed at that.
    """
    current = InstanceStatus(instance.status)
    if current != InstanceStatus.COMPLETED and instance.rules.takes_data:
        raise RefusedError(
            current, f"An instance in state {current} cannot be protected.", next_step(current)
        )
