"""Jobs as they travel through workflows, with all that these need to know and without secrets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self, assert_never

from ods.model.arguments import (
    Arguments,
    JobKind,
    PurgeArguments,
    backs_up_first,
    job_kind,
    origin_in,
    require_fitting,
    rules_of,
)
from ods.model.operations import RULES, Operation, Product, Rules
from ods.model.origins import (
    BackupOrigin,
    CopyOrigin,
    EarlierDatabase,
    Origin,
    TemplateOrigin,
    read_origin,
)
from ods.registry.instances.naming import reset_name, trash_name
from ods.settings.settings import DEFAULT_TENANT, Settings

INSTALLATION = "installation"
"""Key of the memo with the id of the installation that a workflow or schedule belongs to."""


@dataclass(frozen=True)
class ExecutionPolicy:
    """Timeouts, in seconds, and numbers of tries of a job.

    It travels with the job, because a workflow may not read settings: they could differ at a replay.
    """

    ddl_queue: str  # task queue of the workers that create and drop databases
    ddl_attempts: int
    heartbeat_timeout: float  # without a heartbeat for so long, a try to create or drop one counts as lost
    decision_window: float  # how long a failed job waits for the operator's `retry` or `abandon`
    outage_timeout: float  # how long a job waits for the registry or a server that cannot be reached
    backup_queue: str  # task queue of the workers that make and read backups

    @classmethod
    def from_settings(cls, settings: Settings) -> "ExecutionPolicy":
        """The policy of jobs that this process starts: the settings of the same names."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Replacement:
    """The database that takes the place of an instance's, for a reset or to undo one.

    The request writes it to the instance's row, where it stays until the job is done, or what it has done is
    undone.
    """

    database_id: str
    template: str
    kept_seconds: int  # what is replaced can come back for so long at least, by the settings at the request
    from_trash: bool
    by: str | None  # the client that has requested it, if it is known
    keeps: bool  # what is replaced can come back; otherwise it is dropped once all is recorded
    origin: Origin

    @property
    def database(self) -> str:
        """The name that it has until it takes the place: a private one, or its name in the trash."""
        return trash_name(self.database_id) if self.from_trash else reset_name(self.database_id)

    @classmethod
    def read(cls, column: Mapping[str, Any]) -> Self:
        """What a row holds."""
        if column.keys() != {field.name for field in fields(cls)}:
            raise ValueError("Another release has written what takes the place of a database.")
        return cls(**{**column, "origin": read_origin(column["origin"])})


