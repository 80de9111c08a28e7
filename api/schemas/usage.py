"""How instances are used, as clients see it."""

from typing import Self

from pydantic import Field

from api.schemas.base import ResponseModel, UtcTime
from api.schemas.instances import Instance
from ods.databases.inspection.usage import TableFigures
from ods.tenants.usage import InstanceFigures


class SessionCount(ResponseModel):
    """Sessions of one application that are in one state."""

    application_name: str
    state: str | None = Field(description="As in `pg_stat_activity`: `active`, `idle`, …")
    count: int


class UsingApplications(ResponseModel):
    """The applications of the ODS/API that may use an instance."""

    count: int
    ids: list[int]


class UsageFigures(ResponseModel):
    """What the server of the ODS databases tells of an instance's database, at most three seconds old.

    The sessions of this service are left out.
    """

    size_bytes: int
    sessions: list[SessionCount]
    last_activity_at: UtcTime | None = Field(
        description="When a session that is open now last began or ended a statement, or began itself; the"
        " time of the answer while a statement runs. Null if no session is open: PostgreSQL forgets those"
        " that have ended.",
    )
    transactions: int = Field(
        description="Committed and rolled back since `statisticsResetAt`, PostgreSQL's own included.",
    )
    statistics_reset_at: UtcTime | None = Field(
        description="Null: never since the database was made, or since a crash of the server.",
    )
    cache_hit_ratio: float | None = Field(
        description="Of the blocks that were read since then, those that PostgreSQL had in memory: 0 to 1.",
    )
    oldest_transaction_seconds: float | None = Field(
        description="Age of the oldest transaction that a session has open; null if none has one.",
    )
    applications: UsingApplications | None = Field(
        description="Null if the registry has no tables of the ODS/API."
    )

    @classmethod
    def of(cls, found: InstanceFigures, tables: TableFigures | None = None) -> Self:
        """The figures, with those of the `tables` of an instance's database if they were asked."""
        ids = found.application_ids
        applications = None if ids is None else UsingApplications(count=len(ids), ids=ids)
        own = {} if tables is None else vars(tables)
        return cls.model_validate(vars(found.database) | own | {"applications": applications})


class LargeTable(ResponseModel):
    """A table, with its schema."""

    name: str
    bytes: int | None = Field(description="With indexes; null of a table that was dropped meanwhile.")
    rows_estimated: int | None = Field(description="Null: neither VACUUM nor ANALYZE has counted them yet.")


class InstanceUsage(UsageFigures):
    """The figures of an instance, and what its database itself tells."""

    tables: int
    rows_estimated: int | None = Field(
        description="Rows of all tables, as VACUUM or ANALYZE last counted them; null if they have not yet."
    )
    largest_tables: list[LargeTable] = Field(description="Ten at most, the largest first.")


class ListedInstance(Instance):
    """An instance in a list; the last two members are there with `include=usage`."""

    usage: UsageFigures | None = None
    usage_obstacle: str | None = Field(None, description="If `usage` is null: why, and what to do about it.")

    @classmethod
    def with_usage(cls, instance: Instance, found: InstanceFigures | str) -> Self:
        """The instance with its figures, or with why there are none."""
        obstacle = found if isinstance(found, str) else None
        usage = None if isinstance(found, str) else UsageFigures.of(found)
        return cls(**dict(instance), usage=usage, usage_obstacle=obstacle)
