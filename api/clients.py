"""The API clients of `adminapi.applications`, and the proof that one of them is asking."""

import asyncio
import json
import logging

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth import FULL_ACCESS
from api.secret_hashes import SecretHasher
from instances.engine import single_statements
from instances.models import ApiClient
from instances.rules import is_storable
from logs import fault_name

_FULL_ACCESS_PERMISSION = f"scp:{FULL_ACCESS}"
"""How an Admin API writes down that a client may have the scope."""

_logger = logging.getLogger(__name__)


class ClientExistsError(Exception):
    """The client id belongs to somebody already."""


class ApiClients:
    """Registers API clients and verifies their secrets, of which only argon2id hashes are kept.

    Args:
        engine: where the clients are.
        slots: held while a secret is hashed.
    """

    def __init__(self, engine: AsyncEngine, slots: asyncio.Semaphore) -> None:
        self._sessions = single_statements(engine)
        self._hasher = SecretHasher()
        self._slots = slots

    async def register(self, client_id: str, secret: str, display_name: str) -> None:
        """Add a client.

        Raises:
            ClientExistsError: there is a client with this id.
        """
        async with self._slots:
            hashed = await asyncio.to_thread(self._hasher.hash, secret)
        try:
            async with self._sessions() as session:
                values = {"clientid": client_id, "clientsecret": hashed, "displayname": display_name}
                await session.execute(insert(ApiClient).values(**values))
        except IntegrityError:
            raise ClientExistsError from None

    async def exists(self, client_id: str) -> bool:
        """Whether there is a client with this id."""
        async with self._sessions() as session:
            found = await session.scalar(select(ApiClient.id).where(ApiClient.clientid == client_id))
        return found is not None

    async def verify(self, client_id: str, secret: str) -> bool:
        """Whether `secret` is the client's; a client that does not exist is refused as slowly as a secret.

        The first use of a secret that an Admin API hashed replaces its hash.
        """
        stored = await self._stored_hash(client_id)
        async with self._slots:
            verdict = await asyncio.to_thread(self._hasher.judge, stored, secret)
        if verdict.replacement is not None:
            await self._replace(client_id, stored, verdict.replacement)
        return verdict.matches

    async def _stored_hash(self, client_id: str) -> str | None:
        if not is_storable(client_id):
            return None
        async with self._sessions() as session:
            client = await session.scalar(select(ApiClient).where(ApiClient.clientid == client_id))
        return client.clientsecret if client and _may_do_everything(client) else None

    async def _replace(self, client_id: str, outdated: str | None, replacement: str) -> None:
        """Keep `replacement`, unless the hash was changed meanwhile."""
        unchanged = (ApiClient.clientid == client_id, ApiClient.clientsecret == outdated)
        try:
            async with self._sessions() as session:
                await session.execute(update(ApiClient).where(*unchanged).values(clientsecret=replacement))
        except Exception as error:  # noqa: BLE001 - the client has proven who it is
            _logger.warning("The hash of a client's secret stays as it was: %s", fault_name(error))


def _may_do_everything(client: ApiClient) -> bool:
    """Whether the client may have the scope; an Admin API can have narrowed that down, we do not."""
    if client.permissions is None:
        return True
    try:
        permissions = json.loads(client.permissions)
    except (ValueError, RecursionError):
        return False
    return isinstance(permissions, list) and _FULL_ACCESS_PERMISSION in permissions
