"""What the pages show before the database of an instance is replaced, or the one before it comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.dependencies import InstanceQueriesDep, InstanceUsageDep, SettingsDep
from api.http.problems import found
from console.views.in_use import InUse
from registry.instances.protection import protection_refusal
from registry.storage.models import InstanceVersion


@dataclass(frozen=True)
class ResetPage:
    """What the pages show.

    Attributes:
        one: the instance, and who uses it.
        protection: why its data must stay; None if it is not protected.
        templates: the names of the templates.
        days: how long the database that is replaced can come back; 0 if it cannot.
        version: the database that it had before, which would come back; None if none can.
    """

    one: InUse
    protection: str | None
    templates: Sequence[str]
    days: int
    version: InstanceVersion | None

    @property
    def template_options(self) -> list[tuple[str, str]]:
        """The templates as a field of choices has them."""
        return [(name, name) for name in self.templates]


class ResetView:
    """Reads what the pages show."""

    def __init__(self, queries: InstanceQueriesDep, usage: InstanceUsageDep, settings: SettingsDep) -> None:
        self._queries = queries
        self._usage = usage
        self._settings = settings

    async def page(self, instance_id: int) -> ResetPage:
        """What a reset, or the undoing of one, would do to the instance.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        row = found(await self._queries.any_instance(instance_id), "instance", instance_id)
        refusal = protection_refusal(row)
        versions = await self._queries.versions_of(instance_id)
        return ResetPage(
            InUse(row, (await self._usage.of_page([row]))(row)),
            None if refusal is None else refusal.reason,
            list(self._settings.template_databases),
            self._settings.trash_days,
            next((one for one in versions if one.purging_since is None), None),
        )


ResetViewDep = Annotated[ResetView, Depends()]
