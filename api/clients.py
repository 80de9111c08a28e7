"""The API clients of `adminapi.applications`, and the proof that one of them is asking."""

import asyncio
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from api.requests import is_storable
from instances.models import ApiClient

_HASHES_AT_ONCE = 2
"""Each takes a core and 19 MiB for some 20 ms, from a pool of threads that look-ups of hosts need as well."""


class ClientExistsError(Exception):
    """The client id belongs to somebody already."""


class ApiClients:
    """Registers API clients and verifies their secrets, of which only argon2id hashes are kept."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine)
        # Secrets of 32 characters and more cannot be guessed; more work would only slow every token down.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._decoy = self._hasher.hash(secrets.token_urlsafe())
        self._slots = asyncio.Semaphore(_HASHES_AT_ONCE)

    async def register(self, client_id: str, secret: str, display_name: str) -> None:
        """Add a client.

        Raises:
            ClientExistsError: there is a client with this id.
        """
        async with self._slots:
            hashed = await asyncio.to_thread(self._hasher.hash, secret)
        try:
            async with self._sessions.begin() as session:
                session.add(ApiClient(clientid=client_id, clientsecret=hashed, displayname=display_name))
        except IntegrityError:
            raise ClientExistsError from None

    async def verify(self, client_id: str, secret: str) -> bool:
        """Whether `secret` is the client's; a client that does not exist is refused as slowly as a secret."""
        stored = await self._stored_hash(client_id)
        async with self._slots:
            return await asyncio.to_thread(self._matches, stored or self._decoy, secret)

    async def _stored_hash(self, client_id: str) -> str | None:
        if not is_storable(client_id):
            return None
        async with self._sessions() as session:
            return await session.scalar(select(ApiClient.clientsecret).where(ApiClient.clientid == client_id))

    def _matches(self, hashed: str, secret: str) -> bool:
        try:
            return self._hasher.verify(hashed, secret)
        except InvalidHashError:  # an Admin API hashed it, in its own way
            return self._matches(self._decoy, secret)
        except VerificationError:
            return False
