"""What both surfaces over the instances, `/v2/dbInstances` and `/v2/odsInstances/manage`, let clients do.

They differ in addresses, status words and the form of their answers and refusals; everything else is here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from api.dependencies import (
    InstanceDescriptionsDep,
    InstanceQueriesDep,
    InstanceStoreDep,
    InstanceUsageDep,
    JobDispatcherDep,
    KeptDatabasesDep,
    SettingsDep,
)
from api.final_backups import FinalBackupsDep
from api.http.audit_context import AuditContextDep
from api.http.paging import page_of, words_of
from api.http.parsing import (
    BODY_REFUSALS,
    DEFAULT_LIMIT,
    Count,
    JsonObject,
    Limit,
    Offset,
    Properties,
    documented_body,
    documented_list,
    unknown_members,
)
from api.http.problems import ProblemError, in_words, pascal
from api.instance_attributes import ATTRIBUTES, AttributesReader, LabelFilterDep, NewAttributesBody
from api.instance_origins import (
    OriginBody,
    OriginReaderDep,
    WantedOrigin,
    template_errors,
    template_origin,
)
from api.schemas.base import paced
from api.schemas.instances import Instance
from api.schemas.usage import ListedInstance
from ods.model.arguments import Way
from ods.model.operations import InstanceStatus, Template
from ods.model.origins import FROM_TEMPLATE, Origin
from ods.registry.instances.attributes import UNCHANGED, AttributeChanges
from ods.registry.instances.deletes import Delete
from ods.registry.instances.instance_list import INSTANCES, InstanceFilter
from ods.registry.instances.naming import MAX_NAME_LENGTH, NAME_PATTERN, name_errors
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import FieldErrors, InvalidError, require_valid
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance
from ods.registry.storage.unit_of_work import after_commit
from ods.settings.settings import AnySettings

READ_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
CREATE_REFUSALS = (*READ_REFUSALS, *BODY_REFUSALS)
CHANGE_REFUSALS = (*READ_REFUSALS, HTTPStatus.NOT_FOUND)
RENAME_REFUSALS = (*CREATE_REFUSALS, HTTPStatus.NOT_FOUND)


MOST_AT_ONCE = 20
"""Instances that one request may be about."""


class _NamedBody(BaseModel):
    name: str = Field(max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN)


class _NewManagedInstanceBody(_NamedBody):
    databaseTemplate: str = Field(json_schema_extra={"enum": list(Template)})  # noqa: N815 - on the wire


class _NewInstanceBody(NewAttributesBody, OriginBody, _NamedBody):
    pass


class _UndeletedInstanceBody(BaseModel):
    name: str | None = Field(
        None,
        max_length=MAX_NAME_LENGTH,
        pattern=NAME_PATTERN,
        description="Another name, if its own was taken since.",
    )


class _ResetInstanceBody(OriginBody):
    databaseTemplate: str | None = Field(  # noqa: N815 - on the wire
        None,
        json_schema_extra={"enum": [*Template, None]},
        description="The template that it is a fresh clone of: unless this, `copyOf` or `backupId` is given,"
        " the one that its database was made from.",
    )


class _UndoneResetBody(BaseModel):
    database: str = Field(
        "",
        description="The name in the trash of the database that comes back, as `GET /v2/trash` tells it;"
        " without it, the one that was replaced last.",
    )


class _RenamedInstanceBody(_NamedBody):
    databaseTemplate: str | None = Field(  # noqa: N815 - on the wire
        None,
        json_schema_extra={"enum": [*Template, None]},
        description="May be left out; it cannot be another one than before.",
    )


_TEMPLATE_PATHS = (
    ("post", "/v2/dbInstances"),
    ("post", "/v2/dbInstances/bulk"),
    ("put", "/v2/dbInstances/{instance_id}"),
    ("post", "/v2/dbInstances/{instance_id}/reset"),
)


def document_templates(description: dict[str, Any], settings: AnySettings) -> None:
    """Write the names of all tenants' templates into the OpenAPI document of `/v2/dbInstances`."""
    names = list(dict.fromkeys(name for own in settings.tenants.values() for name in own.template_databases))
    for verb, path in _TEMPLATE_PATHS:
        (content,) = description["paths"][path][verb]["requestBody"]["content"].values()
        members = content["schema"]["properties"]
        entry = members["instances"]["items"]["properties"] if "instances" in members else members
        template = entry["databaseTemplate"]
        template["enum"] = [*names, None] if None in template["enum"] else names


