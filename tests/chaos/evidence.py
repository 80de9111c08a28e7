"""What the servers hold: read with SQL and the Temporal API alone, by nothing of the product's own code."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives import hashes, hmac, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from temporalio.client import Client, WorkflowExecution
from temporalio.common import SearchAttributeKey

DROPS_DATABASE = ("Delete", "Purge")
"""Operations of the registry that drop the database of an instance."""
TAKES_DATABASE = (*DROPS_DATABASE, "Detach")
"""Operations of the registry after which the database of an instance is gone, or another's."""
BESIDE = ("Backup", "Snapshot", "Reset", "UndoReset")
"""Operations beside an instance that works: it is `Completed` afterwards, whatever becomes of their jobs."""
TRASH = "ods_trash_"
"""How the names of databases in the trash begin."""
RESET = "ods_reset_"
"""How the names of databases begin that shall take the place of an instance's, and were never its own."""
ROWS = "storm_rows"
"""The table in each database of an instance to which clients of the ODS/API write."""
_KEPT_VERSIONS = 3
"""How many databases that an instance had before resets are kept; the oldest beyond are dropped."""
_ODS_INSTANCE_ID = SearchAttributeKey.for_int("OdsInstanceId")
_WATCH_SECONDS = 0.5

BROKEN = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a session is met with when PostgreSQL goes away."""

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True)
class Target:
    """Where the servers are, and the key of the connection strings; the DSNs are a superuser's."""

    admin_dsn: str
    master_dsn: str
    temporal_address: str
    namespace: str
    encryption_key: bytes

    @property
    def address(self) -> tuple[str, str]:
        """Host and port of the server; of the first one, if there are several."""
        first = urlsplit(self.master_dsn).netloc.rpartition("@")[2].partition(",")[0]
        host, _, port = first.partition(":")
        return host, port

    @classmethod
    def of_stack(cls, folder: Path) -> Self:
        """The servers of the stack that serves in `folder`."""
        stack = json.loads((folder / "stack.json").read_text())
        secrets = json.loads((folder / "secrets.json").read_text())
        return cls(
            stack["postgres"]["admin_dsn"],
            stack["postgres"]["master_dsn"],
            stack["temporal"]["address"],
            stack["temporal"]["namespace"],
            base64.b64decode(secrets["encryption_key"]),
        )


@dataclass(frozen=True)
class Instance:
    """A row of `adminapi.dbinstances`.

    Attributes:
        operation: what its last job is called: a `Delete`, in whichever `way`.
        way: `Trash` of a delete that keeps the database, otherwise the operation: `Delete` drops it.
        in_trash: whether its database is kept.
        contexts: of its ODS instance; in the trash, those that were set aside.
    """

    id: int
    name: str
    ods_instance_id: int
    status: str
    database_template: str
    database_name: str
    operation: str
    job_number: int
    mark: str
    published: bool
    error_message: str | None
    new_name: str | None
    trash_database: str | None
    way: str
    in_trash: bool
    protected: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        """Whether its last job has failed: what could not be undeleted is deleted."""
        if self.operation in BESIDE and self.status == "Completed":
            return self.error_message is not None
        return self.status in {"Error", "Delete_Failed"} or (self.status, self.operation) == (
            "Deleted",
            "Undelete",
        )

    @property
    def is_detached(self) -> bool:
        """Whether its database was left to others: without the mark, under its name."""
        return (self.status, self.way) == ("Deleted", "Detach")

    @property
    def is_complete(self) -> bool:
        """Whether it has its database: it is completed, or was and could not be renamed."""
        return self.status == "Completed" or (self.status, self.operation) == ("Error", "Rename")

    def __str__(self) -> str:
        return f"instance {self.id} ('{self.name}', OdsInstanceId {self.ods_instance_id}, {self.status})"


@dataclass(frozen=True)
class Job:
    """A row of `adminapi.jobstatuses` that is a job of an instance."""

    job_id: str
    status: str
    error_message: str | None
    finished: bool
    instance_id: int | None


