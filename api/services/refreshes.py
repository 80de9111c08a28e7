"""Requests to read the education organizations of ODS databases anew."""

from typing import Annotated

from fastapi import Depends

from api.dependencies import JobDispatcherDep, RefreshJobsDep, TenantNameDep
from api.http.audit_context import AuditContextDep
from ods.registry.education_organizations.refreshes import Scope


class RefreshService:
    """Records such requests and starts their jobs."""

    def __init__(
        self,
        tenant: TenantNameDep,
        refreshes: RefreshJobsDep,
        dispatcher: JobDispatcherDep,
        audit: AuditContextDep,
    ) -> None:
        self._tenant = tenant
        self._refreshes = refreshes
        self._dispatcher = dispatcher
        self._audit = audit

    async def request(self, ods_instance_id: int | None) -> str:
        """Request a refresh of one ODS instance, or of all; returns the id of its job."""
        scope = Scope(ods_instance_id, self._tenant)
        job = self._audit.job = await self._refreshes.request(scope)
        await self._dispatcher.launch_refresh(job, scope)
        return job


RefreshServiceDep = Annotated[RefreshService, Depends()]
