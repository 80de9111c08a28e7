"""Reading where the database of an instance shall come from, of which a request names one, and judging it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, assert_never
from uuid import UUID

from fastapi import Depends
from pydantic import BaseModel, Field

from api.dependencies import BackupRecordsDep, InstanceQueriesDep, ServerDep, SettingsDep
from api.http.parsing import MAX_INT32, Properties, unknown_members, whole_number
from api.http.problems import in_words, pascal
from ods.backups.errors import RestoreRefusedError
from ods.backups.readiness import require_restores
from ods.databases.errors import DatabaseFaultError
from ods.databases.rights.service_role import online_copy_obstacle
from ods.model.operations import Template
from ods.model.origins import (
    FROM_TEMPLATE,
    BackupOrigin,
    CopyMode,
    CopyOrigin,
    Origin,
    TemplateOrigin,
)
from ods.registry.storage.errors import BackupNotFoundError, BackupRefusedError, FieldErrors
from ods.registry.storage.models import DbInstance

_TEMPLATE, _COPY, _BACKUP, _MODE = "databaseTemplate", "copyOf", "backupId", "mode"
_ORIGINS = (_TEMPLATE, _COPY, _BACKUP)
_SERVER_SECONDS = 2
"""How long a request waits for the database of the instance that it wants to copy."""


class OriginBody(BaseModel):
    """The documentation of the origin in the body of a request for a new instance."""

    databaseTemplate: str | None = Field(  # noqa: N815 - on the wire
        None,
        json_schema_extra={"enum": [*Template, None]},
        description="The template that it is a clone of. Give this, `copyOf` or `backupId`.",
    )
    copyOf: int | None = Field(  # noqa: N815 - on the wire
        None, ge=1, le=MAX_INT32, description="The id of the instance that it shall be a copy of."
    )
    mode: str | None = Field(
        None,
        json_schema_extra={"enum": [*CopyMode, None]},
        description="Of a copy. `online`, unless it is given: the other instance is used meanwhile. `closed`:"
        " sooner done, but the other instance cannot be used meanwhile, and sessions on it are ended.",
    )
    backupId: str | None = Field(None, description="The backup that it is restored from.")  # noqa: N815 - on the wire


@dataclass(frozen=True)
class WantedOrigin:
    """Where the database of an instance shall come from.

    Attributes:
        origin: its origin.
        template: its template: of a copy, that of its source.
        errors: what is wrong with it; if anything is, the rest is of no use.
    """

    origin: Origin = FROM_TEMPLATE
    template: str = Template.MINIMAL
    errors: FieldErrors = field(default_factory=dict)


class OriginReader:
    """Reads where the database of an instance shall come from; null stands for what is left out."""

    def __init__(
        self,
        settings: SettingsDep,
        queries: InstanceQueriesDep,
        backups: BackupRecordsDep,
        server: ServerDep,
    ) -> None:
        self._templates = list(settings.template_databases)
        self._queries = queries
        self._backups = backups
        self._server = server

    async def read(self, body: Properties[Any]) -> WantedOrigin:
        """The origin in the body of a request for a new instance."""
        given = [name for name in _ORIGINS if body.get(name) is not None]
        if len(given) > 1:
            names = " and ".join(f"'{in_words(pascal(name))}'" for name in given)
            return _wrong(given[-1], f"{names} exclude each other: an instance has one origin.")
        if given != [_COPY] and body.get(_MODE) is not None:
            return _wrong(_MODE, "'Mode' says how an instance is copied: it needs 'Copy Of'.")
        match given:
            case ["copyOf"]:
                return await self._copy(body)
            case ["backupId"]:
                return await self._restore(body.get(_BACKUP))
            case _:
                return template_origin(body.get(_TEMPLATE), self._templates)

    async def read_for_reset(self, body: Properties[Any], own_template: str) -> WantedOrigin:
        """The origin that an instance shall be reset to; without any in the body, its own template.

        One that is named and null was meant to be another: it is refused, unless there is one that is not.
        """
        if errors := unknown_members(body, (*_ORIGINS, _MODE)):  # a misspelt one would mean its own template
            return WantedOrigin(errors=errors)
        named = [name for name in _ORIGINS if name in body]
        if named and all(body[name] is None for name in named):  # as by a look-up that has found nothing
            return WantedOrigin(errors={pascal(name): [_null(name)] for name in named})
        if not named and body.get(_MODE) is None:
            return WantedOrigin(template=own_template)
        return await self.read(body)

    async def _copy(self, body: Properties[Any]) -> WantedOrigin:
        mode = body.get(_MODE)
        errors: dict[str, list[str]] = {}
        if mode is not None and mode not in list(CopyMode):
            words = " or ".join(f"'{word}'" for word in CopyMode)
            errors["Mode"] = [f"'Mode' must be {words}."]
        number = whole_number(body.get(_COPY))
        source = None if number is None else await self._queries.any_instance(number)
        if number is None:
            errors["CopyOf"] = ["'Copy Of' must be the id of an instance, a number."]
        elif source is None or not source.is_live:
            errors["CopyOf"] = [f"There is no instance {number}."]
        if errors or number is None or source is None:
            return WantedOrigin(errors=errors)
        origin = CopyOrigin(number, CopyMode(mode or CopyMode.ONLINE))
        if (obstacle := await self._copy_obstacle(source, origin.mode)) is not None:
            return _wrong(_COPY, f"The instance {number} cannot be copied online. {obstacle}")
        return WantedOrigin(origin, source.database_template)

    async def _copy_obstacle(self, source: DbInstance, mode: CopyMode) -> str | None:
        """Why the instance cannot be copied so; None if it can, or if its database does not tell that now."""
        match mode:
            case CopyMode.CLOSED:
                return None
            case CopyMode.ONLINE:
                try:
                    require_restores(self._server)
                    async with (
                        asyncio.timeout(_SERVER_SECONDS),
                        self._server.connected(source.database_name) as inside,
                    ):
                        keeps_owners = self._server.restore_login is None
                        return await online_copy_obstacle(inside, keeps_owners=keeps_owners)
                except RestoreRefusedError as refused:
                    return refused.reason
                except (DatabaseFaultError, TimeoutError):
                    return None
            case _:
                assert_never(mode)

    async def _restore(self, backup_id: object) -> WantedOrigin:
        """The origin of an instance that is restored from a backup, also of an instance that is gone."""
        try:
            backup = await self._backups.stored(UUID(str(backup_id)))
        except (ValueError, BackupNotFoundError):
            return _wrong(_BACKUP, f"There is no backup {backup_id}.")
        except BackupRefusedError as refusal:
            return _wrong(_BACKUP, f"{refusal.reason} {refusal.next_step}")
        if backup.encrypted:
            return _wrong(
                _BACKUP,
                "The backup is encrypted, and this service has no key to decrypt it: fetch it (`ods backup"
                " fetch`), decrypt it with age, and restore it with pg_restore.",
            )
        try:
            require_restores(self._server)
        except RestoreRefusedError as refused:
            return _wrong(_BACKUP, refused.reason)
        template = backup.template
        if template not in self._templates:
            return _wrong(_BACKUP, f"The settings do not name the template '{template}' of the backup.")
        return WantedOrigin(BackupOrigin(str(backup.id)), template)


OriginReaderDep = Annotated[OriginReader, Depends()]


def copy_notice(origin: Origin) -> str | None:
    """What the client is told that becomes of the instance which is copied."""
    match origin:
        case TemplateOrigin() | BackupOrigin():
            return None
        case CopyOrigin(mode=CopyMode.ONLINE):
            return (
                f"The instance {origin.instance_id} can be used meanwhile. Until the job has ended, it can be"
                " neither deleted nor renamed nor reset."
            )
        case CopyOrigin():
            return (
                f"Sessions on the database of the instance {origin.instance_id} are ended, and it cannot be"
                " used while its files are copied. Until the job has ended, it can be neither deleted nor"
                " renamed nor reset."
            )
        case _:
            assert_never(origin)


def template_origin(template: object, templates: Sequence[str]) -> WantedOrigin:
    """The origin of an instance that is made of one of `templates`."""
    if errors := template_errors(template, templates):
        return WantedOrigin(errors={"DatabaseTemplate": errors})
    return WantedOrigin(template=str(template))


def template_errors(template: object, templates: Sequence[str]) -> list[str]:
    """What is wrong with `template`, which must be one of `templates`."""
    *others, last = (f"'{word}'" for word in templates)
    words = f"{', '.join(others)} or {last}"
    faults = []
    if template is None or (isinstance(template, str) and not template.strip()):
        faults.append("'Database Template' must not be empty.")
    if template not in templates:
        faults.append(f"'Database Template' must be {words}.")
    return faults


def _null(name: str) -> str:
    return f"'{in_words(pascal(name))}' must not be null: name an origin, or leave it out."


def _wrong(name: str, reason: str) -> WantedOrigin:
    return WantedOrigin(errors={pascal(name): [reason]})
