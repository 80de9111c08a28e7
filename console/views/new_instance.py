"""What the page *New instance* shows, and the request for an instance that its form makes."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends

from api.bulk_service import BulkServiceDep
from api.http.parsing import Properties
from console.views.key_values import contexts_of, labels_of
from console.views.origins import ORIGIN_FIELDS, DryRun, OriginViewDep
from registry.instances.naming import database_name, name_errors

FIELDS = {
    **ORIGIN_FIELDS,
    "Name": "name",
    "Description": "description",
    "Labels": "labels",
    "Contexts": "contexts",
    "ContextKey": "contexts",
    "ContextValue": "contexts",
}
"""For each property of the API, the field of the form."""


class NewInstanceView:
    """Reads what was typed into the page."""

    def __init__(self, bulk: BulkServiceDep, origins: OriginViewDep) -> None:
        self._bulk = bulk
        self._origins = origins

    async def request(self, form: Mapping[str, str]) -> Properties[Any]:
        """The body that the API would be sent for the same instance."""
        body: dict[str, Any] = {
            "name": form.get("name", ""),
            "description": form.get("description", "").strip() or None,
            "labels": labels_of(form.get("labels", "")) or None,
            "contexts": contexts_of(form.get("contexts", "")) or None,
            "protected": form.get("protected") == "true",
        }
        return Properties(body | await self._origins.body(form))

    async def plan(self, form: Mapping[str, str]) -> DryRun:
        """What the request would do."""
        plan = await self._bulk.plan_create(await self.request(form))
        planned = [job.database_name for job in plan.instances if job.database_name]
        return DryRun(plan, planned[0] if planned else self._database(form))

    def _database(self, form: Mapping[str, str]) -> str:
        """The name that the database would have, also while something else is wrong."""
        name, template = form.get("name", ""), form.get("template", "")
        if form.get("origin", "template") != "template" or name_errors(name, template):
            return ""
        return database_name(name.strip(), template)


NewInstanceViewDep = Annotated[NewInstanceView, Depends()]
