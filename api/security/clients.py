"""API clients: registering them, and verifying their secrets."""

import asyncio
import logging

from api.security.limits import LogIn
from ods.observability.logs import fault_name
from ods.registry.clients.secret_hashes import SecretHasher
from ods.registry.clients.store import ClientStore, Credentials

_AT_ONCE = 2
"""Log-ins of a tenant whose secrets are judged at once: so many may get past its limit of failures."""

_logger = logging.getLogger(__name__)


class ApiClients:
    """Registers API clients and verifies their secrets, of which only hashes are kept, by default argon2id.

    Args:
        store: where the clients are.
        slots: held while a secret is hashed, by the clients of all tenants; never while a registry is asked.
        shared: whether an Admin API verifies the same secrets: it can read no hash but its own, so they stay.
    """

    def __init__(self, store: ClientStore, slots: asyncio.Semaphore, *, shared: bool = False) -> None:
        self._store = store
        self._hasher = SecretHasher(shared=shared)
        self._slots = slots
        self._log_ins = asyncio.Semaphore(_AT_ONCE)

    async def register(self, client_id: str, secret: str, display_name: str) -> None:
        """Add a client that may do everything.

        Raises:
            ClientExistsError: there is a client with this id.
        """
        await self._store.add(client_id, await self.hash(secret), display_name)

    async def hash(self, secret: str) -> str:
        """The hash of a new secret, as the registry keeps it."""
        async with self._slots:
            return await asyncio.to_thread(self._hasher.hash, secret)

    async def exists(self, client_id: str) -> bool:
        """Whether there is a client with this id."""
        return await self._store.exists(client_id)

    async def verify(self, client_id: str, secret: str, log_in: LogIn) -> Credentials | None:
        """What the client may do if `secret` is its own, else None.

        A client that does not exist, or may not have tokens, is refused as slowly as a wrong secret.
        The first use of a secret that an Admin API hashed replaces its hash, unless that verifies it, too.

        Raises:
            ProblemError: 429, there were too many failures before.
        """
        credentials = await self._store.credentials(client_id)
        stored = credentials.secret_hash if credentials else None
        async with self._log_ins:  # a failure is counted before the next log-in has its turn
            await log_in.require_admitted()
            async with self._slots:
                verdict = await asyncio.to_thread(self._hasher.judge, stored, secret)
            await log_in.note(succeeded=verdict.matches)
        if verdict.replacement is not None:
            await self._replace(client_id, stored, verdict.replacement)
        return credentials if verdict.matches else None

    async def note_use(self, client_id: str) -> None:
        """Record that the client was used now; a failure is only logged."""
        try:
            await self._store.note_use(client_id)
        except Exception as error:  # noqa: BLE001 - the client has its answer
            _logger.warning("The time of a client's last use stays as it was: %s", fault_name(error))

    async def _replace(self, client_id: str, outdated: str | None, replacement: str) -> None:
        try:
            await self._store.replace_hash(client_id, outdated, replacement)
        except Exception as error:  # noqa: BLE001 - the client has proven who it is
            _logger.warning("The hash of a client's secret stays as it was: %s", fault_name(error))
