"""Jobs as they travel through workflows, with all that these need to know and without secrets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from ods.registry.instances.origins import CopyMode, CopyOrigin, Origin, origin_of
from ods.registry.instances.status import Operation, traits
from ods.settings.settings import DEFAULT_TENANT, Settings

INSTALLATION = "installation"
"""Key of the memo with the id of the installation that a workflow or schedule belongs to."""


@dataclass(frozen=True)
class ExecutionPolicy:
    """Timeouts and numbers of tries of a job.

    It travels with the job, because a workflow may not read settings: they could differ at a replay.

    Attributes:
        ddl_queue: task queue of the workers that create and drop databases.
        ddl_attempts: tries to do that before the job fails.
        heartbeat_timeout: seconds without a heartbeat after which such a try counts as lost.
        decision_window: seconds that a failed job waits for the operator's `retry` or `abandon`.
        outage_timeout: seconds that a job waits for the registry or a server that cannot be reached.
        backup_queue: task queue of the workers that make and read backups.
    """

    ddl_queue: str
    ddl_attempts: int
    heartbeat_timeout: float
    decision_window: float
    outage_timeout: float = 3600
    backup_queue: str = "ods-backup"

    @classmethod
    def from_settings(cls, settings: Settings) -> "ExecutionPolicy":
        """The policy of jobs that this process starts."""
        return cls(
            ddl_queue=settings.ddl_queue,
            ddl_attempts=settings.ddl_attempts,
            heartbeat_timeout=settings.heartbeat_timeout,
            decision_window=settings.decision_window,
            outage_timeout=settings.outage_timeout,
            backup_queue=settings.backup_queue,
        )


@dataclass(frozen=True)
class Replacement:
    """The database that takes the place of an instance's, for a reset or to undo one.

    It is written to the instance's row with the request, and stays there until the job is done, or what it
    has done is undone.

    Attributes:
        mark: its own mark, a UUID; None if it is the database that the instance was created with.
        template: the name of the template that it is made from.
        database: the name that it has until it takes the place: a private one, or its name in the trash.
        replaced: the name in the trash that the database gets whose place it takes.
        known_number: the latest job that can have published the instance's database before.
        known_attempt: the latest attempt at that job.
        trashed_number: of what comes from the trash, the job that has put it there.
        trashed_attempt: the attempt at that job.
        by: the client that has requested it; None if it is not known.
        keeps: whether what is replaced can come back; if not, it is dropped once all is recorded.
        copy_of: the instance that it is a copy of; None if it is none.
        backup_id: the backup that it is restored from; None if it is from none.
        kept_seconds: how long what is replaced can come back at least, as the settings said at the request;
            None if it was requested before that was recorded.
    """

    mark: str | None
    template: str
    database: str
    replaced: str
    known_number: int
    known_attempt: int
    trashed_number: int | None = None
    trashed_attempt: int | None = None
    by: str | None = None
    keeps: bool = True
    copy_of: CopyOrigin | None = None
    backup_id: str | None = None
    kept_seconds: int | None = None

    @property
    def origin(self) -> Origin:
        """Where it comes from; without any other origin, from its template."""
        return origin_of(self.copy_of, self.backup_id)

    @property
    def column(self) -> dict[str, Any]:
        """As rows hold it: as before there were other origins and promises, where it has none of these."""
        later = {"copy_of", "backup_id", "kept_seconds"}
        return {key: value for key, value in asdict(self).items() if key not in later or value is not None}

    @classmethod
    def read(cls, column: Mapping[str, Any]) -> Self:
        """What a row holds."""
        copy = column.get("copy_of")
        source = None if copy is None else CopyOrigin(**{**copy, "mode": CopyMode(copy["mode"])})
        return cls(**{**column, "copy_of": source})


@dataclass(frozen=True)
class InstanceJob:
    """One attempt at one job of one instance.

    `mark`, `request` and `attempt` are the fencing token of every status write.

    Attributes:
        tenant: the instance's tenant.
        operation: what the job does.
        instance_id: key of the instance in `adminapi.dbinstances`.
        ods_instance_id: its OdsInstanceId.
        number: counts the jobs of the instance.
        attempt: counts the times that this job has begun.
        name: the instance's name.
        template: the name of the template that its database is made from.
        database: the name of its database.
        mark: the UUID that its database carries. A restored registry may give ids and numbers again, but
            never a mark.
        request: the UUID that was drawn with the request for the job, and is never given again, as `number`
            is by a registry that was put back.
        published: whether the database was ever handed over to the ODS/API.
        policy: timeouts and numbers of tries.
        new_name: the name that a rename gives the instance, or an undelete under another name; a delete has
            it as well if a rename has failed.
        new_database: the name that the database gets with it.
        installation: the installation whose registry requested the job.
        known_number: of a delete, the last job before it: a database that was published later is not dropped.
            Of a purge, the job that has put the database into the trash.
        known_attempt: the last attempt at that job.
        template_generation: of a create that has published its database, which generation of the template
            that is a copy of; None if that is not known.
        trash_database: the name that the database has, or gets, in the trash.
        copy_of: the instance that this one is a copy of; None if it is none.
        backup_id: the backup that the instance is restored from; None if it is from none.
        makes_backup: the id of the backup that the job makes; None if it makes none.
        database_mark: the mark of the database alone, a UUID; None until another one has taken its place.
        replacement: the database that takes its place; also of a later job, while what a failed reset has
            done is not undone yet.
        purge_follows: of a delete that moves the database to the trash, whether the client has requested that
            it is backed up and dropped as soon as it is there.
    """

    tenant: str
    operation: Operation
    instance_id: int
    ods_instance_id: int
    number: int
    attempt: int
    name: str
    template: str
    database: str
    mark: str
    request: str
    published: bool
    policy: ExecutionPolicy
    new_name: str | None = None
    new_database: str | None = None
    installation: str | None = None
    known_number: int | None = None
    known_attempt: int | None = None
    template_generation: int | None = None
    trash_database: str | None = None
    copy_of: CopyOrigin | None = None
    backup_id: str | None = None

    @property
    def origin(self) -> Origin:
        """Where the instance's database comes from; jobs from before there were others have the template."""
        return origin_of(self.copy_of, self.backup_id)

    makes_backup: str | None = None
    database_mark: str | None = None
    replacement: Replacement | None = None
    purge_follows: bool = False

    @property
    def replacement_column(self) -> dict[str, Any] | None:
        """What the job wants to be the instance's database, as the instance's row has it."""
        return None if self.replacement is None else self.replacement.column

    @property
    def final_name(self) -> str:
        """The instance's name when the job is done."""
        return self.new_name or self.name

    @property
    def final_database(self) -> str:
        """The name of the instance's database when the job is done."""
        return self.new_database or self.database

    @property
    def databases(self) -> list[str]:
        """The names that a deleted instance's database may have.

        Its own, the one that a rename gives it, and that in the trash, where a delete may have put it.
        """
        names = (self.database, self.new_database, self.trash_database)
        return [name for name in names if name is not None]

    @property
    def publication(self) -> tuple[int, int]:
        """Job and attempt that can have published the instance's database last: see `last_publication`."""
        return last_publication(
            self.operation, self.number, self.attempt, self.known_number, self.known_attempt
        )

    @property
    def job_id(self) -> str:
        """Key of the job in `adminapi.jobstatuses`."""
        return job_id(self.operation, self.ods_instance_id, self.number)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What names the job, and no other: ids of jobs are given again where a registry was restored."""
        return self.installation or "", self.mark, self.job_id

    @property
    def memo(self) -> dict[str, str | None]:
        """What the workflow's memo says: of which installation and instance the job is, and which one."""
        return {INSTALLATION: self.installation, "mark": self.mark, "job": self.job_id}

    @property
    def workflow_id(self) -> str:
        """The OdsInstanceId: Temporal runs one workflow of an id at a time, which is the instance's lock."""
        return workflow_id(self.tenant, self.ods_instance_id)

    def is_attempt(self, other: "InstanceJob") -> bool:
        """Whether both are one attempt at one job."""
        return (self.request, self.attempt) == (other.request, other.attempt)


