"""What a request would do, as a dry run tells it."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from api.schemas.base import ResponseModel


class PlannedBackup(ResponseModel):
    """The backup that would be made, and verified, before a database is dropped."""

    location: str | None = Field(
        description="The folder of the instance's backups; null if there is no store."
    )
    encrypted: bool
    needed_bytes: int | None = Field(
        description="Disk of the server for as long as the backup is restored and compared; null if that is"
        " not known, 0 if it is encrypted and only its checksum is compared."
    )


class PlannedJob(ResponseModel):
    """One job that would be started."""

    operation: str = Field(
        description="`Create`; `Reset`; `Trash` if the database goes to the trash, `Detach` if it is left,"
        " `Delete` or `Purge` if it is dropped."
    )
    id: int | None = Field(None, description="The instance, if there is one already.")
    name: str
    database_name: str | None
    database_template: str
    drops_database: bool = Field(
        description="Whether the database that the instance has now would be dropped for good, as one that is"
        " replaced or deleted where there is no trash. False if it goes to the trash, or stays."
    )
    drops_versions: Sequence[str] = Field(
        (),
        description="The databases that it had before resets, by their names in the trash, which would be"
        " dropped as well: soon, or after a `Detach` when their own time is over. None comes back then.",
    )
    copy_of: int | None = Field(None, description="The instance that its database would be a copy of.")
    backup_id: str | None = Field(None, description="The backup that its database would be restored from.")
    size_bytes: int | None = Field(
        None, description="Of what it is made of, or of its database; null while the server tells none."
    )
    estimated_seconds: float | None = Field(
        None, description="What recent jobs of this kind took; null if there were none."
    )
    final_backup: PlannedBackup | None = Field(
        None, description="The backup that would be made before the database is dropped; null if none would."
    )


class Plan(ResponseModel):
    """What a request would do. Nothing was changed."""

    status: int = Field(description="How the request would be answered.")
    errors: Mapping[str, Sequence[str]] = Field(description="Everything that it would be refused for.")
    instances: Sequence[PlannedJob] = Field(description="Those of which enough is known to tell.")
    size_bytes: int | None = Field(
        description="Of all databases that would be made; null if one is not known."
    )
    free_bytes: int | None = Field(
        description="Free space for databases; null unless the server's disk can be asked from here."
    )
