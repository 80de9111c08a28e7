"""The folder of an embedded stack: its data, logs and secrets, and `stack.json`, with which it is reached."""

import base64
import fcntl
import json
import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict, cast

from ods.embedded.errors import CommandError
from ods.registry.clients.credentials import new_secret

_KEY_BYTES = 32
_TOKEN_BYTES = 32


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


_token = partial(secrets.token_urlsafe, _TOKEN_BYTES)


@dataclass(frozen=True)
class Secrets:
    """Secrets and the port of a stack, kept for later starts: its data cannot be used without them."""

    postgres_port: int
    superuser_password: str
    service_password: str
    encryption_key: str
    token_signing_key: str
    client_id: str
    client_secret: str
    restore_password: str

    @classmethod
    def generate(cls, postgres_port: int) -> Self:
        """New random secrets."""
        return cls(
            postgres_port=postgres_port,
            superuser_password=_token(),
            service_password=_token(),
            encryption_key=_key(),
            token_signing_key=_key(),
            client_id=f"ods-{secrets.token_hex(4)}",
            client_secret=new_secret(),
            restore_password=_token(),
        )


class ApiEntry(TypedDict):
    """How to reach the API, and its metrics, beside which its probes are."""

    url: str
    metrics: NotRequired[str]
    pid: int


class WorkerEntry(TypedDict):
    """How to reach the worker's metrics, beside which its probes are; and its process."""

    metrics: NotRequired[str]
    pid: int


class TemporalEntry(TypedDict):
    """How to reach Temporal and its Web UI."""

    address: str
    ui: str
    namespace: str
    pid: int


class PostgresEntry(TypedDict):
    """How to reach PostgreSQL: the registry and the maintenance database.

    As its superuser, and with its process, if it is the stack's own; an existing server with the role that
    the operator has named.
    """

    admin_dsn: str
    master_dsn: str
    pid: NotRequired[int]


class ClientEntry(TypedDict):
    """A client that is registered at the API."""

    id: str
    secret: str


class BackupsEntry(TypedDict):
    """Where the backups are."""

    url: str


class StackFile(TypedDict):
    """`stack.json`: how to reach a running stack, for its operator and for other commands.

    `settings` are the variables of the environment that API and worker have.
    """

    api: ApiEntry
    worker: WorkerEntry
    temporal: TemporalEntry
    postgres: PostgresEntry
    backups: BackupsEntry
    client: ClientEntry
    settings: dict[str, str]


class ExistingServerRecord(TypedDict):
    """The existing server that a stack works on, by its system identifier, and the databases made there."""

    system: str
    made: list[str]


class DataFolder:
    """The folder of one stack.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.stack_file = self.path / "stack.json"
        self._lock = self.path / "lock"
        self.postgres = self.path / "postgres"
        self.temporal = self.path / "temporal"
        self._secrets = self.path / "secrets.json"
        self._existing_server = self.path / "existing-server.json"

    def create(self) -> None:
        """Make the folder if it is missing.

        Raises:
            CommandError: it cannot be made.
        """
        try:
            # Other users may enter subfolders but not list: PostgreSQL's files may belong to another user.
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be used as data folder: {error.strerror}.") from None

    def backups(self) -> Path:
        """The folder of the stack's backups, for its owner alone; it is made if it is missing."""
        folder = self.path / "backups"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def backup_url(self) -> str:
        """Where a stack that starts has its backups: in that folder, unless the environment says where."""
        if "ODS_BACKUP_URL" in os.environ:
            return os.environ["ODS_BACKUP_URL"]
        return self.backups().as_uri()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one stack while the body runs; the file `lock` has its process id.

        Raises:
            CommandError: another stack holds it, or it belongs to another user.
        """
        self.create()
        with self._by_its_owner():
            lock_file = self._lock.open("a+")
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(
                    f"A stack already runs in {self.path} (process {self.holder()});"
                    " stop it first, or choose another folder with --data-dir."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def holder(self) -> str:
        """Process id of the stack that holds the folder, or `unknown`."""
        return self._lock.read_text() or "unknown"

    def secrets(self) -> Secrets | None:
        """The secrets of an earlier start; those that a later release has added are left out.

        Raises:
            CommandError: the file is damaged, or missing beside data that cannot be used without it.
        """
        stored = self._stored_secrets()
        if stored is None:
            if (self.postgres / "cluster").exists() or self._existing_server.exists():
                raise self._without_secrets("missing")
            return None
        known = {one.name: stored[one.name] for one in fields(Secrets) if one.name in stored}
        try:
            return Secrets(**known)
        except TypeError:
            raise self._without_secrets("damaged") from None

    def store_secrets(self, values: Secrets) -> None:
        """Store `values` for later starts, beside what a later release has stored.

        Raises:
            CommandError: the file is damaged.
        """
        _write_private(self._secrets, {**(self._stored_secrets() or {}), **asdict(values)})

    def _stored_secrets(self) -> dict[str, Any] | None:
        if not self._secrets.exists():
            return None
        try:
            return dict(json.loads(self._secrets.read_text()))
        except (TypeError, ValueError):
            raise self._without_secrets("damaged") from None

    def _without_secrets(self, fault: str) -> CommandError:
        return CommandError(
            f"{self._secrets} is {fault}; restore it from a copy: what is in {self.path} cannot be used"
            " without it. To start with nothing, choose another folder with --data-dir."
        )

    def existing_server(self) -> ExistingServerRecord | None:
        """The existing server that earlier starts worked on; None if there was none.

        Raises:
            CommandError: the file is damaged.
        """
        if not self._existing_server.exists():
            return None
        try:
            content = json.loads(self._existing_server.read_text())
            return {"system": str(content["system"]), "made": [str(name) for name in content["made"]]}
        except (KeyError, TypeError, ValueError):
            raise CommandError(
                f"{self._existing_server} is damaged; restore it, or choose another folder with --data-dir."
            ) from None

    def store_existing_server(self, record: ExistingServerRecord) -> None:
        """Store `record` for later starts."""
        _write_private(self._existing_server, record)

    def running_stack(self) -> StackFile | None:
        """How to reach the stack that serves in this folder; None if none does.

        Raises:
            CommandError: it belongs to another user.
        """
        with self._by_its_owner():
            if not self.is_held() or not self.stack_file.exists():
                return None
            return cast("StackFile", json.loads(self.stack_file.read_text()))

    @contextmanager
    def _by_its_owner(self) -> Iterator[None]:
        """Say who may use the folder if it belongs to another user, as after `sudo ods up`."""
        try:
            yield
        except PermissionError:
            raise CommandError(
                f"{self.path} belongs to another user ({_owner_of(self._lock)}), as after a start with sudo."
                " Run the command as that user; or stop the stack that runs there, then take the folder over:"
                f" sudo chown -R $(id -un) {shlex.quote(str(self.path))}"
            ) from None

    def why_no_stack(self) -> str:
        """Why `running_stack` has found none, and what to do."""
        if self.is_held():
            return f"The stack in {self.path} does not serve yet; wait until `ods up` says so."
        return f"No stack serves in {self.path}; `ods up` starts one."

    def publish(self, stack: StackFile) -> None:
        """Write `stack.json`, so that other commands can reach the stack."""
        _write_private(self.stack_file, stack)

    def withdraw(self) -> None:
        """Remove `stack.json`: no stack serves here."""
        self.stack_file.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether a stack runs in the folder, even if it does not serve yet."""
        try:
            with self._lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _owner_of(path: Path) -> str:
    """The name of the user whose file it is, or the number of one without a name."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def _write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` atomically by a file that its owner alone can read."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
