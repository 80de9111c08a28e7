"""What the page *New instance* shows, and the request for an instance that its form makes."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends

from api.dependencies import ServerLooksDep
from api.http.parsing import Properties
from api.schemas.plans import Plan
from api.services.bulk import BulkServiceDep
from ods.console.views.key_values import contexts_of, labels_of
from ods.console.views.origins import ORIGIN_FIELDS, DryRun, OriginViewDep
from ods.recovery.compare.findings import Drift, DriftKind
from ods.registry.instances.naming import database_name, name_errors
from ods.registry.storage.errors import InvalidError

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


_IN_THE_WAY = (DriftKind.DATABASE_WITHOUT_INSTANCE, DriftKind.INTERRUPTED_DROP)
"""Contradictions of databases on the server that may have the name of an instance's."""


class NewInstanceView:
    """Reads what was typed into the page."""

    def __init__(self, bulk: BulkServiceDep, origins: OriginViewDep, looks: ServerLooksDep) -> None:
        self._looks = looks
        self._bulk = bulk
        self._origins = origins

    async def request(self, form: Mapping[str, str]) -> Properties[Any]:
        """The body that the API would be sent for the same instance.

        Raises:
            InvalidError: the labels cannot be read.
        """
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
        try:
            plan = await self._bulk.plan_create(await self.request(form))
        except InvalidError as refusal:
            status = HTTPStatus.BAD_REQUEST
            plan = Plan(status=status, errors=refusal.errors, instances=[], size_bytes=None, free_bytes=None)
        planned = [job.database_name for job in plan.instances if job.database_name]
        database = planned[0] if planned else self._database(form)
        return DryRun(plan, database, self._in_the_way(database), await self._origins.source_of(plan))

    def _in_the_way(self, database: str) -> Drift | None:
        """What the last look at the server has found of a database of this name; it is not looked at now."""
        found = self._looks.drift.found if self._looks.drift else ()
        return next((one for one in found if one.kind in _IN_THE_WAY and one.subject == database), None)

    def _database(self, form: Mapping[str, str]) -> str:
        """The name that the database would have, also while something else is wrong."""
        name, template = form.get("name", ""), form.get("template", "")
        if form.get("origin", "template") != "template" or name_errors(name, template):
            return ""
        return database_name(name.strip(), template)


NewInstanceViewDep = Annotated[NewInstanceView, Depends()]