def last_publication(
    operation: Operation, number: int, attempt: int, known_number: int | None, known_attempt: int | None
) -> tuple[int, int]:
    """The job and the attempt at it that can have published an instance's database last.

    A delete publishes nothing, nor does a purge. It has a number of its own, which would pass for that of a
    later publication in a registry that was restored to an earlier state; so the attempt before the first
    delete counts, or that which has put the database into the trash. Nor does an undelete that was cancelled
    before its attempt began: then the attempt before that counts.

    Args:
        operation: that of the instance's last job.
        number: which job of the instance that is.
        attempt: the last attempt at it.
        known_number: of a delete, the job before the first delete; of what is in the trash, the job that has
            put it there; of a cancelled undelete, itself. None if the delete was requested before this was
            recorded.
        known_attempt: the last attempt at that job.
    """
    is_cancelled = known_number == number
    if known_number is None or (traits(operation).publishes and not is_cancelled):
        return number, attempt
    return known_number, known_attempt or 0


def job_id(operation: Operation, ods_instance_id: int, number: int) -> str:
    """Key of a job in `adminapi.jobstatuses`, for example `CreateInstanceJob-42-1`."""
    return f"{traits(operation).word}InstanceJob-{ods_instance_id}-{number}"


def job_number(identifier: str) -> int:
    """The number of the job with this id; 0 for what is no id of a job."""
    number = identifier.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def ods_instance_id_of(identifier: str) -> int | None:
    """The OdsInstanceId of the instance of the job with this id; None for what is no id of such a job."""
    number = identifier.removesuffix(f"-{job_number(identifier)}").rpartition("-")[2]
    return int(number) if number.isdecimal() else None


