"""What the page *Templates* shows: what instances can be made of, and what loads have left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.dependencies import TemplateInspectorDep
from ods.databases.errors import DatabaseFaultError
from ods.databases.templates.reports import TemplateLeftover, TemplateReport


@dataclass(frozen=True)
class TemplatesPage:
    """What the page shows.

    Attributes:
        templates: all of the tenant, in the order of the settings.
        leftovers: what loads have left, and those that run now.
        fault: why the server of the ODS databases does not tell; None if it does.
    """

    templates: Sequence[TemplateReport] = ()
    leftovers: Sequence[TemplateLeftover] = ()
    fault: str | None = None


class TemplatesView:
    """Reads what the page shows."""

    def __init__(self, templates: TemplateInspectorDep) -> None:
        self._templates = templates

    async def page(self) -> TemplatesPage:
        """All templates; without the server, why it does not answer."""
        try:
            return TemplatesPage(await self._templates.report(), await self._templates.leftovers())
        except DatabaseFaultError as fault:
            return TemplatesPage(fault=fault.reason)


TemplatesViewDep = Annotated[TemplatesView, Depends()]
