"""Requests for resets: what the database that takes the place of an instance's is made of."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends

from api.dependencies import InstanceQueriesDep, InstanceStoreDep
from api.faults import faults_of
from api.http.audit_context import AuditContextDep
from api.http.parsing import Properties
from api.http.problems import explained
from api.instance_origins import OriginReaderDep
from api.schemas.plans import Plan
from api.services.instances import InstanceServiceDep
from api.services.plans import PlanServiceDep
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InvalidError, RefusedError, require_valid


class ResetService:
    """Carries such requests out, or tells what they would do."""

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        instances: InstanceStoreDep,
        queries: InstanceQueriesDep,
        origins: OriginReaderDep,
        service: InstanceServiceDep,
        plans: PlanServiceDep,
        audit: AuditContextDep,
    ) -> None:
        self._instances = instances
        self._queries = queries
        self._origins = origins
        self._service = service
        self._plans = plans
        self._audit = audit

    async def reset(self, instance_id: int, body: Properties[Any]) -> Requested:
        """Request that the instance's database is replaced by another one, as `body` says.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            InvalidError: naming everything that is wrong with the body.
            RefusedError: the instance cannot be reset, or the other one that it names not be copied.
        """
        self._audit.instance = instance_id
        # 404 is checked before the body.
        row = await self._queries.instance(instance_id)
        wanted = await self._origins.read_for_reset(body, row.database_template)
        require_valid(wanted.errors)
        return await self._service.launched(
            await self._instances.request_reset(
                instance_id, wanted.template, self._audit.client, wanted.origin
            )
        )

    async def plan(self, instance_id: int, body: Properties[Any]) -> Plan:
        """What `reset` would do.

        Raises:
            InstanceNotFoundError: there is no such live instance.
        """
        row = await self._queries.instance(instance_id)
        wanted = await self._origins.read_for_reset(body, row.database_template)
        try:
            require_valid(wanted.errors)
        except InvalidError as refusal:
            return await self._plans.of_reset(row, None, faults_of(refusal))
        errors: Mapping[str, Sequence[str]] = {}
        status = HTTPStatus.ACCEPTED
        try:
            await self._instances.require_resettable(instance_id, wanted.origin)
        except (InvalidError, RefusedError) as refusal:
            errors = {name or "Id": faults for name, faults in faults_of(refusal).items()}
            status = explained(refusal).status
        return await self._plans.of_reset(row, wanted, errors, status)


ResetServiceDep = Annotated[ResetService, Depends()]
