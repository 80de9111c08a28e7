"""What instances can be searched by in the Temporal Web UI and with `temporal workflow list`."""

import logging
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from registry.education_organizations.refreshes import Scope
from registry.instances.jobs import InstanceJob
from registry.instances.status import InstanceStatus, JobStatus
from registry.storage.models import REFRESH

TENANT = SearchAttributeKey.for_keyword("OdsTenant")
INSTANCE_ID = SearchAttributeKey.for_int("OdsInstanceId")
NAME = SearchAttributeKey.for_keyword("OdsInstanceName")
TEMPLATE = SearchAttributeKey.for_keyword("OdsTemplate")
OPERATION = SearchAttributeKey.for_keyword("OdsOperation")
STATUS = SearchAttributeKey.for_keyword("OdsStatus")

_logger = logging.getLogger(__name__)

TYPES = {
    TENANT.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    INSTANCE_ID.name: IndexedValueType.INDEXED_VALUE_TYPE_INT,
    NAME.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    TEMPLATE.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    OPERATION.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    STATUS.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
}


def of(job: InstanceJob, status: InstanceStatus) -> TypedSearchAttributes:
    """The attributes of a workflow that carries out `job`."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(TENANT, job.tenant),
            SearchAttributePair(INSTANCE_ID, job.ods_instance_id),
            SearchAttributePair(NAME, job.name),
            SearchAttributePair(TEMPLATE, job.template),
            SearchAttributePair(OPERATION, job.operation),
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


async def register(client: Client) -> None:
    """Make the namespace know the attributes; without them it refuses to start a workflow.

    Where only an administrator may add them, they are taken to be there.

    Raises:
        temporalio.service.RPCError: the server cannot be reached.
    """
    try:
        await _add_missing(client)
    except RPCError as error:
        if error.status not in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
            raise
        _logger.warning("An administrator of Temporal must add the search attributes %s.", ", ".join(TYPES))


async def _add_missing(client: Client) -> None:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = {name: kind for name, kind in TYPES.items() if name not in listed.custom_attributes}
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
