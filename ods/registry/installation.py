"""Which installation this registry is, and whether it still is the registry that it was made as.

A registry that was copied, for a drill or a staging system, has the installation id of the original, and
would drop the original's databases as its own. So the row that holds the id also holds where the registry
was when the operator last confirmed it: the system identifier of the PostgreSQL cluster, which its standbys
share, and the OID of the database. Elsewhere, requests under `/v2` that change something, the beginnings of
jobs and all DDL are refused until the operator says which of the two it is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Uuid,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import FORGET_TRASH, JobStatus
from ods.registry.storage.errors import InstallationNotConfirmedError
from ods.registry.storage.models import (
    OUT_OF_TRASH,
    UTC_NOW,
    DatabaseRevision,
    DbInstance,
    IdempotencyKey,
    Installation,
    InstanceDatabase,
    Job,
    is_own,
)
from ods.registry.storage.sessions import RegistrySessions

CONFIRMS = "`ods recover --apply --confirm`"
"""The command by which the operator says that changes are meant; each reason to wait for that names it."""

RENEWS = "`ods recover --apply --as-new-installation`"
"""The command by which the operator says that a registry is a copy."""

_KNOWN_SECONDS = 2
"""How long the row is not read again: what the operator confirms is seen within that time."""

_SYSTEM: ColumnElement[str] = literal_column("(SELECT system_identifier::text FROM pg_control_system())")
_STARTED: ColumnElement[datetime] = literal_column("pg_postmaster_start_time()")
_DATABASE: ColumnElement[int] = literal_column(
    "(SELECT oid::int8 FROM pg_database WHERE datname = current_database())"
)
_HELD_UNTIL: ColumnElement[datetime | None] = case(
    (Installation.held_until > UTC_NOW, Installation.held_until)
)


@dataclass(frozen=True)
class RegistryPlace:
    """Where a registry is: the PostgreSQL cluster's system identifier, and the database's OID in it."""

    system: str
    database: int

    def __str__(self) -> str:
        return f"database {self.database} of the PostgreSQL cluster {self.system}"


@dataclass(frozen=True)
class InstallationState:
    """What the registry holds about its installation.

    Attributes:
        id: the installation's id.
        confirmed: where the registry was when it was first used, or last confirmed.
        here: where it is.
        started: when the registry's server was started, which tells a cluster from its physical copy.
        server: system identifier of the cluster with the ODS databases; None until it was first seen.
        neighbours: installations that may have databases on that server as well: the operator has confirmed
            them, or another tenant of this service is one.
        backup_key: the secret key of the HMAC beside the rights of roles in backups.
        held_until: until when the trash is kept because the registry may have been restored, in UTC without a
            zone; None if it is not.
    """

    id: str
    confirmed: RegistryPlace | None
    here: RegistryPlace
    started: datetime
    server: str | None
    neighbours: frozenset[str]
    backup_key: bytes = field(repr=False)
    held_until: datetime | None

    @property
    def is_confirmed(self) -> bool:
        """Whether the registry is where it was confirmed."""
        return self.confirmed == self.here

    def is_same_registry(self, other: "InstallationState") -> bool:
        """Whether this is that registry, reached by whatever address, and no copy of it."""
        return (self.here, self.started) == (other.here, other.started)

    @property
    def obstacle(self) -> str | None:
        """Why nothing may be changed here; None if this is the registry that it was made as."""
        if self.confirmed in {None, self.here}:
            return None
        return (
            f"This registry was copied or moved: it is the {self.here}, and was confirmed as the"
            f" {self.confirmed}. Nothing is changed until the operator says which it is: {CONFIRMS} if this"
            f" one goes on as the installation {self.id}, {RENEWS} if it is a copy."
        )

    @property
    def hold(self) -> str | None:
        """Until when what is due is not dropped, and why; None if drops are not held back."""
        if self.held_until is None:
            return None
        return (
            "The registry, or its server, may have been restored. Nothing that was in the trash when this was"
            f" seen is dropped before {self.held_until:%Y-%m-%d %H:%M} UTC, unless a client purges it."
        )


class InstallationStore:
    """Reads and confirms the installation of one registry."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = RegistrySessions(engine)
        self._state: InstallationState | None = None
        self._read_at = -inf

    @property
    def known_id(self) -> str:
        """The installation's id as it was last read.

        Raises:
            RuntimeError: it was not read yet.
        """
        if self._state is None:
            raise RuntimeError("the installation was not read yet")
        return self._state.id

    async def last_id(self) -> str:
        """The installation's id as it was last read; the registry is asked only if it never was."""
        return self._state.id if self._state else (await self.state()).id

    async def state(self) -> InstallationState:
        """The state as the registry has it now, or had it at most two seconds ago.

        A registry that is used for the first time is confirmed to be where it is.
        """
        now = time.monotonic()
        if self._state is None or now - self._read_at > _KNOWN_SECONDS:
            state = await self.read()
            if state.confirmed is None:
                await self.confirm(state, first=True)
                state = await self.read()
            self._state, self._read_at = state, now
        return self._state

    async def read(self) -> InstallationState:
        """The state as the registry has it now; a first use is not recorded, as `state` does."""
        query = select(
            Installation.id,
            Installation.registry_system,
            Installation.registry_database,
            Installation.server_system,
            Installation.neighbours,
            Installation.backup_key,
            _HELD_UNTIL.label("held_until"),
            _SYSTEM.label("system"),
            _DATABASE.label("database"),
            _STARTED.label("started"),
        )
        async with self._sessions.statement() as session:
            return _state((await session.execute(query)).one())

    async def obstacle(self) -> str | None:
        """Why nothing may be changed in the registry, so that no job goes on; None if it may be changed."""
        return (await self.state()).obstacle

    async def awaited(self) -> str | None:
        """What the operator must confirm before jobs go on: of the registry, or as one of them has found it.

        None if no job waits for that. What a job has found may be over: only a look at the server says so.
        """
        if (obstacle := await self.obstacle()) is not None:
            return obstacle
        waits = Job.status == JobStatus.IN_PROGRESS, Job.waiting_for.contains(CONFIRMS, autoescape=True)
        async with self._sessions.statement() as session:
            return await session.scalar(select(Job.waiting_for).where(*waits).order_by(Job.id).limit(1))

    async def require_confirmed(self) -> InstallationState:
        """The state, if the registry may be changed.

        Raises:
            InstallationNotConfirmedError: it was copied or moved.
        """
        state = await self.state()
        if state.obstacle is not None:
            raise InstallationNotConfirmedError(state.obstacle)
        return state

    def forget(self) -> None:
        """Read the row anew when it is asked for next."""
        self._read_at = -inf

    async def confirm(self, state: InstallationState, *, first: bool = False) -> None:
        """Record that the registry goes on as its installation where it is.

        Args:
            state: where it is.
            first: do nothing if that was ever recorded before.
        """
        confirmed = {"registry_system": state.here.system, "registry_database": state.here.database}
        statement = update(Installation).values(**confirmed)
        if first:
            statement = statement.where(Installation.registry_system.is_(None))
        async with self._sessions.statement() as session:
            await session.execute(statement)
        self.forget()

    async def accept_server(self, system: str, neighbours: Sequence[str] = ()) -> None:
        """Record the cluster with the ODS databases, and other installations that may be on it as well."""
        await self._write({"server_system": system, "neighbours": _added(neighbours)})

    async def accept_neighbours(self, neighbours: Sequence[str]) -> None:
        """Record other installations that may have databases on that cluster as well."""
        await self._write({"neighbours": _added(neighbours)})

    async def take_over(self, installation: str) -> bool:
        """Let a registry that never had an instance be this installation; false if it had one."""
        state = await self.read()
        values = {
            "id": UUID(installation),
            "registry_system": state.here.system,
            "registry_database": state.here.database,
            "server_system": None,
            "neighbours": sorted(state.neighbours - {installation}),
        }
        had_one = exists(select(DbInstance.id))
        async with self._sessions.transaction() as session:
            await session.execute(text("LOCK TABLE adminapi.dbinstances IN SHARE MODE"))
            written = update(Installation).where(~had_one).values(**values).returning(Installation.id)
            is_taken = await session.scalar(written) is not None
        self.forget()
        return is_taken

    async def renew(self) -> str:
        """Make the registry an installation of its own, which owns no database yet; returns its id.

        All instances get new marks, so that no job, no database and no backup of the original is taken for
        theirs. What the original has in its trash is not in this one's, and what a reset or a rename has
        begun there is neither gone on with nor undone. Its answers to requests with an idempotency key are
        forgotten: they tell what was done there.
        """
        state = await self.read()
        identifier = str(uuid4())
        renewed = {
            "id": UUID(identifier),
            "registry_system": state.here.system,
            "registry_database": state.here.database,
            "server_system": None,
            "neighbours": [],
            "store_conflict": None,
            "held_until": None,
        }
        no_database = {
            "mark": func.gen_random_uuid(),
            "database_id": InstanceDatabase.database_id,
            "replacement": None,
            "undo_due": False,
        }
        its = InstanceDatabase.instance_id == DbInstance.id
        has_it = exists().where(is_own(InstanceDatabase))
        in_trash = select(DbInstance.id).where(DbInstance.is_in_trash)
        emptied = update(InstanceDatabase).where(InstanceDatabase.instance_id.in_(in_trash))
        forgotten = {"status": FORGET_TRASH.target, "set_aside": None}
        async with self._sessions.transaction() as session:
            await session.execute(delete(InstanceDatabase).where(~has_it))
            await session.execute(update(DbInstance).where(DbInstance.is_in_trash).values(forgotten))
            await session.execute(emptied.values(OUT_OF_TRASH))
            await session.execute(update(InstanceDatabase).values(database_id=func.gen_random_uuid()))
            await session.execute(update(DbInstance).where(its).values(**no_database))
            await session.execute(delete(DatabaseRevision))
            await session.execute(delete(IdempotencyKey))
            await session.execute(update(Installation).values(**renewed))
        self.forget()
        return identifier

    async def _write(self, values: Mapping[str, object]) -> None:
        async with self._sessions.statement() as session:
            await session.execute(update(Installation).values(**values))
        self.forget()


def _added(neighbours: Sequence[str]) -> ColumnElement[Any]:
    return func.array_cat(Installation.neighbours, literal([UUID(one) for one in neighbours], ARRAY(Uuid)))


def _state(row: Any) -> InstallationState:  # noqa: ANN401 - a row's columns have no types here
    here = RegistryPlace(row.system, row.database)
    confirmed = RegistryPlace(row.registry_system, row.registry_database) if row.registry_system else None
    return InstallationState(
        id=str(row.id),
        confirmed=confirmed,
        here=here,
        started=row.started,
        server=row.server_system,
        neighbours=frozenset(map(str, row.neighbours)),
        backup_key=row.backup_key.bytes,
        held_until=row.held_until,
    )