NEW_INSTANCE_BODY = documented_body(_NewInstanceBody)
NEW_INSTANCES_BODY = documented_list("instances", _NewInstanceBody.model_json_schema(), MOST_AT_ONCE)
NEW_MANAGED_INSTANCE_BODY = documented_body(_NewManagedInstanceBody)
RENAMED_INSTANCE_BODY = documented_body(_RenamedInstanceBody)
RESET_INSTANCE_BODY = documented_body(_ResetInstanceBody, required=False)
UNDONE_RESET_BODY = documented_body(_UndoneResetBody, required=False)
UNDELETED_INSTANCE_BODY = documented_body(_UndeletedInstanceBody, required=False)


@dataclass(frozen=True)
class CreateRequest:
    """A request for an instance that keeps all rules."""

    name: str
    template: str
    attributes: AttributeChanges = UNCHANGED
    origin: Origin = FROM_TEMPLATE


class CreateRequestReader:
    """Reads the descriptions of new instances in bodies of requests."""

    def __init__(self, origins: OriginReaderDep) -> None:
        self._origins = origins

    async def read(self, body: Properties[Any]) -> CreateRequest:
        """The request for the instance that `body` describes.

        Raises:
            InvalidError: naming everything that is wrong with it.
        """
        reader = AttributesReader(body)
        attributes = reader.new()
        wanted = await self._origins.read(body)
        return replace(_valid_request(body, wanted, reader.errors), attributes=attributes)


async def _managed_create_request(body: JsonObject) -> CreateRequest:
    elsewhere = (*ATTRIBUTES, "copyOf", "mode", "backupId")
    errors = {
        pascal(name): [f"'{in_words(pascal(name))}' is set by POST /v2/dbInstances, not by this request."]
        for name in elsewhere
        if body.get(name)
    }
    return _valid_request(body, template_origin(body.get("databaseTemplate"), list(Template)), errors)


CreateRequestReaderDep = Annotated[CreateRequestReader, Depends()]
ManagedCreateRequestDep = Annotated[CreateRequest, Depends(_managed_create_request)]
"""For the surface `manage`, whose clients know no other templates than `Minimal` and `Sample`."""


@dataclass(frozen=True)
class Selection:
    """Which instances a list shows, and which page of them."""

    chosen: InstanceFilter
    page: Page


async def _exact_selection(
    offset: Offset = 0,
    limit: Limit = DEFAULT_LIMIT,
    id: Count | None = None,  # noqa: A002 - the query's own word
    name: str | None = None,
) -> Selection:
    return Selection(InstanceFilter(id=id, name=name), Page("Id", offset=offset, limit=limit))


async def _selection(  # noqa: PLR0913, PLR0917 - the filters of a list
    page: Annotated[Page, page_of(INSTANCES)],
    statuses: Annotated[list[InstanceStatus], words_of("status", InstanceStatus)],
    labels: LabelFilterDep,
    id: Count | None = None,  # noqa: A002 - the query's own word
    name: Annotated[str | None, Query(description="The whole name.")] = None,
    template: Annotated[str | None, Query(alias="databaseTemplate")] = None,
    search: Annotated[
        str | None, Query(description="A part of the name, in any case of letters; taken literally.")
    ] = None,
) -> Selection:
    return Selection(InstanceFilter(id, name, statuses, template, search, labels), page)


ExactSelectionDep = Annotated[Selection, Depends(_exact_selection)]
"""What the contract allows on every surface: exact filters, by id."""
SelectionDep = Annotated[Selection, Depends(_selection)]
USAGE = "usage"
IncludedDep = Annotated[list[str], words_of("include", [USAGE], is_filter=False)]
"""What a list shows of each instance beside its row and its job."""


async def require_instance_management(settings: SettingsDep) -> None:
    """The dependency of every endpoint of either surface: whether instances are managed here at all."""
    if not settings.instance_management:
        raise ProblemError.invalid(
            {"OdsInstance": ["This endpoint has been disabled on application settings."]}
        )


