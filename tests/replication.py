"""A primary with a streaming standby, and what happens to such pairs: a switchover, a crash, a demotion.

    async with ReplicatedPair(folder, {"fsync": "off"}) as pair:
        dsn = pair.dsn(user, password, "EdFi_Admin")  # names both hosts
        await pair.switchover()                       # planned: nothing is lost
        await pair.crash_and_promote()                # the primary dies, the standby takes over
        await pair.rejoin()                           # what died comes back as a standby
        await pair.demote_in_place()                  # the primary takes no writes, but ends no session

While both servers run, a commit is confirmed only when the standby has it, so that nothing that a client was
told is lost in a crash.
"""

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import asyncpg

from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports
from ods.embedded.postgres import SUPERUSER, EmbeddedPostgres
from ods.programs import process
from ods.programs.process import Command
from tests.secret_search import as_secret
from tests.servers import POSTGRES_VERSION, server_folder, session

_PASSWORD = as_secret("superuser-password-of-a-pair")
_SECONDS = 60
_KEPT_FOR_STANDBY = {"wal_keep_size": "1GB"}
"""A new primary that has work to do may recycle what its standby still needs before that one is back."""


class Node(EmbeddedPostgres):
    """One of the two servers; its data are a copy of `source`'s, if there is one.

    Args:
        data_dir: the server's own folder.
        port: TCP port.
        settings: further run-time parameters.
        source: the primary to follow.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int,
        settings: Mapping[str, str] = MappingProxyType({}),
        source: EmbeddedPostgres | None = None,
    ) -> None:
        super().__init__(
            data_dir, port, _PASSWORD, {**_KEPT_FOR_STANDBY, **settings}, version=POSTGRES_VERSION
        )
        self._source = source

    async def kill(self) -> None:
        """End the server as if its machine had lost its power."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def promote(self) -> None:
        """Make a primary of this standby; returns when it takes writes."""
        async with session(self.dsn()) as admin:

            async def is_primary() -> bool:
                return not await admin.fetchval("SELECT pg_is_in_recovery()")

            # A statement that waits for it may itself be what the rest of the recovery has to wait for.
            await admin.execute("SELECT pg_promote(false)")
            await wait_until(is_primary, _SECONDS)
            await admin.execute("ALTER SYSTEM RESET primary_conninfo")

    async def follow(self, source: EmbeddedPostgres) -> None:
        """Start this server, which was stopped in good order, as a standby of `source`."""
        with (self._cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{_conninfo(source)}'\n")
        (self._cluster / "standby.signal").touch()
        self._change_owner(self._cluster / "standby.signal")
        await self.start()

    async def confirm_with_standby(self, *, wanted: bool) -> None:
        """Whether this server's commits wait for a standby."""
        async with session(self.dsn()) as admin:
            names = "= '*'" if wanted else "= ''"
            await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names {names}")
            await admin.execute("SELECT pg_reload_conf()")

    async def followed(self) -> None:
        """Wait until a standby streams from this server."""
        async with session(self.dsn()) as admin:

            async def streams() -> bool:
                return bool(
                    await admin.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
                )

            await wait_until(streams, _SECONDS)

    async def _create_cluster(self) -> None:
        if self._source is None:
            await super()._create_cluster()
            return
        unfinished = self._home / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        copy = await process.start(self._base_backup(unfinished, self._source), self._log)
        if await copy.wait() != 0:
            raise CommandError(f"pg_basebackup could not copy the primary; its log is {self._log}.")
        unfinished.rename(self._cluster)

    def _base_backup(self, folder: Path, source: EmbeddedPostgres) -> Command:
        arguments = (
            *(self._binary("pg_basebackup"), "-D", str(folder), "-d", _conninfo(source)),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        )
        return Command("pg_basebackup", arguments, {"LC_ALL": "C"}, self._account)


@asynccontextmanager
async def replicated_pair() -> AsyncIterator["ReplicatedPair"]:
    """A pair of the caller's own, which does not wait for disks."""
    with server_folder() as folder:
        async with ReplicatedPair(folder, {"fsync": "off"}) as pair:
            yield pair


class ReplicatedPair:
    """Two servers, one of which is a standby of the other; `primary` is the one that takes writes.

    As an asynchronous context manager: started, stopped and removed together with their data.

    Args:
        folder: where both have their data.
        settings: further run-time parameters of both, such as `{"fsync": "off"}`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._folder = folder
        self._settings = settings
        self._ports = free_ports(2)
        self._started: list[Node] = []
        self.primary: Node
        self.standby: Node | None = None

    async def __aenter__(self) -> Self:
        try:
            self.primary = await self._new_node(self._ports[0])
            await self._add_standby(self._ports[1])
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._remove()

    @property
    def hosts(self) -> str:
        """Both servers as a DSN names them; the one that was the first primary stands first."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def dsn(self, database: str, user: str = SUPERUSER, password: str = _PASSWORD) -> str:
        """A DSN that names both servers."""
        return f"postgresql://{user}:{password}@{self.hosts}/{database}"

    async def switchover(self) -> None:
        """Primary and standby change places, as planned; returns when both serve."""
        old, new = self.primary, self._require_standby()
        # In the file only: what runs goes on waiting for its standby until it stops.
        async with session(old.dsn()) as admin:
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await old.stop()  # it waits until the standby has everything
        await new.promote()
        self.primary, self.standby = new, old
        await old.follow(new)
        await self._confirm()

    async def crash_and_promote(self) -> None:
        """The primary dies, and the standby becomes the primary; returns when that one takes writes."""
        old, new = self.primary, self._require_standby()
        await old.kill()
        await new.promote()
        self.primary, self.standby = new, None

    async def rejoin(self) -> None:
        """After a crash or a demotion: the other server becomes a standby, with its data copied anew."""
        (port,) = set(self._ports) - {self.primary.port}
        (dead,) = [node for node in self._started if node.port == port]
        self._started.remove(dead)
        await dead.stop()
        dead.remove()
        await self._add_standby(port)

    async def demote_in_place(self) -> None:
        """The standby becomes the primary; the old one refuses writes from now on, but ends no session.

        That is what clients see behind a proxy, or while an operator moves them by hand. What the old one
        has confirmed, the new one has. `rejoin` ends the old one and makes a standby in its place.
        """
        old, new = self.primary, self._require_standby()
        await old.confirm_with_standby(wanted=False)
        async with session(old.dsn()) as admin:
            await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await admin.execute("SELECT pg_reload_conf()")
            await _writers_ended(admin)
            await _replayed(admin)
        await new.promote()
        self.primary, self.standby = new, None

    def _require_standby(self) -> Node:
        assert self.standby is not None, "there is no standby: call rejoin() first"
        return self.standby

    async def _new_node(self, port: int, source: Node | None = None) -> Node:
        node = Node(self._folder / str(port) / "data", port, self._settings, source)
        self._started.append(node)
        await node.initialise()
        await node.start()
        return node

    async def _add_standby(self, port: int) -> None:
        self.standby = await self._new_node(port, self.primary)
        await self._confirm()

    async def _confirm(self) -> None:
        await self.primary.followed()
        await self.primary.confirm_with_standby(wanted=True)

    async def _remove(self) -> None:
        for node in reversed(self._started):  # the standby first: a primary that stops waits for it
            await node.stop()
            node.remove()
        self._started.clear()


def _conninfo(source: EmbeddedPostgres) -> str:
    return f"host=127.0.0.1 port={source.port} user={SUPERUSER} password={_PASSWORD}"


async def _writers_ended(admin: asyncpg.Connection) -> None:
    """Wait until no transaction can write any more: one that began before all were read-only still may."""

    async def read_only() -> bool:
        return bool(await admin.fetchval("SELECT current_setting('default_transaction_read_only') = 'on'"))

    async def ended() -> bool:
        return not await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND xact_start <= $1",
            switched,
        )

    await wait_until(read_only, _SECONDS)
    switched = await admin.fetchval("SELECT clock_timestamp()")
    await wait_until(ended, _SECONDS)


async def _replayed(admin: asyncpg.Connection) -> None:
    """Wait until the standby has everything."""

    async def caught_up() -> bool:
        return bool(
            await admin.fetchval(
                "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
            )
        )

    await wait_until(caught_up, _SECONDS)
