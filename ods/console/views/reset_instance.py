"""What the pages show before the database of an instance is replaced, or the one before it comes back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends

from api.dependencies import InstanceQueriesDep, InstanceUsageDep, SettingsDep
from api.http.parsing import Properties
from api.http.problems import found
from api.services.resets import ResetServiceDep
from ods.console.views.in_use import InUse
from ods.console.views.origins import DryRun, OriginChoices, OriginViewDep, chosen_plan
from ods.registry.instances.refusals import protection_refusal
from ods.registry.storage.models import InstanceDatabase


@dataclass(frozen=True)
class ResetPage:
    """What the pages show.

    Attributes:
        one: the instance, and who uses it.
        protection: why its data must stay; None if it is not protected.
        choices: what it can be reset to.
        days: how long the database that is replaced can come back; 0 if it cannot.
        version: the database that it had before, which would come back; None if it cannot, or none can.
    """

    one: InUse
    protection: str | None
    choices: OriginChoices
    days: int
    version: InstanceDatabase | None

    @property
    def told(self) -> str:
        """What becomes of the database that is replaced, so that the form tells what the client was told.

        If it is dropped, also after which job: another one since, such as a reset, may have replaced it.
        """
        return str(self.days or f"0:{self.one.row.job_number}")


class ResetView:
    """Reads what the pages show."""

    def __init__(
        self,
        queries: InstanceQueriesDep,
        usage: InstanceUsageDep,
        settings: SettingsDep,
        origins: OriginViewDep,
        resets: ResetServiceDep,
    ) -> None:
        self._queries = queries
        self._origins = origins
        self._resets = resets
        self._usage = usage
        self._settings = settings

    async def page(self, instance_id: int, database: str | None = None) -> ResetPage:
        """What a reset, or the undoing of one, would do to the instance.

        Args:
            instance_id: the instance.
            database: the name of the version that would come back; None: the one that was replaced last.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        row = found(await self._queries.any_instance(instance_id), "instance", instance_id)
        refusal = protection_refusal(row)
        versions = await self._queries.versions_of(instance_id)
        return ResetPage(
            InUse(row, (await self._usage.of_page([row]))(row)),
            None if refusal is None else refusal.reason,
            await self._origins.choices(instance_id),
            self._settings.trash_days,
            next((one for one in versions if _can_come_back(one, database)), None),
        )

    async def request(self, form: Mapping[str, str]) -> Properties[Any]:
        """The body that the API would be sent for the same reset."""
        return Properties(await self._origins.body(form))

    async def plan(self, instance_id: int, form: Mapping[str, str]) -> DryRun:
        """What the request would do.

        Raises:
            InstanceNotFoundError: there is no such live instance.
        """
        plan = await self._resets.plan(instance_id, await self.request(form))
        database = (await self._queries.instance(instance_id)).database_name or ""
        return chosen_plan(DryRun(plan, database, source=await self._origins.source_of(plan)), form)


def _can_come_back(version: InstanceDatabase, database: str | None) -> bool:
    return version.purging_since is None and database in {None, version.trash_name}


ResetViewDep = Annotated[ResetView, Depends()]
