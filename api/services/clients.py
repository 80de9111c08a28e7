"""What operators do with API clients on the console, as `ods client` does at the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.dependencies import ApiClientsDep, TenantDep
from api.http.addresses import peer
from api.http.audit_context import audit_context
from api.http.problems import ProblemError
from api.security.registration import duplicate
from ods.registry.audit import AuditEntry, console_entry
from ods.registry.clients.administration import (
    Client,
    ClientAdministration,
    ClientNotFoundError,
    NewClient,
)
from ods.registry.clients.credentials import LONGEST_CLIENT_TEXT, ClientScope, client_id_errors, new_secret
from ods.registry.clients.store import ClientExistsError
from ods.registry.storage.errors import InvalidError, require_valid
from ods.registry.storage.rules import required_text_errors


@dataclass(frozen=True)
class NewSecret:
    """A client, and the secret that it has got.

    Attributes:
        client: the client.
        secret: the secret, of which only the hash is kept.
    """

    client: Client
    secret: str


class ClientService:
    """The clients of the tenant that the request is for; each change is in its audit trail."""

    def __init__(self, connection: HTTPConnection, tenant: TenantDep, clients: ApiClientsDep) -> None:
        self._clients = clients
        self._administration = ClientAdministration(
            tenant.engine, partial(_entry, connection), shared=tenant.settings.shares_clients
        )

    async def clients(self) -> Sequence[Client]:
        """All clients, by their ids."""
        return await self._administration.clients()

    async def get(self, client_id: str) -> Client:
        """One client.

        Raises:
            ProblemError: 404, there is none.
        """
        try:
            return await self._administration.find(client_id)
        except ClientNotFoundError:
            raise _not_found(client_id) from None

    async def create(self, form: Mapping[str, str]) -> NewSecret:
        """Add the client that the form describes: `ClientId`, `DisplayName`, `Scope`, `BackupDownload`.

        Raises:
            InvalidError: the form breaks rules, or another client has the id.
        """
        client_id = form.get("ClientId", "").strip()
        name = form.get("DisplayName", "").strip() or client_id
        scope = form.get("Scope", "")
        require_valid(
            {
                "ClientId": client_id_errors(client_id),
                "DisplayName": required_text_errors("Display Name", name, LONGEST_CLIENT_TEXT)
                if client_id
                else [],
                "Scope": _scope_errors(scope),
            }
        )
        secret = new_secret()
        download = bool(form.get("BackupDownload"))
        new = NewClient(client_id, name, ClientScope(scope), backup_download=download)
        try:
            client = await self._administration.add(new, await self._clients.hash(secret))
        except ClientExistsError:
            raise InvalidError({"ClientId": [duplicate(client_id)]}) from None
        return NewSecret(client, secret)

    async def disable(self, client_id: str) -> Client:
        """Refuse the client and its tokens, and end its sessions of the console.

        Raises:
            ProblemError: 404, there is none.
        """
        try:
            return await self._administration.disable(client_id)
        except ClientNotFoundError:
            raise _not_found(client_id) from None

    async def enable(self, client_id: str) -> Client:
        """Let the client sign in and get tokens again.

        Raises:
            ProblemError: 404, there is none.
        """
        try:
            return await self._administration.enable(client_id)
        except ClientNotFoundError:
            raise _not_found(client_id) from None

    async def change(self, client_id: str, *, backup_download: bool) -> Client:
        """Let the client download backups, or no longer; refuse its tokens, and end its sessions.

        Raises:
            ProblemError: 404, there is none.
        """
        try:
            return await self._administration.change(client_id, backup_download=backup_download)
        except ClientNotFoundError:
            raise _not_found(client_id) from None

    async def rotate(self, client_id: str, generation: str) -> NewSecret:
        """Give the client another secret, refuse its tokens, and end its sessions of the console.

        Args:
            client_id: the client.
            generation: the one that it had when the user decided; empty if it had none. A form that is sent
                twice changes the secret once.

        Raises:
            ProblemError: 404, there is none; 409, it has another generation now.
        """
        client = await self.get(client_id)
        if str(client.generation or "") != generation:
            raise ProblemError(
                HTTPStatus.CONFLICT,
                f"The client {client_id} has changed since",
                detail="It was disabled, or has got another secret. This request has changed nothing.",
                nextStep="Look at it again. If its new secret is lost, give it another one.",
            )
        secret = new_secret()
        hashed = await self._clients.hash(secret)
        try:
            return NewSecret(await self._administration.rotate(client_id, hashed), secret)
        except ClientNotFoundError:
            raise _not_found(client_id) from None


ClientServiceDep = Annotated[ClientService, Depends()]


def _entry(connection: HTTPConnection, command: str) -> AuditEntry:
    return console_entry(command, audit_context(connection).client or "", peer(connection))


def _not_found(client_id: str) -> ProblemError:
    return ProblemError.not_found("client", client_id)


def _scope_errors(scope: str) -> list[str]:
    if scope in set(ClientScope):
        return []
    return [f"'Scope' must be one of {', '.join(ClientScope)}."]
