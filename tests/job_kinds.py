"""The kinds of jobs by their names, for tests that try each of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ods.model.arguments import (
    DROP_AT_ONCE,
    KEEP,
    NO_ARGUMENTS,
    Arguments,
    MakeArguments,
    PurgeArguments,
    rules_of,
)
from ods.model.operations import Operation
from ods.model.origins import FROM_TEMPLATE, EarlierDatabase, Origin
from ods.registry.instances.jobs import InstanceJob

_KINDS: tuple[tuple[Operation, Arguments], ...] = (
    (Operation.CREATE, MakeArguments(FROM_TEMPLATE)),
    (Operation.DELETE, DROP_AT_ONCE),
    (Operation.RENAME, NO_ARGUMENTS),
    (Operation.DELETE, KEEP),
    (Operation.DETACH, NO_ARGUMENTS),
    (Operation.UNDELETE, NO_ARGUMENTS),
    (Operation.PURGE, PurgeArguments(backup_first=False)),
    (Operation.BACKUP, NO_ARGUMENTS),
    (Operation.SNAPSHOT, NO_ARGUMENTS),
    (Operation.RESET, MakeArguments(FROM_TEMPLATE)),
    (Operation.RESET, MakeArguments(EarlierDatabase("0f6b1f6e-1111-4222-8333-444444444444"))),
)
JOB_KINDS: Mapping[str, tuple[Operation, Arguments]] = {rules_of(*kind).name: kind for kind in _KINDS}
"""Operation and arguments of each kind: those of a delete to the trash are called `Trash`."""


def of_kind(job: InstanceJob, kind: str, **changes: Any) -> InstanceJob:
    """The same job, if it was of this kind."""
    operation, arguments = JOB_KINDS[kind]
    return replace(job, **{"operation": operation, "arguments": arguments, **changes})


def kind_of(job: InstanceJob) -> str:
    """The kind that a job is of."""
    return job.rules.name


def made_of(create: InstanceJob, origin: Origin) -> InstanceJob:
    """The same create, of this origin."""
    return replace(create, arguments=MakeArguments(origin))