@dataclass(frozen=True)
class Snapshot:
    """A row of `adminapi.snapshots`; `instance` is the mark of its instance."""

    id: int
    ods_instance_id: int
    instance: str
    database_name: str
    mark: str
    status: str

    def __str__(self) -> str:
        return f"snapshot {self.id} of OdsInstanceId {self.ods_instance_id} ({self.database_name})"


@dataclass(frozen=True)
class Contents:
    """Rows of data by their numbers, and the marks of the instances that they were written for."""

    numbers: frozenset[int] = frozenset()
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Resets:
    """How often an instance may have been reset, and which marks' rows its databases may have since."""

    count: int = 0
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OdsInstance:
    """A row of `dbo.odsinstances`."""

    ods_instance_id: int
    name: str
    instance_type: str | None
    connection_string: str | None


@dataclass(frozen=True)
class Database:
    """A database of the server."""

    name: str
    oid: int
    owner: str
    open: bool
    invalid: bool
    comment: str | None
    # Tells one state of the row from another; whether the database was touched, the rest tells.
    xmin: int = field(compare=False)

    @property
    def mark(self) -> str | None:
        """The mark in its comment, if the comment is one of those that published databases carry."""
        try:
            mark = json.loads(self.comment or "")["mark"]
        except (ValueError, TypeError, KeyError):
            return None
        return str(mark)

    @property
    def says_trash(self) -> bool:
        """Whether its comment says that it is in the trash."""
        return self.mark is not None and "trashedAt" in json.loads(self.comment or "{}")

    @property
    def snapshot(self) -> str | None:
        """The mark of the snapshot that it is, if its comment is one of those that snapshots carry."""
        return self._of_snapshot("snapshot")

    @property
    def snapshot_of(self) -> str | None:
        """The mark of the instance that it is a snapshot of."""
        return self._of_snapshot("instance")

    def _of_snapshot(self, field_name: str) -> str | None:
        try:
            return str(json.loads(self.comment or "")[field_name])
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def staging_mark(self) -> str | None:
        """The mark in its name, if it is a clone that was not published yet."""
        found = re.fullmatch(r"ods_staging_[0-9a-f]{16}_([0-9a-f]{32})", self.name)
        return str(UUID(found[1])) if found else None

    @property
    def spare(self) -> "SpareComment | None":
        """What its comment says, if the comment is one of those that ready spares carry."""
        try:
            said = json.loads(self.comment or "")
            return SpareComment(
                str(said["installation"]), str(said["template"]), int(said["oid"]), int(said["xmin"])
            )
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class SpareComment:
    """What a ready spare is a copy of: a template, and the state of its row in `pg_database`."""

    installation: str
    template: str
    oid: int
    xmin: int


@dataclass(frozen=True)
class ForeignDatabase:
    """A database that is none of the product's business; `checksum` of its rows, if one may connect."""

    database: Database
    checksum: str | None


@dataclass(frozen=True)
class OpenWorkflow:
    """An open workflow; `doing` tells what it has under way, and is empty if it only waits."""

    id: str
    type: str
    ods_instance_id: int | None
    doing: str

    def __str__(self) -> str:
        return f"{self.type} '{self.id}' ({self.doing or 'waits'})"


@dataclass(frozen=True)
class Evidence:
    """All of it, at about one moment.

    `readers` are the connection strings of the derivatives `Snapshot`, by OdsInstanceId. `versions` are the
    databases that instances had before a reset: their names in the trash, and the marks of the instances.
    """

    instances: Sequence[Instance]
    jobs: Sequence[Job]
    ods_instances: Sequence[OdsInstance]
    databases: Sequence[Database]
    workflows: Sequence[OpenWorkflow]
    installation: str
    snapshots: Sequence[Snapshot] = ()
    readers: Mapping[int, str | None] = field(default_factory=dict)
    versions: Sequence[tuple[str, str]] = ()


