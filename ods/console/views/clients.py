"""What the page *Clients* shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query

from api.services.clients import ClientServiceDep
from ods.console.texts import t
from ods.console.views.paging import Paging
from ods.console.views.statuses import Badge
from ods.registry.clients.administration import Client
from ods.registry.clients.credentials import ClientScope

PER_PAGE = 25
SCOPES = tuple(ClientScope)

ClientId = Annotated[str, Query()]
"""The id of a client, in the query of a page: it may hold any characters."""


@dataclass(frozen=True)
class ClientRow:
    """One line of the list.

    Attributes:
        client: the client.
        badge: whether it may get tokens.
        scope: what it may do, in words.
        download: whether it may download backups, in words.
    """

    client: Client
    badge: Badge
    scope: str
    download: str


@dataclass(frozen=True)
class ClientsPage:
    """What the list shows."""

    rows: Sequence[ClientRow]
    paging: Paging


class ClientsView:
    """Reads what the pages show."""

    def __init__(self, service: ClientServiceDep) -> None:
        self._service = service

    async def page(self, number: int) -> ClientsPage:
        """A part of the list."""
        clients = await self._service.clients()
        paging = Paging(number, PER_PAGE, len(clients))
        return ClientsPage([client_row(one) for one in clients[paging.first - 1 : paging.last]], paging)

    async def row(self, client_id: str) -> ClientRow:
        """One client.

        Raises:
            ProblemError: 404, there is none.
        """
        return client_row(await self._service.get(client_id))


ClientsViewDep = Annotated[ClientsView, Depends()]


def client_row(client: Client) -> ClientRow:
    """A client as the pages show it."""
    download = t("clients.downloads") if client.backup_download else t("clients.downloads_not")
    return ClientRow(client, _badge(client), t(f"clients.scope.{client.scope}"), download)


def _badge(client: Client) -> Badge:
    if not client.enabled:
        return Badge(t("clients.disabled"), "gone", "○")
    if client.expires is not None and client.expires <= datetime.now(UTC).replace(tzinfo=None):
        return Badge(t("clients.expired"), "gone", "○")
    return Badge(t("clients.enabled"), "good", "●")
