"""Backups, as clients see them."""

from typing import Self
from uuid import UUID

from pydantic import AliasPath, Field

from api.schemas.base import ResponseModel, UtcTime
from api.schemas.instances import Accepted
from ods.registry.backups.records import BackupState


class BackupAccepted(Accepted):
    """A request for a backup that was committed; its job goes on by itself."""

    backup_id: UUID = Field(validation_alias=AliasPath("job", "makes_backup"))


class BackupAnswer(ResponseModel):
    """One backup. What is null is not known before it is stored."""

    id: UUID
    instance_id: int = Field(description="The instance, which may be gone.")
    name: str = Field(description="The name that the instance had then.")
    kind: str
    status: str = ""
    size_bytes: int | None
    database_size_bytes: int | None
    sha256: str | None = Field(description="Of the stored bytes.")
    created_at: UtcTime = Field(description="When it was requested.")
    taken_at: UtcTime | None = Field(description="The moment whose data it has.")
    finished_at: UtcTime | None
    expires_at: UtcTime | None = None
    template: str
    postgres_version: str | None
    location: str | None = Field(description="The folder with its dump and its manifest.")
    encrypted: bool | None
    verification: str | None = Field(
        description="`Pending` or `InProgress`, or how the last one ended: `Completed` or `Error`."
    )
    verification_error: str | None
    verified_at: UtcTime | None = Field(description="When it was last restored and found to be whole.")
    job_id: str
    error_message: str | None = None
    percent: int | None = None
    eta_seconds: int | None = None

    @classmethod
    def of(cls, state: BackupState) -> Self:
        """The answer for a backup."""
        return cls.model_validate(state.backup).model_copy(
            update={
                "status": state.status,
                "error_message": state.error,
                "percent": state.percent,
                "eta_seconds": state.eta_seconds,
            }
        )
