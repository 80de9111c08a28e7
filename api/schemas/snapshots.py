"""Snapshots of instances, as clients see them."""

from pydantic import AliasPath, Field

from api.schemas.base import ResponseModel, UtcTime
from api.schemas.instances import Accepted


class RequestedSnapshotAnswer(Accepted):
    """A request for a snapshot that was committed, and which snapshot it makes."""

    snapshot_id: int = Field(validation_alias=AliasPath("snapshot", "id"))
    database_name: str = Field(
        validation_alias=AliasPath("snapshot", "database_name"), description="What the copy will be called."
    )


class SnapshotAnswer(ResponseModel):
    """One snapshot."""

    id: int = Field(validation_alias=AliasPath("snapshot", "id"))
    ods_instance_id: int
    status: str = Field(
        validation_alias=AliasPath("snapshot", "status"),
        description="Creating, Completed, or Removing: its database is dropped when no session uses it.",
    )
    current: bool = Field(description="Whether it is the one that the ODS/API reads.")
    before_reset: bool = Field(
        description="Whether the database that it is a copy of was replaced since, by a reset or its undo."
    )
    database_name: str = Field(validation_alias=AliasPath("snapshot", "database_name"))
    created_at: UtcTime = Field(
        validation_alias=AliasPath("snapshot", "created_at"), description="When it was requested."
    )
    created_by: str | None = Field(
        validation_alias=AliasPath("snapshot", "created_by"), description="The client that requested it."
    )
    remove_after: UtcTime | None = Field(
        validation_alias=AliasPath("snapshot", "remove_after"),
        description="From then on it is dropped; null while it stays.",
    )
