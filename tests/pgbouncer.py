"""PgBouncer between the service and its PostgreSQL server: the program that the system has installed."""

import os
import shutil
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port
from ods.embedded.postgres import EmbeddedPostgres
from ods.programs import process
from ods.programs.process import Command

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
_SECONDS = 20


class PgBouncer:
    """A pooler in front of `server`; as an asynchronous context manager it is started and stopped.

    Args:
        server: where it connects to.
        users: the passwords of those who may connect, by name.
        settings: of the section `[pgbouncer]`, such as `pool_mode`.
    """

    def __init__(self, server: EmbeddedPostgres, users: dict[str, str], **settings: object) -> None:
        self.port = free_port()
        self._server = server
        self._users = users
        self._settings = settings
        self._folder: Path
        self._process: Process

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="ods-pgbouncer-", dir="/var/tmp"))
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._configure()
        self._process = await process.start(self._command(), self._folder / "log")
        await wait_until(self._answers, _SECONDS)

    async def stop(self) -> None:
        """Stop it; its clients lose their sessions."""
        await process.stop(self._process, self._command())

    def dsn(self, direct: str) -> str:
        """The way through the pooler to where `direct` leads."""
        return direct.replace(f":{self._server.port}/", f":{self.port}/")

    def _configure(self) -> None:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self._folder / "users",
            **self._settings,
        }
        lines = [
            *("[databases]", f"* = host=127.0.0.1 port={self._server.port}"),
            *("[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())),
        ]
        users = [f'"{name}" "{password}"' for name, password in self._users.items()]
        for name, content in (("pgbouncer.ini", lines), ("users", users)):
            (self._folder / name).write_text("\n".join(content) + "\n")
        if account := self._server.command().account:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, account.uid, account.gid)

    def _command(self) -> Command:
        assert PROGRAM is not None
        arguments = (PROGRAM, str(self._folder / "pgbouncer.ini"))
        return Command("pgbouncer", arguments, {}, self._server.command().account)

    async def _answers(self) -> bool:
        assert self._process.returncode is None, (self._folder / "log").read_text()
        address = urlsplit(self.dsn(self._server.dsn()))
        try:
            connection = await asyncpg.connect(address.geturl(), statement_cache_size=0)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True
