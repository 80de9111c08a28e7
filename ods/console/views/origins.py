"""Where a database comes from, as the forms *New instance* and *Reset* ask for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends

from api.dependencies import BackupRecordsDep, InstanceQueriesDep, SettingsDep
from api.schemas.plans import Plan
from ods.console.texts import t
from ods.console.views.ids import id_of
from ods.console.views.instances import LISTED
from ods.recovery.compare.findings import Drift
from ods.registry.backups.records import BackupFilter
from ods.registry.instances.instance_list import InstanceFilter
from ods.registry.storage.listing import Page
from ods.registry.storage.models import Backup, DbInstance

ORIGIN_FIELDS = {"DatabaseTemplate": "template", "CopyOf": "copy_of", "Mode": "mode", "BackupId": "backup"}
"""For each property of the API, the field of the form."""
_SHOWN_BACKUPS = 100


@dataclass(frozen=True)
class OriginChoices:
    """What can be chosen in the form.

    Attributes:
        templates: the names of the templates.
        backups: stored backups, the newest first; before them those of the instance, if it is about one.
    """

    templates: Sequence[str]
    backups: Sequence[Backup]

    @property
    def template_options(self) -> list[tuple[str, str]]:
        """The templates as a field of choices has them."""
        return [(name, name) for name in self.templates]


@dataclass(frozen=True)
class DryRun:
    """What the request would do.

    Attributes:
        plan: the dry run of the API.
        database: the name of the database; empty while the name cannot be one of an instance.
        in_the_way: what the last look at the server has found of another database of that name; None if it
            has found none.
        source: the instance that would be copied; None if none would be.
    """

    plan: Plan
    database: str
    in_the_way: Drift | None = None
    source: DbInstance | None = None


def chosen_errors(
    errors: Mapping[str, Sequence[str]], form: Mapping[str, str], name: str = "BackupId"
) -> Mapping[str, Sequence[str]]:
    """The API's errors; that no backup is chosen is said as the form asks for one.

    Args:
        errors: what is wrong with each property or field.
        form: what was typed.
        name: under this are the errors of the backup.
    """
    if name not in errors or form.get("backup"):
        return errors
    return {**errors, name: [t("origin.no_backup")]}


def chosen_plan(plan: DryRun, form: Mapping[str, str]) -> DryRun:
    """The dry run with `chosen_errors`."""
    errors = chosen_errors(plan.plan.errors, form)
    return replace(plan, plan=plan.plan.model_copy(update={"errors": errors}))


class OriginView:
    """Reads what the form shows, and what was typed into it."""

    def __init__(self, queries: InstanceQueriesDep, backups: BackupRecordsDep, settings: SettingsDep) -> None:
        self._queries = queries
        self._backups = backups
        self._settings = settings

    async def choices(self, instance_id: int | None = None) -> OriginChoices:
        """What can be chosen.

        Args:
            instance_id: the instance that the form is about, if there is one already.
        """
        backups = await self._stored(BackupFilter())
        if instance_id is not None:
            backups = {**await self._stored(BackupFilter(instance_id=instance_id)), **backups}
        return OriginChoices(list(self._settings.template_databases), list(backups.values()))

    async def typed(self, instance_id: str) -> str:
        """What a person would type for the instance: its name if no other one has it, else its id."""
        number = id_of(instance_id)
        row = None if number is None else await self._queries.any_instance(number)
        return row.name if row and await self._source(row.name) == row.id else instance_id

    async def body(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The members of the body that the API would be sent for the same origin."""
        match form.get("origin", "template"):
            case "copy":
                return {
                    "copyOf": await self._source(form.get("copy_of", "")),
                    "mode": form.get("mode") or None,
                }
            case "backup":
                return {"backupId": form.get("backup", "")}
            case _:
                return {"databaseTemplate": form.get("template", "")}

    async def source_of(self, plan: Plan) -> DbInstance | None:
        """The instance that would be copied; None if none would be."""
        copied = [job.copy_of for job in plan.instances if job.copy_of is not None]
        return await self._queries.any_instance(copied[0]) if copied else None

    async def _stored(self, chosen: BackupFilter) -> dict[object, Backup]:
        states = await self._backups.page(chosen, Page("Id", limit=_SHOWN_BACKUPS))
        return {state.backup.id: state.backup for state in states if state.backup.stored_id is not None}

    async def _source(self, typed: str) -> str | int:
        """The id of the instance with the name that was typed; else what was typed. A number is an id.

        What begins with a zero, as codes of districts do, is none.
        """
        typed = typed.strip()
        if typed.isascii() and typed.isdigit() and not typed.startswith("0"):
            return typed
        chosen = InstanceFilter(name=typed, statuses=LISTED)
        if not typed or not chosen.is_storable:
            return typed
        rows = await self._queries.chosen_instances(chosen, Page("Id", limit=2))
        return rows[0].id if len(rows) == 1 else typed


OriginViewDep = Annotated[OriginView, Depends()]