@dataclass
class History:
    """What was true at some time of a storm and need not be seen in the end.

    Attributes:
        published: databases that were seen open under a mark: the mark and the database's oid, with its name.
        errors: ids of jobs that were seen in `Error`, with the reason; also those that were retried later.
        deleted: marks under which a delete was recorded when a restore replaced the registry's rows: one that
            drops the database, or that leaves it to others.
        due: marks of the instances whose time in the trash was ended.
        rows: numbers of the rows that were written to the database of each mark, and confirmed.
        origins: what the database of each mark had when it was made, if that is no copy of a template.
        resets: how often a reset was requested of the instance of each mark, and which marks' rows the other
            databases may have.
        backups: what the instance of each backup had when that was requested, by the id of the backup.
        snapshots: the same of snapshots, by the name of the database.
        routed: names of databases in the trash to which the ODS/API was seen to be routed.
        changed: marks of the instances whose rows a restore has removed or changed.
        removed: ids of the instances whose rows a restore has removed, with their first names.
        forgotten: ids of the jobs that a restore has removed, with the first name of their instance.
        rewound: ids of the jobs that a restore has put back to an earlier status.
        restores: how many there were.
    """

    published: dict[tuple[str, int], str] = field(default_factory=dict)
    errors: set[tuple[str, str]] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    due: set[str] = field(default_factory=set)
    rows: dict[str, set[int]] = field(default_factory=dict)
    origins: dict[str, Contents] = field(default_factory=dict)
    resets: dict[str, Resets] = field(default_factory=dict)
    backups: dict[str, Contents] = field(default_factory=dict)
    snapshots: dict[str, Contents] = field(default_factory=dict)
    routed: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    removed: set[tuple[int, str]] = field(default_factory=set)
    forgotten: set[tuple[str, str]] = field(default_factory=set)
    rewound: set[str] = field(default_factory=set)
    restores: int = 0

    def see(self, databases: Sequence[Database], jobs: Sequence[Job]) -> None:
        """Note what is true at this moment."""
        self.published |= {
            (it.mark, it.oid): it.name
            for it in databases
            if it.mark and it.open and not it.name.startswith(RESET)
        }
        self.errors |= {(job.job_id, job.error_message or "") for job in jobs if job.status == "Error"}

    def see_restore(self, lost: "Rows", restored: "Rows") -> None:
        """Note what is lost when a restore replaces the rows of the registry."""
        self.deleted |= {row.mark for row in lost.instances if row.way in TAKES_DATABASE}
        kept = {row.mark: row for row in restored.instances}
        self.changed |= {row.mark for row in lost.instances if kept.get(row.mark) != row}
        self.removed |= {(row.id, first_name(row.name)) for row in lost.instances if row.mark not in kept}
        done = {job.job_id: job.status for job in lost.jobs}
        self.rewound |= {job.job_id for job in restored.jobs if done.get(job.job_id) != job.status}
        self.forgotten |= lost.named_jobs - restored.named_jobs
        self.restores += 1

    def see_reset(self, mark: str, held: Contents) -> None:
        """Note that a reset of the instance with this mark is requested, to what has these rows."""
        known = self.resets.get(mark, Resets())
        self.resets[mark] = Resets(known.count + 1, known.marks | held.marks)

    def holds(self, mark: str) -> Contents:
        """What the database of this mark must have now, and the instances whose rows it may have.

        Of an instance that may have been reset, it is not known which of its databases is in use.
        """
        kept = self.keeps(mark)
        return Contents(frozenset(), kept.marks) if mark in self.resets else kept

    def keeps(self, mark: str) -> Contents:
        """What the databases of this mark must have together, those from before resets included.

        Nothing if there may have been so many resets that the oldest database was dropped.
        """
        origin, resets = self.origins.get(mark, Contents()), self.resets.get(mark, Resets())
        written = origin.numbers | frozenset(self.rows.get(mark, ()))
        numbers = frozenset[int]() if mark in self.outgrown else written
        return Contents(numbers, origin.marks | resets.marks | {mark})

    @property
    def outgrown(self) -> set[str]:
        """Marks of the instances that may have been reset so often that the oldest database was dropped."""
        return {mark for mark, resets in self.resets.items() if resets.count > _KEPT_VERSIONS}

    def has_undone(self, job: str) -> bool:
        """Whether a restore has removed a job of this id or put it back, so that it may end otherwise."""
        return job in self.rewound or self.has_forgotten(job)

    def has_forgotten(self, job: str) -> bool:
        """Whether a restore has removed a job of this id; it may be another job's since."""
        return any(job == forgotten for forgotten, _ in self.forgotten)