@dataclass(frozen=True)
class InstanceJob:
    """One attempt at one job of one instance.

    `mark`, `request` and `attempt` are the fencing token of every status write. A restored registry may give
    ids and numbers again, but none of the UUIDs.
    """

    tenant: str
    operation: Operation
    arguments: Arguments
    instance_id: int
    ods_instance_id: int
    number: int  # counts the jobs of the instance
    attempt: int  # counts the times that this job has begun
    name: str
    template: str
    database: str
    database_id: str  # a UUID; a reset replaces the database by another one
    mark: str  # the instance's UUID
    request: str  # the UUID drawn with the request for the job
    published: bool  # the database was ever handed over to the ODS/API
    policy: ExecutionPolicy
    installation: str  # its registry requested the job
    # What a rename, or an undelete under another name, gives; a delete has it if a rename has failed.
    new_name: str | None = None
    new_database: str | None = None
    # Of a create that has published its database, if it is known.
    template_generation: int | None = None
    # What takes the database's place; also of a later job, while a failed reset is not undone yet.
    replacement: Replacement | None = None

    def __post_init__(self) -> None:
        """Refuse a job that has the arguments of another operation."""
        require_fitting(self.operation, self.arguments)

    @property
    def backup_first(self) -> bool:
        """Whether a backup is made before the job, or the purge that follows it, drops the database."""
        return backs_up_first(self.arguments)

    @property
    def makes_backup(self) -> str | None:
        """The id of the backup that the job makes, which is that of its request; None if it makes none."""
        makes_one = self.rules.makes is Product.BACKUP or self.arguments == PurgeArguments(backup_first=True)
        return self.request if makes_one else None

    @property
    def origin(self) -> Origin:
        """What the job makes a database of.

        Raises:
            TypeError: it makes none.
        """
        match origin := origin_in(self.arguments):
            case None | EarlierDatabase():
                raise TypeError("The job makes no database.")
            case TemplateOrigin() | CopyOrigin() | BackupOrigin():
                return origin
            case _:
                assert_never(origin)

    @property
    def kind(self) -> JobKind:
        """What distinguishes the job by operation and arguments."""
        return job_kind(self.operation, self.arguments)

    @property
    def rules(self) -> Rules:
        """What such a job may do."""
        return rules_of(self.operation, self.arguments)

    @property
    def replacement_column(self) -> dict[str, Any] | None:
        """The replacement as the instance's row has it."""
        return None if self.replacement is None else asdict(self.replacement)

    @property
    def final_name(self) -> str:
        """The instance's name when the job is done."""
        return self.new_name or self.name

    @property
    def name_in_comment(self) -> str:
        """What the job calls the instance in the comments that it writes, until it is undone."""
        return self.final_name if self.rules.renames or self.rules.brings_back else self.name

    @property
    def final_database(self) -> str:
        """The name of the instance's database when the job is done."""
        return self.new_database or self.database

    @property
    def databases(self) -> list[str]:
        """The names that a deleted instance's database may have: its own, by a rename, or in the trash."""
        names = (self.database, self.new_database, self.trash_database)
        return [name for name in names if name is not None]

    @property
    def trash_database(self) -> str:
        """The name that its database has, or gets, in the trash."""
        return trash_name(self.database_id)

    @property
    def job_id(self) -> str:
        """Key of the job in `adminapi.jobstatuses`."""
        return job_id(self.rules.word, self.ods_instance_id, self.number)

    @property
    def following_purge(self) -> str | None:
        """The id of the purge that follows this delete, after a backup; None if none does."""
        if not self.rules.to_trash or not self.backup_first:
            return None
        return job_id(RULES[Operation.PURGE].word, self.ods_instance_id, self.number + 1)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What identifies the job: its id is given again where a registry was restored."""
        return self.installation, self.mark, self.job_id

    @property
    def memo(self) -> dict[str, str]:
        """What the workflow's memo says: of which installation and instance the job is, and which one."""
        return {INSTALLATION: self.installation, "mark": self.mark, "job": self.job_id}

    @property
    def workflow_id(self) -> str:
        """The OdsInstanceId: Temporal runs one workflow of an id at a time, which is the instance's lock."""
        return workflow_id(self.tenant, self.ods_instance_id)

    def is_attempt(self, other: "InstanceJob") -> bool:
        """Whether both are one attempt at one job."""
        return (self.request, self.attempt) == (other.request, other.attempt)


def job_id(word: str, ods_instance_id: int, number: int) -> str:
    """Key of a job in `adminapi.jobstatuses`, as `CreateInstanceJob-42-1`; `word` is `Rules.word`."""
    return f"{word}InstanceJob-{ods_instance_id}-{number}"


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
    """A job whose workflow Temporal still has, and when that was started."""

    installation: str
    mark: str
    number: int
    at: datetime


@dataclass(frozen=True)
class BeginResult:
    """Whether the instance is at this attempt of the job now; if so, why that must fail all the same."""

    held: bool
    refusal: str | None = None


@dataclass(frozen=True)
class JobFailure:
    """A job that has failed, at the attempt that gave up."""

    job: InstanceJob
    reason: str  # in words that say what the operator can do
    outage: bool = False  # a server was away for longer than the job's policy waits
    cancelled: bool = False  # by a client


@dataclass(frozen=True)
class JobWait:
    """What a running job waits for, for how many seconds, and for how many more before it fails."""

    job: InstanceJob
    reason: str
    since_seconds: float
    until_seconds: float
