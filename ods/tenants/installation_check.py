"""Whether this installation may change anything on its server, which others may use as well.

The server itself shows which installations have databases on it: the comment of each names its installation,
is written in one transaction with the name, and is dropped with the database.

Other tenants of this service may have databases there as well. A comment has the name that the tenant had
when it was written, so that does not say whose a database is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from ods.databases.errors import LOST, DatabaseFaultError, translate_postgres_errors
from ods.databases.ownership import Owner
from ods.databases.server import Server
from ods.registry.installation import CONFIRMS, InstallationState, InstallationStore
from ods.registry.storage.engine import create_registry_engine
from ods.registry.storage.errors import InstallationNotConfirmedError

_KNOWN_SECONDS = 30
"""How long the server is not checked again after it was found in order."""

_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
_COMMENTS = "SELECT description FROM pg_shdescription WHERE classoid = 'pg_database'::regclass"


@dataclass(frozen=True)
class _Others:
    """Ids of other installations with databases on the server."""

    siblings: frozenset[str] = frozenset()  # other tenants of this service
    strangers: frozenset[str] = frozenset()
    unknown: Sequence[str] = ()  # tenants of this service that may be strangers: they cannot be asked now


@dataclass(frozen=True)
class OtherInstallation:
    """An installation with databases on the server that no tenant of this service has, by their comments.

    Attributes:
        tenants: the names that its tenants had when they made the databases.
        databases: how many there are.
    """

    id: str
    tenants: Sequence[str]
    databases: int


@dataclass(frozen=True)
class SameInstallation:
    """Another tenant of this service whose registry has the id of this installation."""

    tenant: str
    installation: str
    is_same_registry: bool  # by another address
    is_copy: bool  # it was copied or moved, and not confirmed since: this one is not the copy

    @property
    def obstacle(self) -> str:
        """Why nothing may be changed: either could drop the other's databases as its own."""
        if self.is_same_registry:
            return (
                f"The registry of tenant {self.tenant} is this one, by another address. Nothing is changed on"
                " the server until each tenant has a registry of its own in ODS_TENANTS, and the service was"
                f" restarted; {CONFIRMS} is refused."
            )
        copy, tenant = ("it", self.tenant) if self.is_copy else ("one of the two", "NAME")
        return (
            f"The registry of tenant {self.tenant} is the installation {self.installation} as well: {copy} is"
            " a copy. Nothing is changed on the server until the copy is an installation of its own: `ods"
            f" --tenant {tenant} recover --apply --as-new-installation`; {CONFIRMS} is refused."
        )