@dataclass(frozen=True)
class Rows:
    """The instances and jobs of the registry at one moment."""

    instances: Sequence[Instance]
    jobs: Sequence[Job]

    @property
    def named_jobs(self) -> set[tuple[str, str]]:
        """The id of each job, with the first name of its instance."""
        names = {instance.id: first_name(instance.name) for instance in self.instances}
        return {(job.job_id, names.get(job.instance_id or 0, "")) for job in self.jobs}


def first_name(name: str) -> str:
    """What an instance was called at first: the clients of a storm only add ` r` and a number."""
    return re.sub(r" r\d+$", "", name)


async def watch(target: Target, history: History) -> None:
    """Note in `history` what the servers hold, again and again, until this task is cancelled."""
    while True:
        # A server that is away has nothing to see; what it holds is seen when it is back.
        with suppress(*BROKEN):
            async with connected(target.admin_dsn) as registry:
                history.see(await databases_of(target), (await read_rows(registry)).jobs)
        await asyncio.sleep(_WATCH_SECONDS)


async def read_rows(registry: _Connection) -> Rows:
    """The instances and jobs of the registry that `registry` is a session on."""
    return Rows(
        instances=[_instance(row) for row in await registry.fetch(_INSTANCES)],
        jobs=[Job(**row) for row in await registry.fetch(_JOBS)],
    )


def _instance(row: asyncpg.Record) -> Instance:
    attributes = {name: json.loads(row[name]) for name in ("labels", "contexts")}
    return Instance(**(dict(row) | attributes))


async def gather(target: Target, temporal: Client) -> Evidence:
    """Read everything but the contents of databases."""
    # Workflows first: one that ends between the two readings has left its row finished.
    workflows = await open_workflows(temporal)
    async with connected(target.admin_dsn) as registry, registry.transaction(isolation="repeatable_read"):
        rows = await read_rows(registry)
        return Evidence(
            instances=rows.instances,
            jobs=rows.jobs,
            ods_instances=[OdsInstance(**row) for row in await registry.fetch(_ODS_INSTANCES)],
            databases=await databases_of(target),
            workflows=workflows,
            installation=await registry.fetchval(_INSTALLATION),
            snapshots=[Snapshot(**row) for row in await registry.fetch(_SNAPSHOTS)],
            readers={row[0]: row[1] for row in await registry.fetch(_READERS)},
            versions=[(row[0], row[1]) for row in await registry.fetch(_VERSIONS)],
        )


async def foreign_databases(target: Target, names: Sequence[str] = ()) -> Mapping[str, ForeignDatabase]:
    """The databases called `names`, or all but the registry's and its spares: as they shall be in the end."""
    async with connected(target.admin_dsn) as connection:
        registry, installation = await connection.fetchrow(_REGISTRY) or ("", "")
    return {
        database.name: ForeignDatabase(database, await _checksum(target, database))
        for database in await databases_of(target)
        if database.name != registry
        and not is_spare(database.name, installation)
        and (not names or database.name in names)
    }


def is_spare(database: str, installation: str) -> bool:
    """Whether the name is that of a spare database of this installation."""
    return (
        re.fullmatch(f"ods_spare_{installation.replace('-', '')[:16]}_[0-9a-f]{{32}}", database) is not None
    )


