"""What a Temporal namespace must know before workflows are started in it: the search attributes."""

import logging

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from workflows.search_attributes import INSTANCE_ID, NAME, OPERATION, STATUS, TEMPLATE, TENANT

_logger = logging.getLogger(__name__)

SEARCH_ATTRIBUTE_TYPES = {
    TENANT.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    INSTANCE_ID.name: IndexedValueType.INDEXED_VALUE_TYPE_INT,
    NAME.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    TEMPLATE.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    OPERATION.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    STATUS.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
}


async def register_search_attributes(client: Client) -> None:
    """Add the search attributes that the namespace lacks; without them it refuses to start a workflow.

    Where only an administrator of Temporal may add them, they are taken to be there.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached.
    """
    try:
        await _add_missing(client)
    except RPCError as error:
        if error.status not in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
            raise
        _logger.warning(
            "An administrator of Temporal must add the search attributes %s.",
            ", ".join(SEARCH_ATTRIBUTE_TYPES),
        )


async def missing_search_attributes(client: Client) -> dict[str, IndexedValueType.ValueType]:
    """The search attributes that the namespace lacks, with their types.

    Raises:
        temporalio.service.RPCError: Temporal cannot be reached, or the service may not ask.
    """
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return {
        name: kind for name, kind in SEARCH_ATTRIBUTE_TYPES.items() if name not in listed.custom_attributes
    }


async def _add_missing(client: Client) -> None:
    if missing := await missing_search_attributes(client):
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
