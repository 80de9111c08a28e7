"""The tables of the registry.

Names are those of the Admin API and the ODS/API, unquoted; timestamps hold UTC without a zone.
"""

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    func,
    not_,
    or_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, foreign, mapped_column, relationship, remote

from ods.model.arguments import Arguments, arguments_in, backs_up_first, origin_in, rules_of
from ods.model.operations import (
    BRINGING_BACK,
    JOB_UNDER_WAY,
    NOT_LIVE,
    REFRESH,
    InstanceStatus,
    JobStatus,
    Operation,
    Rules,
)
from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, EarlierDatabase, Origin, read_origin
from ods.model.revisions import TrashReason
from ods.registry.instances.naming import TRASH_PREFIX, trash_name

FIRST_NAME = "dbinstances"
"""The name that the table of the instances has had at first, and in all migrations."""
RENAMED_TABLE = "odsinstancemanages"
"""Its name since July 2026; an Admin API that gave it this name knows the words of `manage` alone."""

LIVE_NAME_INDEX = "uq_dbinstances_live_name"
LIVE_DATABASE_INDEX = "uq_dbinstances_live_databasename"
NEW_NAME_INDEX = "uq_dbinstances_newname"
NEW_DATABASE_INDEX = "uq_dbinstances_newdatabasename"
LIVE_ODS_INSTANCE_INDEX = "uq_dbinstances_live_odsinstanceid"
_LIVE = text(
    " AND ".join(
        [f"state <> '{InstanceStatus.DELETED}'", *(f"operation <> '{operation}'" for operation in NOT_LIVE)]
    )
)
"""As `DbInstance.is_live`."""
_IS_BACK = " AND ".join(f"operation <> '{operation}'" for operation in BRINGING_BACK)
_HAS_NAMES = text(f"{_LIVE} AND ({_IS_BACK} OR newname IS NULL)")
"""As `DbInstance.has_names`."""
_WAITING = text(f"state IN ('{InstanceStatus.PENDING}', '{InstanceStatus.PENDING_DELETE}')")

MADE_OF_OTHERS = text("arguments -> 'origin' <> '{}'::jsonb")
"""The last job makes, or has made, the database of another instance or of a backup, or brings one back."""

REFRESH_WAITS = text(f"operation = '{REFRESH}' AND status = '{JobStatus.PENDING}'")
_REFRESH_RUNS = text(f"operation = '{REFRESH}' AND status = '{JobStatus.IN_PROGRESS}'")


class Base(DeclarativeBase):
    """The registry's metadata."""


class _HasOrigin:
    """Where the contents of a database come from."""

    origin_column: Mapped[dict[str, Any]] = mapped_column("origin", JSONB, server_default=text("'{}'::jsonb"))

    @property
    def origin(self) -> Origin:
        """Where they come from.

        Raises:
            ValueError: a later release has written it.
        """
        return read_origin(self.origin_column)

    @property
    def copy_origin(self) -> CopyOrigin | None:
        """The instance that it is a copy of; None if it is none."""
        origin = self.origin
        return origin if isinstance(origin, CopyOrigin) else None

    @property
    def copy_of(self) -> int | None:
        """The id of that instance."""
        return None if self.copy_origin is None else self.copy_origin.instance_id

    @property
    def copy_mode(self) -> CopyMode | None:
        """How it was copied."""
        return None if self.copy_origin is None else self.copy_origin.mode

    @property
    def backup_id(self) -> str | None:
        """The backup that it is restored from; None if it is from none."""
        origin = self.origin
        return origin.backup_id if isinstance(origin, BackupOrigin) else None