class InstallationCheck:
    """Compares a tenant's installation with what its registry and its server say."""

    def __init__(
        self,
        store: InstallationStore,
        tenant: str,
        siblings: Mapping[str, InstallationStore],
        *,
        shares_server: bool,
    ) -> None:
        self.tenant = tenant
        self._store = store
        self._siblings = siblings
        self._shares_server = shares_server
        self._told_apart: set[str] = set()
        self._in_order_until = 0.0

    async def id(self) -> str:
        """The installation's id."""
        return (await self._store.state()).id

    async def require_confirmed(self, session: asyncpg.Connection) -> None:
        """Refuse to change anything, if the operator must first say that this is meant.

        Raises:
            InstallationNotConfirmedError: the registry was copied or moved, the server is another one, or
                another installation has databases on it; or the registry of another tenant is the same.
        """
        await self._store.require_confirmed()
        if time.monotonic() < self._in_order_until:
            return
        if (obstacle := await self._examine(session, record=True)) is not None:
            raise InstallationNotConfirmedError(obstacle)
        self._in_order_until = time.monotonic() + _KNOWN_SECONDS

    async def obstacle(self, session: asyncpg.Connection) -> str | None:
        """What the operator must confirm before anything is changed on the server; None if nothing."""
        return await self._examine(session, record=False)

    async def _examine(self, session: asyncpg.Connection, *, record: bool) -> str | None:
        """As `obstacle`; with `record`, also record what needs no operator.

        That is a server that is seen for the first time, and other tenants of this service with databases on
        it: these are known from then on, also while their registries are away.
        """
        state = await self._store.state()
        if state.obstacle is not None:
            return state.obstacle
        if (other := await self.same_installation()) is not None:
            return other.obstacle
        system = await self.system(session)
        if state.server not in {None, system}:
            return (
                f"The server of ODS_MASTER_DSN is the PostgreSQL cluster {system}; this installation has"
                f" worked on the cluster {state.server}. Nothing is changed on it until the operator says"
                f" that this is meant: {CONFIRMS}."
            )
        others = _Others() if self._shares_server else await self._others(session, state.neighbours)
        if record and state.server is None:
            await self._store.accept_server(system, sorted(others.siblings))
        elif record and others.siblings:
            await self._store.accept_neighbours(sorted(others.siblings))
        if not others.strangers:
            return None
        named = ", ".join(sorted(others.strangers))
        obstacle = (
            f"Another installation has databases on the server of ODS_MASTER_DSN: {named}. This one is"
            f" {state.id}. Nothing is changed on it until the operator says that this is meant: {CONFIRMS},"
            " or ODS_SHARED_SERVER=true."
        )
        if others.unknown:
            obstacle += (
                f" It may be another tenant of this service: the registry of {', '.join(others.unknown)} is"
                " away, or must be confirmed itself."
            )
        return obstacle

    async def same_installation(self) -> SameInstallation | None:
        """Another tenant of this service whose registry has the installation's id; None if none is known.

        Each would take the other's databases for its own, whether it was confirmed or not. A registry with
        another id is not asked again: a copy that takes its place must be confirmed, which is refused. One
        that is away is asked with the next look.
        """
        unknown = {name: one for name, one in self._siblings.items() if name not in self._told_apart}
        if not unknown:
            return None
        own = await self._store.state()
        found = {name: state for name, state in (await _states_of(unknown)).items() if state is not None}
        same = {name: state for name, state in found.items() if state.id == own.id}
        self._told_apart |= found.keys() - same.keys()
        if not same:
            return None
        name, state = min(same.items(), key=itemgetter(0))
        return SameInstallation(name, own.id, own.is_same_registry(state), state.obstacle is not None)

    async def obstacle_to_take_over(self, session: asyncpg.Connection, installation: str) -> str | None:
        """Why this registry may not go on as that installation, which has lost its own; None if it may."""
        if installation not in {owner.installation for owner in await _owners(session)}:
            return f"No database on the server of ODS_MASTER_DSN is of the installation {installation}."
        for name, state in (await _states_of(self._siblings)).items():
            if state is None:
                return f"The registry of tenant {name} is away: it may be the installation {installation}."
            if state.id == installation:
                return f"Tenant {name} is the installation {installation}: its registry is not lost."
        return None

    def forget(self) -> None:
        """Compare with other tenants and the server anew: the registry is another installation now."""
        self._told_apart.clear()
        self._in_order_until = 0.0

    @property
    def unasked(self) -> list[str]:
        """Tenants of this service of which it is not known that they are other installations."""
        return sorted(self._siblings.keys() - self._told_apart)

    async def known_obstacle(self, server: Server) -> str | None:
        """As `obstacle`; while the server is away, what the registry knows or a job has found.

        A server that was in order within the last 30 seconds is not checked again, unless a job has found an
        obstacle since: that may be over.
        """
        awaited = await self._store.awaited()
        if awaited is None and time.monotonic() < self._in_order_until:
            return None
        try:
            async with server.session() as session:
                obstacle = await self._examine(session, record=True)
        except DatabaseFaultError:
            return awaited
        if obstacle is None:
            self._in_order_until = time.monotonic() + _KNOWN_SECONDS
        return obstacle

    async def system(self, session: asyncpg.Connection) -> str:
        """System identifier of the server's PostgreSQL cluster, which its standbys share."""
        with translate_postgres_errors({}):
            return str(await session.fetchval(_SYSTEM))

    async def others(self, session: asyncpg.Connection) -> frozenset[str]:
        """Ids of installations on the server that no tenant of this service has, also if any may be there."""
        return (await self._others(session)).strangers

    async def described_others(self, session: asyncpg.Connection) -> Sequence[OtherInstallation]:
        """What the comments say of those."""
        strangers, owners = await self.others(session), await _owners(session)
        return [
            OtherInstallation(
                one,
                sorted({owner.tenant for owner in owners if owner.installation == one}),
                sum(owner.installation == one for owner in owners),
            )
            for one in sorted(strangers)
        ]

    async def count_own(self, session: asyncpg.Connection) -> int:
        """How many databases on the server carry the installation's id."""
        own = await self.id()
        return sum(owner.installation == own for owner in await _owners(session))

    async def _others(self, session: asyncpg.Connection, accepted: Collection[str] = ()) -> _Others:
        there = {owner.installation for owner in await _owners(session)}
        found = frozenset(there - {await self.id(), *accepted})
        if not found:
            return _Others()
        states = await _states_of(self._siblings)
        known = {name: state.id for name, state in states.items() if state is not None and state.is_confirmed}
        siblings = found.intersection(known.values())
        return _Others(siblings, found - siblings, sorted(states.keys() - known.keys()))


async def _owners(session: asyncpg.Connection) -> list[Owner]:
    """Whose the databases of instances on the server are."""
    with translate_postgres_errors({}):
        comments = await session.fetch(_COMMENTS)
    return [owner for row in comments if (owner := Owner.read(row["description"])) is not None]


_ANSWERED_WITHIN = 5
"""Seconds that another tenant's registry may take: this tenant's jobs wait meanwhile."""


async def _states_of(siblings: Mapping[str, InstallationStore]) -> Mapping[str, InstallationState | None]:
    """What the registries of these tenants say now, None of one that is away; nothing is recorded there."""
    answers = await asyncio.gather(*map(_answer, siblings.values()))
    return dict(zip(siblings, answers, strict=True))


async def _answer(store: InstallationStore) -> InstallationState | None:
    try:
        async with asyncio.timeout(_ANSWERED_WITHIN):
            return await store.read()
    except (*LOST, SQLAlchemyError, asyncpg.PostgresError):
        return None


@asynccontextmanager
async def opened_siblings(dsns: Mapping[str, str]) -> AsyncIterator[Mapping[str, InstallationStore]]:
    """The registries with these DSNs, by the names of their tenants; no connection is opened yet."""
    engines = {name: create_registry_engine(dsn, pool_size=1) for name, dsn in dsns.items()}
    try:
        yield {name: InstallationStore(engine) for name, engine in engines.items()}
    finally:
        await asyncio.gather(*(engine.dispose() for engine in engines.values()))