class InstanceService:
    """Carries such requests out.

    One that cannot be granted raises an error of `ods.registry.storage.errors`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        instances: InstanceStoreDep,
        queries: InstanceQueriesDep,
        descriptions: InstanceDescriptionsDep,
        usage: InstanceUsageDep,
        dispatcher: JobDispatcherDep,
        audit: AuditContextDep,
        settings: SettingsDep,
        final_backups: FinalBackupsDep,
        kept: KeptDatabasesDep,
    ) -> None:
        self._final_backups = final_backups
        self._kept = kept
        self._instances = instances
        self._queries = queries
        self._descriptions = descriptions
        self._usage = usage
        self._dispatcher = dispatcher
        self._audit = audit
        self._settings = settings
        self._templates = list(settings.template_databases)

    async def create(self, new: CreateRequest) -> Requested:
        """Request an instance."""
        return await self.launched(
            await self._instances.reserve(new.name, new.template, new.attributes, new.origin)
        )

    async def judge(self, new: CreateRequest) -> None:
        """Raise the refusal that `create` would meet, and change nothing."""
        await self._instances.require_reservable(new.name, new.template, new.attributes, new.origin)

    async def select(self, selection: Selection) -> Sequence[Instance]:
        """A page of instances, deleted ones included, with how far their jobs are."""
        return await self.described(await self.rows(selection))

    async def described(self, rows: Sequence[DbInstance]) -> Sequence[Instance]:
        """These instances, with how far their jobs are."""
        return await self._descriptions.describe(rows)

    async def select_with_usage(self, selection: Selection) -> AsyncIterator[ListedInstance]:
        """A page of instances as `select` has it, with how each is used."""
        rows = await self.rows(selection)
        figures_of = await self._usage.of_page(rows)
        described = await self._descriptions.describe(rows)
        async for row, instance in paced(zip(rows, described, strict=True)):
            yield ListedInstance.with_usage(instance, figures_of(row))

    async def rows(self, selection: Selection) -> Sequence[DbInstance]:
        """A page of instances, deleted ones included."""
        if not selection.chosen.is_storable:
            return []
        return await self._queries.chosen_instances(selection.chosen, selection.page)

    async def get(self, instance_id: int) -> Instance:
        """One live instance."""
        return await self._descriptions.describe_one(await self._queries.instance(instance_id))

    async def rename(self, instance_id: int, body: Properties[Any]) -> Requested:
        """Request that the instance gets the name in `body`."""
        self._audit.instance = instance_id
        # 404 is checked before the body.
        instance = await self._queries.instance(instance_id)
        await self._require_attributes(instance, body)
        name, template = body.get("name"), instance.database_template
        errors = {
            "Name": _name_errors(name, template),
            "DatabaseTemplate": _kept_template_errors(
                body.get("databaseTemplate"), template, self._templates
            ),
        }
        require_valid(errors)
        return await self.launched(await self._instances.request_rename(instance_id, str(name).strip()))

    async def _require_attributes(self, instance: DbInstance, body: Properties[Any]) -> None:
        """Refuse attributes that the instance does not have, for a request that changes none of them.

        Raises:
            InvalidError: `body` has some.
        """
        given = [name for name in ATTRIBUTES if name in body]
        if not given:
            return
        described = await self._descriptions.describe_one(instance)
        now = described.model_dump(mode="json", by_alias=True)
        require_valid(
            {
                pascal(name): [f"PUT only renames an instance. PATCH changes '{name}'."]
                for name in given
                if (body[name] or None) != (now[name] or None)
            }
        )

    async def change_attributes(self, instance_id: int, body: Properties[Any]) -> Instance:
        """Change what clients say about the instance, as `body` says."""
        self._audit.instance = instance_id
        await self._queries.instance(instance_id)  # 404 is checked before the body
        reader = AttributesReader(body)
        changes = reader.changes()
        require_valid(reader.errors)
        changed = await self._instances.change_attributes(instance_id, changes)
        if changes.protected:
            await self._kept.mark(instance_id)
        return await self._descriptions.describe_one(changed)

    async def delete(
        self, instance_id: int, way: Way | None = None, *, final_backup: bool = False
    ) -> Requested:
        """Request that the instance is deleted in this way, by default to the trash if there is one.

        Raises:
            BackupFaultError: it is to be backed up before its database is dropped, and cannot be.
        """
        delete = Delete(way, self._audit.client, final_backup)
        await self._final_backups.require_possible(instance_id, delete)
        return await self.change(instance_id, partial(self._instances.request_delete, delete=delete))

    async def purge(self, instance_id: int, *, final_backup: bool) -> Requested:
        """Request that the database of a deleted instance is dropped from the trash, perhaps after a backup.

        Raises:
            BackupFaultError: it is to be backed up before, and cannot be.
        """
        await self._final_backups.require_possible(instance_id, Delete(Way.DROP, final_backup=final_backup))
        return await self.change(
            instance_id, partial(self._instances.request_purge, final_backup=final_backup)
        )

    async def undelete(self, instance_id: int, body: Properties[Any]) -> Requested:
        """Request that the instance comes back from the trash, under the name in `body` if there is one."""
        self._audit.instance = instance_id
        name = body.get("name")
        instance = await self._queries.any_instance(instance_id)
        if instance is not None:  # 404 is checked before the body
            errors = unknown_members(body, ("name",))
            if name is not None:
                errors["Name"] = _name_errors(name, instance.database_template)
            require_valid(errors)
        wanted = None if name is None else str(name).strip()
        return await self.launched(await self._instances.request_undelete(instance_id, wanted))

    async def undo_reset(self, instance_id: int, body: Properties[Any]) -> Requested:
        """Request that the database in `body` is the instance's again, or the one that was replaced last."""
        self._audit.instance = instance_id
        database = body.get("database")
        errors = unknown_members(body, ("database",))
        if "database" in body and not isinstance(database, str):
            errors["Database"] = [
                "'Database' must be text. Without it, the one that was replaced last comes back."
            ]
        if errors:
            await self._queries.instance(instance_id)  # 404 is checked before the body
            require_valid(errors)
        return await self.change(
            instance_id,
            partial(self._instances.request_undo_reset, by=self._audit.client, database=database),
        )

    async def require_may_delete_behind(self, ods_instance_id: int) -> None:
        """Refuse to delete an instance by its ODS instance where instances are not managed.

        Raises:
            InvalidError: the ODS instance is an instance's.
        """
        if self._settings.instance_management:
            return
        if await self._queries.instance_behind(ods_instance_id) is not None:
            raise InvalidError(
                {
                    "Id": [
                        "An instance has it, and their management has been disabled on application settings."
                    ]
                }
            )

    async def change(self, instance_id: int, request: Callable[[int], Awaitable[Requested]]) -> Requested:
        """Make a `request` of the instance store that needs nothing but the id, and start its job."""
        self._audit.instance = instance_id
        return await self.launched(await request(instance_id))

    async def launched(self, requested: Requested) -> Requested:
        """Start what was committed, as far as possible; within a unit of work, when that is committed."""
        await after_commit(partial(self._launch, requested))
        return requested

    async def _launch(self, requested: Requested) -> None:
        self._audit.add(requested.instance.id, requested.job.job_id)
        await self._dispatcher.launch(requested.job, self._audit.client)


InstanceServiceDep = Annotated[InstanceService, Depends()]


def _valid_request(body: Properties[Any], wanted: WantedOrigin, other_errors: FieldErrors) -> CreateRequest:
    """The request in `body` for an instance of this origin, without attributes.

    Raises:
        InvalidError: naming everything that is wrong with it, the `other_errors` included.
    """
    name = body.get("name")
    require_valid({"Name": _name_errors(name, wanted.template), **wanted.errors, **other_errors})
    return CreateRequest(name=str(name).strip(), template=wanted.template, origin=wanted.origin)


def _name_errors(name: object, template: str) -> list[str]:
    if isinstance(name, str | None):
        return name_errors(name or "", template)
    return ["'Name' must be text."]


def _kept_template_errors(template: object, kept: str, templates: Sequence[str]) -> list[str]:
    """What is wrong with a template that may be left out, and stays what it was."""
    if template is None or template == kept:
        return []
    if template in templates:
        return [f"'Database Template' cannot be changed: this instance was made from '{kept}'."]
    return template_errors(template, templates)
