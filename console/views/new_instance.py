"""What the page *New instance* shows, and the request for an instance that its form makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends

from api.bulk_service import BulkServiceDep
from api.dependencies import BackupRecordsDep, InstanceQueriesDep, SettingsDep
from api.http.parsing import Properties
from api.schemas.plans import Plan
from console.views.instances import LISTED
from console.views.key_values import contexts_of, labels_of
from registry.backups.records import BackupFilter
from registry.instances.instance_list import InstanceFilter
from registry.instances.naming import database_name, name_errors
from registry.instances.origins import CopyMode
from registry.storage.listing import Page
from registry.storage.models import Backup

FIELDS = {
    "Name": "name",
    "DatabaseTemplate": "template",
    "CopyOf": "copy_of",
    "Mode": "mode",
    "BackupId": "backup",
    "Description": "description",
    "Labels": "labels",
    "Contexts": "contexts",
    "ContextKey": "contexts",
    "ContextValue": "contexts",
}
"""For each property of the API, the field of the form."""
_SHOWN_BACKUPS = 100


@dataclass(frozen=True)
class NewInstanceChoices:
    """What can be chosen in the form.

    Attributes:
        templates: the names of the templates.
        backups: stored backups, the newest first.
        protects: whether new instances are protected unless the request says otherwise.
    """

    templates: Sequence[str]
    backups: Sequence[Backup]
    protects: bool

    @property
    def template_options(self) -> list[tuple[str, str]]:
        """The templates as a field of choices has them."""
        return [(name, name) for name in self.templates]


@dataclass(frozen=True)
class NewInstancePlan:
    """What the request would do.

    Attributes:
        plan: the dry run of the API.
        database: the name of the database; empty while the name cannot be one of an instance.
    """

    plan: Plan
    database: str


class NewInstanceView:
    """Reads what the page shows."""

    def __init__(
        self,
        bulk: BulkServiceDep,
        queries: InstanceQueriesDep,
        backups: BackupRecordsDep,
        settings: SettingsDep,
    ) -> None:
        self._bulk = bulk
        self._queries = queries
        self._backups = backups
        self._settings = settings

    async def choices(self) -> NewInstanceChoices:
        """What can be chosen in the form."""
        backups = await self._backups.page(BackupFilter(), Page("Id", limit=_SHOWN_BACKUPS))
        return NewInstanceChoices(
            list(self._settings.template_databases),
            [state.backup for state in backups if state.backup.stored_id is not None],
            self._settings.protect_new,
        )

    async def request(self, form: Mapping[str, str]) -> Properties[Any]:
        """The body that the API would be sent for the same instance."""
        body: dict[str, Any] = {
            "name": form.get("name", ""),
            "description": form.get("description", "").strip() or None,
            "labels": labels_of(form.get("labels", "")) or None,
            "contexts": contexts_of(form.get("contexts", "")) or None,
            "protected": form.get("protected") == "true",
        }
        match form.get("origin", "template"):
            case "copy":
                body["copyOf"] = await self._source(form.get("copy_of", ""))
                body["mode"] = form.get("mode") or None
            case "backup":
                body["backupId"] = form.get("backup", "")
            case _:
                body["databaseTemplate"] = form.get("template", "")
        return Properties(body)

    async def plan(self, form: Mapping[str, str]) -> NewInstancePlan:
        """What the request would do."""
        plan = await self._bulk.plan_create(await self.request(form))
        planned = [job.database_name for job in plan.instances if job.database_name]
        return NewInstancePlan(plan, planned[0] if planned else self._database(form))

    def _database(self, form: Mapping[str, str]) -> str:
        """The name that the database would have, also while something else is wrong."""
        name, template = form.get("name", ""), form.get("template", "")
        if form.get("origin", "template") != "template" or name_errors(name, template):
            return ""
        return database_name(name.strip(), template)

    async def _source(self, typed: str) -> str | int:
        """The id of the instance that was typed, by its id or its name; else what was typed."""
        typed = typed.strip()
        chosen = InstanceFilter(name=typed, statuses=LISTED)
        if not typed or not chosen.is_storable:
            return typed
        rows = await self._queries.chosen_instances(chosen, Page("Id", limit=2))
        return rows[0].id if len(rows) == 1 else typed


NewInstanceViewDep = Annotated[NewInstanceView, Depends()]
MODES = tuple(CopyMode)