class DbInstance(Base):
    """An instance: what a client asked for, and how far its job is.

    A view of the table that an Admin API has as well, under either of two names; the indexes are that table's
    (see `ods/registry/migrations/shared_table.py`). Its column `status` is the Admin API's, and is left out.
    """

    __tablename__ = "managed_instances"
    __table_args__ = (
        Index(LIVE_NAME_INDEX, "name", unique=True, postgresql_where=_HAS_NAMES),
        Index(LIVE_DATABASE_INDEX, "databasename", unique=True, postgresql_where=_HAS_NAMES),
        Index(LIVE_ODS_INSTANCE_INDEX, "odsinstanceid", unique=True, postgresql_where=_LIVE),
        Index(NEW_NAME_INDEX, "newname", unique=True, postgresql_where=_LIVE),
        Index(NEW_DATABASE_INDEX, "newdatabasename", unique=True, postgresql_where=_LIVE),
        Index("idx_dbinstances_name", "name"),
        Index("idx_dbinstances_odsinstanceid", "odsinstanceid"),
        # Collated "C"; how an expression is collated is not told when tables are compared with these.
        Index("ix_dbinstances_order", text("adminapi.utf16_order(name)"), "id"),
        Index("ix_dbinstances_search", text("adminapi.trigrams(name)"), postgresql_using="gin"),
        Index("ix_dbinstances_waiting", "id", postgresql_where=_WAITING),
        Index(
            "ix_dbinstances_labels",
            "labels",
            postgresql_using="gin",
            postgresql_ops={"labels": "jsonb_path_ops"},
            postgresql_where=text("labels IS NOT NULL"),
        ),
        Index("ix_dbinstances_madeof", "id", postgresql_where=MADE_OF_OTHERS),
        Index("ix_dbinstances_replacement", "id", postgresql_where=text("replacement IS NOT NULL")),
        Index("ix_dbinstances_undodue", "id", postgresql_where=text("undodue")),
        Index("ix_dbinstances_modified", "lastmodifieddate"),
        {"schema": "adminapi"},
    )

    id: Mapped[int] = mapped_column(Identity(always=False), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    # Null only in rows that an Admin API has left behind as deleted, or added since `ods migrate`.
    ods_instance_id: Mapped[int] = mapped_column("odsinstanceid", nullable=True)
    ods_instance_name: Mapped[str | None] = mapped_column("odsinstancename", String(100))
    # In our words; a trigger keeps the Admin API's column in step.
    status: Mapped[str] = mapped_column("state", String(75))
    database_template: Mapped[str] = mapped_column("databasetemplate", String(100))
    database_name: Mapped[str] = mapped_column("databasename", String(255), nullable=True)
    last_refreshed: Mapped[datetime] = mapped_column("lastrefreshed", server_default=text("now()"))
    last_modified: Mapped[datetime | None] = mapped_column("lastmodifieddate")
    # Ours, beside the Admin API's:
    operation: Mapped[str] = mapped_column(String(20))
    # What that leaves open: `ods.model.arguments`. By default, those of a create from the template.
    arguments_column: Mapped[dict[str, Any]] = mapped_column(
        "arguments", JSONB, server_default=text("""'{"origin": {}}'::jsonb""")
    )
    job_number: Mapped[int] = mapped_column("jobnumber", server_default=text("0"))
    # Drawn with each request for a job: a registry that was put back gives the number to another request.
    request: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    mark: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    error_message: Mapped[str | None] = mapped_column("errormessage", Text)
    # What a rename, or an undelete under another name, makes of `name` and `databasename`; reserved while the
    # instance is live, until it is done or something else is asked.
    new_name: Mapped[str | None] = mapped_column("newname", String(100))
    new_database_name: Mapped[str | None] = mapped_column("newdatabasename", String(255))
    # Since a rename or an undelete began: its database may have another name than it has here, until that job
    # is done or undone.
    undo_due: Mapped[bool] = mapped_column("undodue", server_default=text("false"))
    # The attempt at its last request that a client has called off. Of no other attempt this tells.
    cancelled_attempt: Mapped[int | None] = mapped_column("cancelledattempt")
    # How often in a row an outage has ended the instance's job.
    outages: Mapped[int] = mapped_column(server_default=text("0"))
    # What clients say about it; objects of JSON have texts for values, and are null instead of empty.
    is_protected: Mapped[bool] = mapped_column("isprotected", server_default=text("false"))
    description: Mapped[str | None] = mapped_column(String(500))
    labels: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    # The contexts that requests for it have given it. Its ODS instance gets them when there is one; it may
    # have others from then on, which requests for ODS instances, or another product, have given or changed.
    own_contexts: Mapped[dict[str, str] | None] = mapped_column("owncontexts", JSONB(none_as_null=True))
    # What has referred to its ODS instance, and comes back with it (`ods/registry/instances/ods_routing.py`).
    set_aside: Mapped[dict[str, Any] | None] = mapped_column("setaside", JSONB(none_as_null=True))
    # Which database is its own: a reset replaces it by another one. Like a mark, never given again.
    database_id: Mapped[uuid.UUID] = mapped_column("databaseid", server_default=text("gen_random_uuid()"))
    # The database that takes its place, until that is done or undone:
    # `ods.registry.instances.jobs.Replacement`.
    replacement: Mapped[dict[str, Any] | None] = mapped_column("replacement", JSONB(none_as_null=True))

    # Its own; a trigger adds that of a new instance.
    database: Mapped["InstanceDatabase"] = relationship(
        primaryjoin=lambda: and_(
            DbInstance.id == foreign(remote(InstanceDatabase.instance_id)),
            DbInstance.database_id == foreign(remote(InstanceDatabase.database_id)),
        ),
        lazy="selectin",  # in a statement of its own, which sees what was changed before a lock was granted
        uselist=False,
        viewonly=True,
        cascade="refresh-expire",
    )

    @property
    def reserved_contexts(self) -> dict[str, str] | None:
        """The contexts that its ODS instance gets when there is one; None once it was published."""
        return None if self.is_published else self.own_contexts

    @hybrid_property
    def is_published(self) -> bool:
        """Whether its database was ever handed over to the ODS/API."""
        return self.database.published_at is not None

    @is_published.inplace.expression
    @classmethod
    def _is_published(cls) -> ColumnElement[bool]:
        return cls.database.has(InstanceDatabase.published_at.is_not(None))

    @hybrid_property
    def is_adopted(self) -> bool:
        """Whether it is ours to work on: not if another product has added it since `ods migrate`."""
        return self.job_number > 0

    @hybrid_property
    def is_live(self) -> bool:
        """Whether it has its names: not if it is deleted, also while a job drops what is left of it."""
        return self.status != InstanceStatus.DELETED and self.operation not in NOT_LIVE

    @is_live.inplace.expression
    @classmethod
    def _is_live(cls) -> ColumnElement[bool]:
        # Word by word as in `_LIVE`, so that the indexes serve queries with it.
        others = (cls.operation != operation for operation in NOT_LIVE)
        return and_(cls.status != InstanceStatus.DELETED, *others)

    @property
    def is_called_off(self) -> bool:
        """Whether a client has cancelled or abandoned the last attempt at its job."""
        return self.cancelled_attempt == self.attempt

    @property
    def is_delete_called_off(self) -> bool:
        """Whether its delete has failed, and a client has cancelled or abandoned that."""
        return self.status == InstanceStatus.DELETE_FAILED and self.is_called_off

    @hybrid_property
    def has_names(self) -> bool:
        """Whether no other instance can have its names: not those that an undelete will not give it back."""
        return self.is_live and (self.operation not in BRINGING_BACK or self.new_name is None)

    @has_names.inplace.expression
    @classmethod
    def _has_names(cls) -> ColumnElement[bool]:
        is_back = and_(*(cls.operation != operation for operation in BRINGING_BACK))
        return and_(cls.is_live, or_(is_back, cls.new_name.is_(None)))

    @hybrid_property
    def is_in_trash(self) -> bool:
        """Whether it is deleted, and its database kept: also while that is about to be dropped."""
        return not self.is_live and self.has_database_in_trash

    @is_in_trash.inplace.expression
    @classmethod
    def _is_in_trash(cls) -> ColumnElement[bool]:
        return and_(not_(cls.is_live), cls.has_database_in_trash)

    @hybrid_property
    def has_database_in_trash(self) -> bool:
        """Whether its database was put into the trash, and is not known to have come back or to be dropped.

        Also while an undelete waits or works, by whose request the instance is no longer in the trash.
        """
        return self.database.reason is not None

    @has_database_in_trash.inplace.expression
    @classmethod
    def _has_database_in_trash(cls) -> ColumnElement[bool]:
        return cls.database.has(InstanceDatabase.reason.is_not(None))

    @property
    def rules(self) -> Rules:
        """What its last job may do."""
        return rules_of(Operation(self.operation), self.arguments)

    @property
    def arguments(self) -> Arguments:
        """The arguments of its last job.

        Raises:
            ValueError: a later release has written others.
        """
        return arguments_in(Operation(self.operation), self.arguments_column)

    @hybrid_property
    def goes_to_trash(self) -> bool:
        """Whether its last job is a delete that moves the database to the trash."""
        return self.rules.to_trash

    @goes_to_trash.inplace.expression
    @classmethod
    def _goes_to_trash(cls) -> ColumnElement[bool]:
        is_kept: ColumnElement[bool] = cls.arguments_column["keep"].as_boolean().is_(True)
        return is_kept

    @hybrid_property
    def brings_earlier_back(self) -> bool:
        """Whether its last job is a reset to a database that it had before."""
        return isinstance(origin_in(self.arguments), EarlierDatabase)

    @brings_earlier_back.inplace.expression
    @classmethod
    def _brings_earlier_back(cls) -> ColumnElement[bool]:
        has_one: ColumnElement[bool] = cls.arguments_column["origin"]["database_id"].as_string().is_not(None)
        return has_one

    @hybrid_property
    def backup_first(self) -> bool:
        """Whether a backup is made before its last job, or the purge that follows, drops the database."""
        return backs_up_first(self.arguments)

    @backup_first.inplace.expression
    @classmethod
    def _backup_first(cls) -> ColumnElement[bool]:
        is_true: ColumnElement[bool] = cls.arguments_column["backup_first"].as_boolean().is_(True)
        return is_true

    @property
    def word(self) -> str:
        """What clients call its last job."""
        return self.rules.word


class InstanceDatabase(_HasOrigin, Base):
    """A database that an instance has, is to get by its create, or had before a reset."""

    __tablename__ = "databases"
    __table_args__ = (
        UniqueConstraint("instanceid", "databaseid", name="uq_databases_database"),
        CheckConstraint("(reason IS NULL) = (trashedat IS NULL)", name="ck_databases_reason"),
        Index("ix_databases_purgeafter", "purgeafter"),
        Index("ix_databases_trashed", "instanceid", postgresql_where=text("reason IS NOT NULL")),
        Index("ix_databases_unpublished", "instanceid", postgresql_where=text("publishedat IS NULL")),
        {"schema": "adminapi"},
    )

    id: Mapped[int] = mapped_column(Identity(always=False), primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid")
    database_id: Mapped[uuid.UUID] = mapped_column("databaseid")
    # What it is made of; which generation of its template it is a copy of, if that is known.
    database_template: Mapped[str] = mapped_column("databasetemplate", String(100))
    template_generation: Mapped[int | None] = mapped_column("templategeneration")
    # When it was handed over to the ODS/API.
    published_at: Mapped[datetime | None] = mapped_column("publishedat")
    # Why it is in the trash, and since when, as long as it is there; which job has put it there last.
    reason: Mapped[str | None] = mapped_column(String(10))
    trashed_at: Mapped[datetime | None] = mapped_column("trashedat")
    job_number: Mapped[int] = mapped_column("jobnumber", server_default=text("0"))
    # From the request that moves it there on: which client has sent that; when it may be dropped.
    trashed_by: Mapped[str | None] = mapped_column("trashedby", String(256))
    purge_after: Mapped[datetime | None] = mapped_column("purgeafter")
    # Since when one that was replaced is being dropped: it cannot come back from then on.
    purging_since: Mapped[datetime | None] = mapped_column("purgingsince")

    @hybrid_property
    def is_replaced(self) -> bool:
        """Whether it is in the trash because a reset has replaced it."""
        return self.reason == TrashReason.REPLACED

    @is_replaced.inplace.expression
    @classmethod
    def _is_replaced(cls) -> ColumnElement[bool]:
        return cls.reason == TrashReason.REPLACED

    @hybrid_property
    def trash_name(self) -> str:
        """Its name in the trash."""
        return trash_name(str(self.database_id))

    @trash_name.inplace.expression
    @classmethod
    def _trash_name(cls) -> ColumnElement[str]:
        return func.concat(TRASH_PREFIX, func.replace(cls.database_id.cast(Text), "-", ""))


def is_own(database: type[InstanceDatabase]) -> ColumnElement[bool]:
    """Whether the row of a database is that of the instance's own, where both tables are joined."""
    return and_(database.instance_id == DbInstance.id, database.database_id == DbInstance.database_id)


OUT_OF_TRASH = dict.fromkeys(
    (
        InstanceDatabase.reason,
        InstanceDatabase.trashed_at,
        InstanceDatabase.trashed_by,
        InstanceDatabase.purge_after,
        InstanceDatabase.purging_since,
    )
)
"""Columns of a database that has come back from the trash, or was never moved there."""


class DatabaseRevision(Base):
    """A state that a database of an instance has, had, or was to get; see `ods.model.revisions`."""

    __tablename__ = "databaserevisions"
    __table_args__ = (
        Index("ix_databaserevisions_instanceid", "instanceid"),
        {"schema": "adminapi"},
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid")
    database_id: Mapped[uuid.UUID] = mapped_column("databaseid")
    role: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = mapped_column(String(10))
    at: Mapped[datetime] = mapped_column(server_default=text("timezone('utc', now())"))


class ServedSchedule(Base):
    """The time of a schedule for which an instance was served last."""

    __tablename__ = "servedschedules"
    __table_args__ = ({"schema": "adminapi"},)

    instance_id: Mapped[int] = mapped_column("instanceid", primary_key=True, autoincrement=False)
    # The label by which instances take part in it.
    schedule: Mapped[str] = mapped_column(String(50), primary_key=True)
    due_at: Mapped[datetime] = mapped_column("dueat")


class LeftDatabaseName(Base):
    """The name of a database that a rename of its instance has left, and since when."""

    __tablename__ = "leftdatabasenames"
    __table_args__ = ({"schema": "adminapi"},)

    database_name: Mapped[str] = mapped_column("databasename", String(255), primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid", primary_key=True, autoincrement=False)
    left_at: Mapped[datetime] = mapped_column("leftat")


@dataclass(frozen=True)
class Wait:
    """What a job waits for; times are UTC, without a zone.

    Attributes:
        reason: which server is away, or what the operator must say, in words that clients are shown.
        since: when the job first met that; None if it has recorded nothing.
        until: when it will give up; None if it has recorded nothing.
    """

    reason: str
    since: datetime | None = None
    until: datetime | None = None

    @property
    def message(self) -> str:
        """The text for `errorMessage`."""
        until = f", until {self.until:%Y-%m-%d %H:%M:%S} UTC at the latest" if self.until else ""
        return f"The job has not failed. It waits{until}: {self.reason}"


class Job(Base):
    """One create, rename or delete of an instance, or one refresh, under the id that clients poll."""

    __tablename__ = "jobstatuses"
    __table_args__ = (
        Index("ix_jobstatuses_dbinstanceid", "dbinstanceid"),
        Index("ix_jobstatuses_newest", "createdat", "id"),
        Index("ix_jobstatuses_status", "status", "createdat", "id"),
        Index("ix_jobstatuses_duration", "operation", "databasetemplate", "finishedat"),
        # At most one refresh of a scope waits: a request that finds one joins it.
        Index(
            "uq_jobstatuses_refresh_waits",
            text("COALESCE(odsinstanceid, 0)"),
            unique=True,
            postgresql_where=REFRESH_WAITS,
        ),
        Index("ix_jobstatuses_refresh_runs", "odsinstanceid", postgresql_where=_REFRESH_RUNS),
        {"schema": "adminapi"},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column("jobid", String(150), unique=True)
    status: Mapped[str] = mapped_column(String(50))
    error_message: Mapped[str | None] = mapped_column("errormessage", Text)
    created_at: Mapped[datetime] = mapped_column("createdat")
    finished_at: Mapped[datetime | None] = mapped_column("finishedat")
    # Ours, beside the Admin API's:
    started_at: Mapped[datetime | None] = mapped_column("startedat")
    instance_id: Mapped[int | None] = mapped_column("dbinstanceid")
    operation: Mapped[str | None] = mapped_column(String(20))
    database_template: Mapped[str | None] = mapped_column("databasetemplate", String(100))
    # Of a refresh: the one ODS instance that it reads; null if it reads all.
    ods_instance_id: Mapped[int | None] = mapped_column("odsinstanceid")
    # What a running job waits for, since when, and when it will give up; null while it waits for nothing.
    waiting_for: Mapped[str | None] = mapped_column("waitingfor", Text)
    waiting_since: Mapped[datetime | None] = mapped_column("waitingsince")
    waiting_until: Mapped[datetime | None] = mapped_column("waitinguntil")
    # For how many seconds its last attempt has waited before that: they are no work.
    waited_seconds: Mapped[float] = mapped_column("waitedseconds", Double, server_default="0")
    # How far a running job is, and about how many seconds it will take; null if that is not known.
    percent: Mapped[int | None]
    eta_seconds: Mapped[int | None] = mapped_column("etaseconds")

    @property
    def waiting(self) -> Wait | None:
        """What the job has recorded that it waits for; None if it waits for nothing."""
        if self.waiting_for is None:
            return None
        return Wait(self.waiting_for, self.waiting_since, self.waiting_until)

    @hybrid_property
    def worked_seconds(self) -> float | None:
        """How long its last attempt took, without what that waited for; None if it has not begun or ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds() - self.waited_seconds

    @worked_seconds.inplace.expression
    @classmethod
    def _worked_seconds(cls) -> ColumnElement[float]:
        return func.extract("epoch", cls.finished_at - cls.started_at).cast(Double) - cls.waited_seconds

    def wait_under(self, obstacle: str | None) -> Wait | None:
        """What the job waits for; None if it waits for nothing.

        Args:
            obstacle: why no job of an instance begins or goes on; None if they do.
        """
        if self.waiting is not None or obstacle is None:
            return self.waiting
        is_held = self.instance_id is not None and self.status in JOB_UNDER_WAY
        return Wait(obstacle) if is_held else None


class Backup(Base):
    """A backup that was requested: of which instance, as it was then, and what became of it.

    How far it is, its job tells, until it is stored. The row stays when the instance is gone.
    """

    __tablename__ = "backups"
    __table_args__ = (
        Index("ix_backups_instance", "instanceid", "createdat"),
        Index("ix_backups_newest", "createdat", "id"),
        Index("uq_backups_stored", "storedid", unique=True),
        Index("ix_backups_expiry", "expiresat", postgresql_where=text("expiresat IS NOT NULL")),
        # Of few rows: those that metrics count at each scrape, and those whose verification waits.
        Index(
            "ix_backups_unverified",
            "finishedat",
            postgresql_where=text("verification IN ('Pending', 'InProgress', 'Error')"),
        ),
        {"schema": "adminapi"},
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid")
    ods_instance_id: Mapped[int] = mapped_column("odsinstanceid")
    mark: Mapped[uuid.UUID]
    # Which installation has made it: what is stored is that one's to remove, and not its copy's.
    installation: Mapped[uuid.UUID]
    name: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(20))
    job_id: Mapped[str] = mapped_column("jobid", String(150))
    template: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column("createdat")
    # Contexts, labels and description of the instance then: they are in the manifest as well.
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    # From here on known once it is stored. Each try to make it stores under an id of its own.
    stored_id: Mapped[uuid.UUID | None] = mapped_column("storedid")
    location: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int | None] = mapped_column("sizebytes", BigInteger)
    database_size_bytes: Mapped[int | None] = mapped_column("databasesizebytes", BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    # Of the manifest: what is read from the store must be what was written.
    manifest_sha256: Mapped[str | None] = mapped_column("manifestsha256", String(64))
    postgres_version: Mapped[str | None] = mapped_column("postgresversion", String(50))
    encrypted: Mapped[bool | None]
    # The moment whose data it has; when it was stored.
    taken_at: Mapped[datetime | None] = mapped_column("takenat")
    finished_at: Mapped[datetime | None] = mapped_column("finishedat")
    # Of one that a purge makes first: the row of `pg_database` as it was when the database was closed again
    # after it, and which stored one (`stored_id`) the purge has found to be whole.
    database_state: Mapped[str | None] = mapped_column("databasestate", String(50))
    proven_id: Mapped[uuid.UUID | None] = mapped_column("provenid")
    # A verification that waits or runs, or how the last one ended; when one was passed.
    verification: Mapped[str | None] = mapped_column(String(20))
    verification_error: Mapped[str | None] = mapped_column("verificationerror", Text)
    verified_at: Mapped[datetime | None] = mapped_column("verifiedat")
    # Of a scheduled one: the time of the schedule for which it was requested; what tells the database from
    # one that has changed since (`ods/databases/inspection/change_sign.py`); the last time of the schedule at
    # which it had not; from when on the backup may be deleted; until when it may not, whatever that says.
    due_at: Mapped[datetime | None] = mapped_column("dueat")
    change_sign: Mapped[str | None] = mapped_column("changesign", Text)
    unchanged_at: Mapped[datetime | None] = mapped_column("unchangedat")
    expires_at: Mapped[datetime | None] = mapped_column("expiresat")
    kept_until: Mapped[datetime | None] = mapped_column("keptuntil")
    # A client has deleted it; what is stored is removed, and then the row.
    deleted_at: Mapped[datetime | None] = mapped_column("deletedat")


class ApiClient(Base):
    """A client that may ask for bearer tokens."""

    __tablename__ = "applications"
    __table_args__ = ({"schema": "adminapi"},)

    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column("clientid", String(256), unique=True)
    client_secret: Mapped[str | None] = mapped_column("clientsecret", Text)
    display_name: Mapped[str | None] = mapped_column("displayname", String(256))
    # What an Admin API lets the client do, a list in JSON; null for those that were registered here.
    permissions: Mapped[str | None] = mapped_column(Text)
    # Ours, beside the Admin API's:
    scope: Mapped[str] = mapped_column(String(20), server_default=text("'full_access'"))
    # Whether the client may download backups. Null until an operator says it: `may_download`.
    backup_download: Mapped[bool | None] = mapped_column("backupdownload")
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    # Changes whenever the tokens that were issued so far shall not count any more. Null until that happens to
    # a client that an Admin API had added before the first `ods migrate`.
    generation: Mapped[uuid.UUID | None] = mapped_column(server_default=text("gen_random_uuid()"))
    # The same for tokens that an Admin API has issued, which name no generation: those until then do not
    # count, by the whole seconds of their times.
    tokens_since: Mapped[datetime | None] = mapped_column(
        "tokenssince", server_default=text("timezone('utc', now()) - interval '5 seconds'")
    )
    created_at: Mapped[datetime | None] = mapped_column(
        "createdat", server_default=text("timezone('utc', now())")
    )
    last_used_at: Mapped[datetime | None] = mapped_column("lastusedat")
    expires_at: Mapped[datetime | None] = mapped_column("expiresat")


class Registration(Base):
    """The one row with the time until which clients may register themselves."""

    __tablename__ = "registration"
    __table_args__ = (CheckConstraint("single", name="registration_single_check"), {"schema": "adminapi"})

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    open_until: Mapped[datetime | None] = mapped_column("openuntil")


class AuditRow(Base):
    """One request of the audit trail, and its outcome."""

    __tablename__ = "audit"
    __table_args__ = ({"schema": "adminapi"},)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    at: Mapped[datetime]
    client: Mapped[str | None] = mapped_column(String(256))
    address: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(512))
    instance_id: Mapped[int | None] = mapped_column("instanceid")
    job_id: Mapped[str | None] = mapped_column("jobid", String(150))
    status: Mapped[int]
    title: Mapped[str | None] = mapped_column(String(256))
    omitted: Mapped[int]
    sent_bytes: Mapped[int | None] = mapped_column("sentbytes", BigInteger)


class IdempotencyKey(Base):
    """The answer to a request that a client has sent under a key of its own."""

    __tablename__ = "idempotencykeys"
    __table_args__ = (Index("ix_idempotencykeys_createdat", "createdat"), {"schema": "adminapi"})

    client: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # SHA-256 of method, path, query and body.
    request: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int]
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column("createdat")


class SignInLink(Base):
    """A link that signs a client in to the console once."""

    __tablename__ = "signinlinks"
    __table_args__ = ({"schema": "adminapi"},)

    # SHA-256 of the secret, which the link alone has.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    client: Mapped[str] = mapped_column(String(256))
    # That of the client when the link was made.
    generation: Mapped[uuid.UUID | None]
    created_at: Mapped[datetime] = mapped_column("createdat")


class SignInAttempt(Base):
    """A person who has gone to an issuer to sign in to the console."""

    __tablename__ = "signinattempts"
    __table_args__ = ({"schema": "adminapi"},)

    # SHA-256 of what only the browser has.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    # The page that follows.
    after: Mapped[str] = mapped_column(Text)
    # What was typed into a form when the session before had ended: its path, and its fields.
    kept: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column("createdat")


class AttemptCount(Base):
    """How often an address or a client has tried something lately."""

    __tablename__ = "attemptcounts"
    __table_args__ = (Index("ix_attemptcounts_regainedat", "regainedat"), {"schema": "adminapi"})

    # SHA-256 of the limit's name and the key that is counted, an address as a rule.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    # When it will have regained all of its attempts.
    regained_at: Mapped[datetime] = mapped_column("regainedat")


class ConsoleSession(Base):
    """A client, or a person, that is signed in to the console."""

    __tablename__ = "consolesessions"
    __table_args__ = (
        Index("ix_consolesessions_lastusedat", "lastusedat"),
        Index("ix_consolesessions_client", "client"),
        {"schema": "adminapi"},
    )

    # SHA-256 of the id, which the cookie alone has.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    client: Mapped[str] = mapped_column(String(256))
    # That of the client when it signed in; of a person, the rules by which people may enter.
    generation: Mapped[uuid.UUID | None]
    # What a person may do, whom an issuer has identified; null for a client of the registry.
    scope: Mapped[str | None] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column("createdat")
    last_used_at: Mapped[datetime] = mapped_column("lastusedat")
    # What was typed into a form when the session before had ended: its path, and its fields.
    kept: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # By which an operator ends it.
    id: Mapped[uuid.UUID] = mapped_column(server_default=func.gen_random_uuid(), unique=True)
    # Where it was begun from.
    address: Mapped[str] = mapped_column(String(64))
    # When the issuer has said last that the person may sign in; of a client, when it has signed in.
    checked_at: Mapped[datetime] = mapped_column("checkedat")
    # When a request has begun to ask the issuer again.
    check_begun_at: Mapped[datetime | None] = mapped_column("checkbegunat")
    # What the issuer is asked with, encrypted with a key that is made of the id in the cookie.
    renewal: Mapped[bytes | None] = mapped_column(LargeBinary)


class DatabaseSize(Base):
    """The size of an instance's database on one day, in UTC."""

    __tablename__ = "databasesizes"
    __table_args__ = ({"schema": "adminapi"},)

    instance_id: Mapped[int] = mapped_column("instanceid", primary_key=True, autoincrement=False)
    day: Mapped[date] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class TotalSize(Base):
    """The size of the databases of all instances on one day, also of those that are gone by now."""

    __tablename__ = "totalsizes"
    __table_args__ = ({"schema": "adminapi"},)

    day: Mapped[date] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    databases: Mapped[int]


class Installation(Base):
    """The one row with the identity of this installation."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("single", name="installation_single_check"), {"schema": "adminapi"})

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    id: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    # Where the registry was when it was confirmed: the cluster's system identifier, the database's OID.
    registry_system: Mapped[str | None] = mapped_column("registrysystem", String(20))
    registry_database: Mapped[int | None] = mapped_column("registrydatabase", BigInteger)
    # The cluster with the ODS databases, and the installations that may have databases there as well.
    server_system: Mapped[str | None] = mapped_column("serversystem", String(20))
    neighbours: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"))
    # The stores of backups that it has used: the id of each, by its URL.
    backup_stores: Mapped[dict[str, str]] = mapped_column(
        "backupstores", JSONB, server_default=text("'{}'::jsonb")
    )
    # Proves that this registry's service has written the rights of roles in the manifest of a backup.
    backup_key: Mapped[uuid.UUID] = mapped_column("backupkey", server_default=text("gen_random_uuid()"))
    # The last claim to clean a store, and the URL of one that another registry has claimed as well.
    store_claim: Mapped[int] = mapped_column("storeclaim", BigInteger, server_default=text("0"))
    store_claim_id: Mapped[uuid.UUID | None] = mapped_column("storeclaimid")
    store_conflict: Mapped[str | None] = mapped_column("storeconflict", Text)
    # The timeline of the registry's server at the last pass: another one after a restore or a failover.
    timeline: Mapped[int | None]
    # When a pass of the workers last ran, and the last gap between two of them.
    pass_at: Mapped[datetime | None] = mapped_column("passat")
    gap_from: Mapped[datetime | None] = mapped_column("gapfrom")
    gap_to: Mapped[datetime | None] = mapped_column("gapto")
    # When one last ran before the clock was set back by more than a day; null once it is as late again.
    set_back_from: Mapped[datetime | None] = mapped_column("setbackfrom")
    # Until when the trash is kept because the registry may have been restored.
    held_until: Mapped[datetime | None] = mapped_column("helduntil")


class OdsInstance(Base):
    """An ODS instance: what the ODS/API reads to route requests."""

    __tablename__ = "odsinstances"
    __table_args__ = (
        UniqueConstraint("name", "instancetype"),
        # Collated "C"; how an expression is collated is not told when tables are compared with these.
        Index("ix_odsinstances_order", text("adminapi.utf16_order(name)"), "odsinstanceid"),
        {"schema": "dbo"},
    )

    ods_instance_id: Mapped[int] = mapped_column("odsinstanceid", primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    instance_type: Mapped[str | None] = mapped_column("instancetype", String(100))
    connection_string: Mapped[str | None] = mapped_column("connectionstring", String(1500))


class OdsInstanceContext(Base):
    """A key and value by which the ODS/API chooses an ODS instance."""

    __tablename__ = "odsinstancecontexts"
    __table_args__ = (UniqueConstraint("odsinstance_odsinstanceid", "contextkey"), {"schema": "dbo"})

    id: Mapped[int] = mapped_column("odsinstancecontextid", primary_key=True)
    ods_instance_id: Mapped[int] = mapped_column(
        "odsinstance_odsinstanceid", ForeignKey(OdsInstance.ods_instance_id)
    )
    key: Mapped[str] = mapped_column("contextkey", String(50))
    value: Mapped[str] = mapped_column("contextvalue", String(50))


class OdsInstanceDerivative(Base):
    """A read replica or snapshot of an ODS instance."""

    __tablename__ = "odsinstancederivatives"
    __table_args__ = (UniqueConstraint("odsinstance_odsinstanceid", "derivativetype"), {"schema": "dbo"})

    id: Mapped[int] = mapped_column("odsinstancederivativeid", primary_key=True)
    ods_instance_id: Mapped[int] = mapped_column(
        "odsinstance_odsinstanceid", ForeignKey(OdsInstance.ods_instance_id)
    )
    derivative_type: Mapped[str] = mapped_column("derivativetype", String(50))
    connection_string: Mapped[str | None] = mapped_column("connectionstring", String(1500))


class Snapshot(Base):
    """A read-only copy of an instance's database, which the ODS/API may use instead of it."""

    __tablename__ = "snapshots"
    __table_args__ = (
        CheckConstraint("status IN ('Creating', 'Completed', 'Removing')", name="snapshots_status_check"),
        UniqueConstraint("instanceid", "jobnumber", name="uq_snapshots_job"),
        {"schema": "adminapi"},
    )

    id: Mapped[int] = mapped_column(Identity(always=False), primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid")
    # The job that makes it, or has made it.
    job_number: Mapped[int] = mapped_column("jobnumber")
    database_name: Mapped[str] = mapped_column("databasename", String(63))
    # What its comment says; never given again.
    mark: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column("createdat")
    created_by: Mapped[str | None] = mapped_column("createdby", String(256))
    # Of the last one that was made, as it is in the derivative of the ODS instance: one with another text is
    # not ours.
    connection_string: Mapped[str | None] = mapped_column("connectionstring", String(1500))
    # The time of the schedule for which it was requested; null if a client has requested it.
    due_at: Mapped[datetime | None] = mapped_column("dueat")
    # From then on its database is dropped when no session uses it.
    remove_after: Mapped[datetime | None] = mapped_column("removeafter")
    # That of the instance's database which it is a copy of.
    database_id: Mapped[uuid.UUID] = mapped_column("databaseid")


class ApiClientOdsInstance(Base):
    """The permission of an ODS/API client to use an ODS instance."""

    __tablename__ = "apiclientodsinstances"
    __table_args__ = (
        Index("ix_apiclientodsinstances_odsinstance", "odsinstance_odsinstanceid"),
        {"schema": "dbo"},
    )

    id: Mapped[int] = mapped_column("apiclientodsinstanceid", primary_key=True)
    api_client_id: Mapped[int] = mapped_column("apiclient_apiclientid")
    ods_instance_id: Mapped[int] = mapped_column(
        "odsinstance_odsinstanceid", ForeignKey(OdsInstance.ods_instance_id)
    )


class EducationOrganization(Base):
    """An education organization of an ODS database, as the last refresh read it."""

    __tablename__ = "educationorganizations"
    __table_args__ = (
        Index("idx_educationorganizations_instanceid", "instanceid"),
        Index("idx_educationorganizations_educationorganizationid", "educationorganizationid"),
        {"schema": "adminapi"},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    instance_id: Mapped[int] = mapped_column("instanceid")
    instance_name: Mapped[str] = mapped_column("instancename", String(100))
    education_organization_id: Mapped[int] = mapped_column("educationorganizationid", BigInteger)
    name_of_institution: Mapped[str] = mapped_column("nameofinstitution", String(75))
    short_name: Mapped[str | None] = mapped_column("shortnameofinstitution", String(75))
    discriminator: Mapped[str] = mapped_column(String(128))
    parent_id: Mapped[int | None] = mapped_column("parentid", BigInteger)
    database_name: Mapped[str | None] = mapped_column("odsdatabasename", String(255))
    last_refreshed: Mapped[datetime | None] = mapped_column("lastrefreshed", server_default=text("now()"))
    last_modified: Mapped[datetime | None] = mapped_column("lastmodifieddate")


UTC_NOW = func.timezone("utc", func.clock_timestamp())
"""The database's clock, as the registry's timestamps hold it."""