async def contents(target: Target, databases: Sequence[Database]) -> Mapping[str, str]:
    """A checksum of each of those `databases` that one may connect to, by name."""
    sums = {database.name: await _checksum(target, database) for database in databases}
    return {name: checksum for name, checksum in sums.items() if checksum is not None}


async def client_rows(target: Target, databases: Sequence[Database]) -> Mapping[str, Mapping[int, str]]:
    """What clients of the ODS/API have written to each database, by its name: number and mark of each row.

    A closed database is opened for as long as it is read.
    """
    return {database.name: await _client_rows(target, database) for database in databases}


async def _client_rows(target: Target, database: Database) -> Mapping[int, str]:
    async with _opened(target, database), connected(target.master_dsn, database.name) as session:
        if await session.fetchval("SELECT to_regclass($1)", ROWS) is None:
            return {}
        return {row["number"]: str(row["mark"]) for row in await session.fetch(f"SELECT * FROM {ROWS}")}  # noqa: S608 - no one's text


@asynccontextmanager
async def _opened(target: Target, database: Database) -> AsyncIterator[None]:
    if database.open:
        yield
        return
    allow = f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS'
    async with connected(target.master_dsn) as server:
        await server.execute(f"{allow} true")
        try:
            yield
        finally:
            await server.execute(f"{allow} false")


def decrypted(stored: str, key: bytes) -> dict[str, str]:
    """The pairs of a connection string: base64(IV)|base64(ciphertext)|base64(HMAC-SHA256 of the ciphertext).

    Raises:
        ValueError: it has another form.
        cryptography.exceptions.InvalidSignature: it was made with another key.
    """
    iv, ciphertext, signature = (base64.b64decode(part, validate=True) for part in stored.split("|"))
    signer = hmac.HMAC(key, hashes.SHA256())
    signer.update(ciphertext)
    signer.verify(signature)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(algorithms.AES.block_size).unpadder()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    text = (unpadder.update(padded) + unpadder.finalize()).decode()
    return {key.strip().lower(): value for key, _, value in (pair.partition("=") for pair in text.split(";"))}