def workflow_id(tenant: str, ods_instance_id: int) -> str:
    """Id of the workflow that carries out an instance's jobs: `42`, or `tenant1:42`."""
    return tenant_id(tenant, str(ods_instance_id))


def tenant_id(tenant: str, identifier: str) -> str:
    """A tenant's `identifier` as it is in Temporal, which all tenants share."""
    return identifier if tenant == DEFAULT_TENANT else f"{tenant}:{identifier}"


@dataclass(frozen=True)
class StartedJob:
    """A job whose workflow Temporal still has.

    Attributes:
        installation: the installation that requested it; None in workflows that were started without one.
        mark: the mark of its instance.
        number: counts the jobs of the instance.
        at: when the workflow was started.
    """

    installation: str | None
    mark: str
    number: int
    at: datetime


@dataclass(frozen=True)
class BeginResult:
    """Whether a job could begin.

    Attributes:
        held: whether the instance is at this attempt of the job now.
        refusal: if it is, why the job must fail all the same.
    """

    held: bool
    refusal: str | None = None


@dataclass(frozen=True)
class JobFailure:
    """A job that has failed.

    Attributes:
        job: the job, at the attempt that gave up.
        reason: why, in words that say what the operator can do.
        outage: whether a server was away for longer than the job's policy waits.
        cancelled: whether a client has cancelled it; a worker of an earlier release does not know that.
    """

    job: InstanceJob
    reason: str
    outage: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class JobWait:
    """What a running job waits for.

    Attributes:
        job: the job.
        reason: which server is away.
        since_seconds: for how many seconds it has waited.
        until_seconds: for how many seconds more it will wait before it fails.
    """

    job: InstanceJob
    reason: str
    since_seconds: float
    until_seconds: float
