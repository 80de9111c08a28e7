"""The search attributes of workflows, for the Temporal Web UI and `temporal workflow list`.

`ods/temporal/namespace.py` registers them.
"""

from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from ods.model.operations import REFRESH, InstanceStatus, JobStatus
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.jobs import InstanceJob

TENANT = SearchAttributeKey.for_keyword("OdsTenant")
INSTANCE_ID = SearchAttributeKey.for_int("OdsInstanceId")
NAME = SearchAttributeKey.for_keyword("OdsInstanceName")
TEMPLATE = SearchAttributeKey.for_keyword("OdsTemplate")
OPERATION = SearchAttributeKey.for_keyword("OdsOperation")
STATUS = SearchAttributeKey.for_keyword("OdsStatus")


def of(job: InstanceJob, status: InstanceStatus) -> TypedSearchAttributes:
    """The attributes of a workflow that carries out `job`."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(TENANT, job.tenant),
            SearchAttributePair(INSTANCE_ID, job.ods_instance_id),
            SearchAttributePair(NAME, job.name),
            SearchAttributePair(TEMPLATE, job.template),
            SearchAttributePair(OPERATION, job.kind.name),
            SearchAttributePair(STATUS, status),
        ]
    )


def of_refresh(scope: Scope) -> TypedSearchAttributes:
    """The attributes of a workflow that reads the education organizations of `scope`."""
    known: list[SearchAttributePair[Any]] = [
        SearchAttributePair(TENANT, scope.tenant),
        SearchAttributePair(OPERATION, REFRESH),
        SearchAttributePair(STATUS, JobStatus.PENDING),
    ]
    if scope.ods_instance_id is not None:
        known.append(SearchAttributePair(INSTANCE_ID, scope.ods_instance_id))
    return TypedSearchAttributes(known)
