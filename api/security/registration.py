"""Clients that register themselves, while registration is open."""

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from api.http.parsing import FORM_TYPE, Properties, documented_body
from api.http.problems import ProblemError
from api.security.clients import ApiClients
from api.security.limits import ConnectLimits
from ods.registry.clients.credentials import (
    LONGEST_CLIENT_TEXT,
    STRONG_SECRET,
    client_id_errors,
    secret_errors,
)
from ods.registry.clients.registration import RegistrationWindow
from ods.registry.clients.store import ClientExistsError
from ods.registry.storage.errors import InvalidError, require_valid
from ods.registry.storage.rules import REQUIRED_TEXT_PATTERN, required_text_errors

_Text = Annotated[
    str, Field(max_length=LONGEST_CLIENT_TEXT, json_schema_extra={"pattern": REQUIRED_TEXT_PATTERN})
]


class _RegistrationForm(BaseModel):
    ClientId: _Text
    ClientSecret: str = Field(json_schema_extra={"pattern": f"^{STRONG_SECRET.pattern}$"})
    DisplayName: _Text


REGISTRATION_BODY = documented_body(_RegistrationForm, FORM_TYPE)


class ClientRegistration:
    """Registers API clients of one tenant.

    Args:
        clients: where they are kept.
        window: the time for which an operator has opened registration.
        limits: how often an address may register clients.
        always_open: whether registration is open at any time.
    """

    def __init__(
        self, clients: ApiClients, window: RegistrationWindow, limits: ConnectLimits, *, always_open: bool
    ) -> None:
        self._clients = clients
        self._window = window
        self._limits = limits
        self._always_open = always_open

    async def admit(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: 429, the address has registered too often; 403, registration is closed.
        """
        await self._limits.admit_registration(connection)
        if not self._always_open and not await self._window.is_open():
            raise ProblemError(HTTPStatus.FORBIDDEN, "Registration is closed")

    async def register(self, form: Properties[str]) -> str:
        """Register the client that `form` describes; returns its id.

        Raises:
            InvalidError: the form breaks rules, or another client has the id.
        """
        client_id, secret = form.get("ClientId", ""), form.get("ClientSecret", "")
        require_valid(
            {
                "ClientId": await self._client_id_errors(client_id),
                "ClientSecret": secret_errors(secret),
                "DisplayName": required_text_errors(
                    "Display Name", form.get("DisplayName"), LONGEST_CLIENT_TEXT
                ),
            }
        )
        try:
            await self._clients.register(client_id, secret, form["DisplayName"])
        except ClientExistsError:  # another request has registered it since
            raise InvalidError({"ClientId": [duplicate(client_id)]}) from None
        return client_id

    async def _client_id_errors(self, client_id: str) -> list[str]:
        faults = client_id_errors(client_id)
        if not faults and await self._clients.exists(client_id):
            return [duplicate(client_id)]
        return faults


def duplicate(client_id: str) -> str:
    """What is wrong with the id of a new client if another one has it."""
    return f"A client with the id '{client_id}' already exists. Choose another id."
