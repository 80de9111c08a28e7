"""Instances, as clients see them."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AliasPath, BeforeValidator, Field

from api.schemas.base import ResponseModel, UtcTime, Waiting
from ods.model.origins import CopyMode


def job_path(job: str) -> str:
    """Where clients ask how far a job is."""
    return f"/v2/jobs/{job}"


class Accepted(ResponseModel):
    """A request that was committed; its job goes on by itself."""

    id: int = Field(validation_alias=AliasPath("instance", "id"))
    name: str = Field(validation_alias=AliasPath("instance", "name"))
    ods_instance_id: int = Field(validation_alias=AliasPath("instance", "ods_instance_id"))
    status: str = Field(validation_alias=AliasPath("instance", "status"))
    job_id: str = Field(validation_alias=AliasPath("job", "job_id"))
    location: Annotated[str, AfterValidator(job_path)] = Field(
        validation_alias=AliasPath("job", "job_id"), description="Where to ask how far the job is."
    )


class Creation(Accepted):
    """A new instance that was requested."""

    copy_of: int | None = Field(
        validation_alias=AliasPath("instance", "database", "copy_of"),
        description="The id of the instance that it is a copy of.",
    )
    mode: CopyMode | None = Field(validation_alias=AliasPath("instance", "database", "copy_mode"))
    notice: str | None = Field(None, description="What is done to the instance that is copied.")


class Reset(Accepted):
    """A reset that was requested."""

    notice: str | None = Field(None, description="What is done to the instance that is copied.")


class Purge(Accepted):
    """A purge that was committed."""

    backup_id: UUID | None = Field(
        validation_alias=AliasPath("job", "makes_backup"),
        description="The backup that is made first; null if none is, or its purge follows a delete.",
    )


class Deletion(Purge):
    """A delete that was committed, and what becomes of the database."""

    database_name: str | None = Field(validation_alias=AliasPath("instance", "database_name"))
    purge_after: UtcTime | None = Field(
        validation_alias=AliasPath("instance", "database", "purge_after"),
        description="Until then the instance can be undeleted; null if its database is dropped, or left.",
    )
    purge_job_id: str | None = Field(
        None,
        description="The job that backs the database up and drops it, and is there once the database is in"
        " the trash; null if none follows.",
    )


class AcceptedInstance(ResponseModel):
    """One instance of a request for several."""

    id: int = Field(validation_alias=AliasPath("instance", "id"))
    name: str = Field(validation_alias=AliasPath("instance", "name"))
    job_id: str = Field(validation_alias=AliasPath("job", "job_id"))


class AllAccepted(ResponseModel):
    """A request for several instances that was committed, in the order of the request."""

    instances: Sequence[AcceptedInstance]


class TrashedInstance(ResponseModel):
    """One deleted instance in the trash, or a database that an instance had before a reset."""

    id: int
    name: str
    ods_instance_id: int
    status: str
    database_template: str
    database_name: str | None = Field(
        validation_alias="trash_database", description="The name that its database has in the trash."
    )
    size_bytes: int | None = Field(None, description="Null while the server does not tell it.")
    deleted_at: UtcTime = Field(validation_alias="trashed_at")
    deleted_by: str | None = Field(
        validation_alias="trashed_by", description="The client that has deleted it."
    )
    purge_after: UtcTime | None = Field(description="From then on its database is dropped.")
    error_message: str | None
    is_version: bool = Field(
        description="Whether it is a database that the instance had before a reset, which can be undone."
    )


class Progress(ResponseModel):
    """How far a job is."""

    phase: str
    elapsed_seconds: float = Field(description="Since the job was requested, but for what it waits for.")
    estimated_seconds: float | None = Field(description="What such a job usually takes; null if unknown.")


class Links(ResponseModel):
    """Where there is more to read."""

    job: str | None
    workflow: str | None = Field(description="The page of the workflow in the Temporal Web UI.")


class ManagedInstance(ResponseModel):
    """One instance with exactly the fields that the Admin API has: its clients may refuse others."""

    id: int
    name: str
    ods_instance_id: int | None
    ods_instance_name: str | None
    status: str
    database_template: str
    database_name: str | None
    last_refreshed: UtcTime
    last_modified_date: UtcTime | None = Field(validation_alias="last_modified")


class InstanceContext(ResponseModel):
    """A key and value by which the ODS/API chooses the instance, or will when it is created."""

    context_key: str
    context_value: str


class Instance(ManagedInstance):
    """One instance: its row and, in the fields that have defaults, its contexts and its last job."""

    operation: str = Field(validation_alias="word")
    new_name: str | None = Field(description="The name that a rename gives it.")
    error_message: str | None
    template_generation: int | None = Field(
        validation_alias=AliasPath("database", "template_generation"),
        description="Which of the databases that were loaded as the template this one is a copy of; null if"
        " that is not known.",
    )
    copy_of: int | None = Field(
        validation_alias=AliasPath("database", "copy_of"),
        description="The id of the instance that it is a copy of; null if of none.",
    )
    mode: CopyMode | None = Field(
        validation_alias=AliasPath("database", "copy_mode"),
        description="How it was copied: while the other instance was in use, or closed.",
    )
    backup_id: str | None = Field(
        validation_alias=AliasPath("database", "backup_id"),
        description="The backup that it was restored from; null if from none.",
    )
    protected: bool = Field(
        validation_alias="is_protected", description="Whether its data can be neither deleted nor replaced."
    )
    description: str | None
    labels: Annotated[dict[str, str], BeforeValidator(lambda labels: labels or {})]
    contexts: Sequence[InstanceContext] = ()
    delete_drops_database: bool = Field(
        False, description="Whether a delete drops its database at once, so that it cannot come back."
    )
    retry_drops_database: bool = Field(
        False, description="Whether a retry of its last job, which has failed, drops its database for good."
    )
    job_id: str | None = None
    progress: Progress | None = None
    waiting: Waiting | None = None
    links: Links = Links(job=None, workflow=None)
