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

    Attributes:
        ddl_queue: task queue of the workers that create and drop databases.
        heartbeat_timeout: without a heartbeat for so long, a try to create or drop one counts as lost.
        decision_window: how long a failed job waits for the operator's `retry` or `abandon`.
        outage_timeout: how long a job waits for the registry or a server that cannot be reached.
        backup_queue: task queue of the workers that make and read backups.
    """

    ddl_queue: str
    ddl_attempts: int
    heartbeat_timeout: float
    decision_window: float
    outage_timeout: float
    backup_queue: str

    @classmethod
    def from_settings(cls, settings: Settings) -> "ExecutionPolicy":
        """The policy of jobs that this process starts: the settings of the same names."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Replacement:
    """The database that takes the place of an instance's, for a reset or to undo one.

    The request writes it to the instance's row, where it stays until the job is done, or what it has done is
    undone.

    Attributes:
        template: the name of the template that it is made from.
        kept_seconds: how long what is replaced can come back at least, as the settings said at the request.
        by: the client that has requested it; None if it is not known.
        keeps: whether what is replaced can come back; if not, it is dropped once all is recorded.
    """

    database_id: str
    template: str
    kept_seconds: int
    from_trash: bool
    by: str | None
    keeps: bool
    origin: Origin

    @property
    def database(self) -> str:
        """The name that it has until it takes the place: a private one, or its name in the trash."""
        return trash_name(self.database_id) if self.from_trash else reset_name(self.database_id)

    @classmethod
    def read(cls, column: Mapping[str, Any]) -> Self:
        """What a row holds.

        Raises:
            ValueError: another release has written it.
        """
        if column.keys() != {field.name for field in fields(cls)}:
            raise ValueError("Another release has written what takes the place of a database.")
        return cls(**{**column, "origin": read_origin(column["origin"])})


@dataclass(frozen=True)
class InstanceJob:
    """One attempt at one job of one instance.

    `mark`, `request` and `attempt` are the fencing token of every status write.

    Attributes:
        arguments: what the operation leaves open.
        number: counts the jobs of the instance.
        attempt: counts the times that this job has begun.
        template: the name of the template that its database is made from.
        database_id: the UUID of its database, which a reset replaces by another one.
        mark: the instance's UUID. A restored registry may give ids and numbers again, but never a mark.
        request: the UUID drawn with the request for the job: never given again, as a `number` may be.
        published: whether the database was ever handed over to the ODS/API.
        installation: the installation whose registry requested the job.
        new_name: the name that a rename gives the instance, or an undelete under another name; a delete has
            it as well if a rename has failed.
        new_database: the name that the database gets with it.
        template_generation: of a create that has published its database, which generation of the template
            that is a copy of; None if that is not known.
        replacement: the database that takes its place; also of a later job, while what a failed reset has
            done is not undone yet.
    """

    tenant: str
    operation: Operation
    arguments: Arguments
    instance_id: int
    ods_instance_id: int
    number: int
    attempt: int
    name: str
    template: str
    database: str
    database_id: str
    mark: str
    request: str
    published: bool
    policy: ExecutionPolicy
    installation: str
    new_name: str | None = None
    new_database: str | None = None
    template_generation: int | None = None
    replacement: Replacement | None = None

    def __post_init__(self) -> None:
        """Refuse a job that has the arguments of another operation.

        Raises:
            ValueError: it has.
        """
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
    """A job that has failed, at the attempt that gave up.

    Attributes:
        reason: why, in words that say what the operator can do.
        outage: whether a server was away for longer than the job's policy waits.
        cancelled: whether a client has cancelled it.
    """

    job: InstanceJob
    reason: str
    outage: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class JobWait:
    """What a running job waits for, for how many seconds, and for how many more before it fails."""

    job: InstanceJob
    reason: str
    since_seconds: float
    until_seconds: float