@asynccontextmanager
async def connected(dsn: str, database: str | None = None) -> AsyncIterator[_Connection]:
    """A session on the database of `dsn`, or on `database` of the same server."""
    connection = await asyncpg.connect(dsn, database=database, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


_INSTANCES = """
SELECT instance.id, name, odsinstanceid AS ods_instance_id, status,
       instance.databasetemplate AS database_template,
       databasename AS database_name,
       CASE WHEN operation = 'Detach' THEN 'Delete'
            WHEN arguments -> 'origin' ? 'database_id' THEN 'UndoReset' ELSE operation END AS operation,
       instance.jobnumber AS job_number, mark::text AS mark,
       own.publishedat IS NOT NULL AS published, errormessage AS error_message, newname AS new_name,
       'ods_trash_' || replace(own.databaseid::text, '-', '') AS trash_database,
       CASE WHEN (arguments ->> 'keep')::boolean THEN 'Trash' ELSE operation END AS way,
       (status = 'Deleted' OR operation = 'Purge')
           AND own.reason IS NOT NULL AS in_trash,
       isprotected AS protected, coalesce(labels, '{}')::text AS labels,
       coalesce(
           (SELECT jsonb_object_agg(contextkey, contextvalue) FROM dbo.odsinstancecontexts
            WHERE odsinstance_odsinstanceid = odsinstanceid),
           (SELECT jsonb_object_agg(context->>'key', context->>'value')
            FROM jsonb_array_elements(setaside->'contexts') AS context),
           '{}')::text AS contexts
FROM adminapi.dbinstances AS instance
JOIN adminapi.databases AS own ON own.instanceid = instance.id AND own.databaseid = instance.databaseid
ORDER BY instance.id
"""
_JOBS = """
SELECT jobid AS job_id, status, errormessage AS error_message, finishedat IS NOT NULL AS finished,
       dbinstanceid AS instance_id
FROM adminapi.jobstatuses WHERE operation IS DISTINCT FROM 'Refresh' ORDER BY id
"""
_ODS_INSTANCES = """
SELECT odsinstanceid AS ods_instance_id, name, instancetype AS instance_type,
       connectionstring AS connection_string
FROM dbo.odsinstances ORDER BY odsinstanceid
"""
_SNAPSHOTS = """
SELECT snapshot.id, odsinstanceid AS ods_instance_id, instance.mark::text AS instance,
       snapshot.databasename AS database_name, snapshot.mark::text AS mark, snapshot.status
FROM adminapi.snapshots AS snapshot JOIN adminapi.dbinstances AS instance ON instance.id = instanceid
ORDER BY snapshot.id
"""
_READERS = """
SELECT odsinstance_odsinstanceid, connectionstring FROM dbo.odsinstancederivatives
WHERE derivativetype = 'Snapshot'
"""
_VERSIONS = """
SELECT 'ods_trash_' || replace(version.databaseid::text, '-', ''), instance.mark::text
FROM adminapi.databases AS version JOIN adminapi.dbinstances AS instance ON instance.id = instanceid
WHERE version.reason = 'replaced'
"""
_INSTALLATION = "SELECT id::text FROM adminapi.installation"
_REGISTRY = "SELECT current_database(), id::text FROM adminapi.installation"
# -2 is how PostgreSQL notes a DROP that was interrupted.
_DATABASES = """
SELECT datname AS name, oid::int8, datdba::regrole::text AS owner, datallowconn AS open,
       datconnlimit = -2 AS invalid, shobj_description(oid, 'pg_database') AS comment,
       xmin::text::int8 AS xmin
FROM pg_database ORDER BY datname
"""
_TABLES = """
SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
      AND relname <> $1
ORDER BY 1
"""


async def databases_of(target: Target) -> Sequence[Database]:
    """Every database of the server, by name."""
    async with connected(target.master_dsn) as server:
        return [Database(**row) for row in await server.fetch(_DATABASES)]


async def _checksum(target: Target, database: Database) -> str | None:
    if not database.open or database.invalid:
        return None
    async with connected(target.master_dsn, database.name) as session:
        sums = [await _table_checksum(session, row[0]) for row in await session.fetch(_TABLES, ROWS)]
    return " ".join(sums)


async def _table_checksum(session: _Connection, table: str) -> str:
    rows = await session.fetchrow(
        f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} AS t"  # noqa: S608 - quoted by format()
    )
    return f"{table}={rows}"


async def open_workflows(temporal: Client) -> Sequence[OpenWorkflow]:
    """The workflows that are open, and what each has under way."""
    # The schedule reads education organizations when it likes: that is no job of an instance.
    others = "WorkflowType != 'RefreshEducationOrganizations'"
    running = [found async for found in temporal.list_workflows(f"ExecutionStatus = 'Running' AND {others}")]
    return [workflow for found in running if (workflow := await _described(temporal, found))]


async def _described(temporal: Client, found: WorkflowExecution) -> OpenWorkflow | None:
    """Visibility lags behind: the execution itself knows whether it is open, and what it does."""
    description = await temporal.get_workflow_handle(found.id, run_id=found.run_id).describe()
    if description.close_time is not None:
        return None
    return OpenWorkflow(
        found.id,
        found.workflow_type,
        found.typed_search_attributes.get(_ODS_INSTANCE_ID),
        "; ".join(_under_way(description.raw_description)),
    )


def _under_way(raw: Any) -> Sequence[str]:
    activities = [
        f"{pending.activity_type.name}, attempt {pending.attempt} ({pending.last_failure.message})"
        for pending in raw.pending_activities
    ]
    return [*activities, *(["a workflow task"] if raw.HasField("pending_workflow_task") else [])]
