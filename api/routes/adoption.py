"""Databases that an Admin API made for instances: looked at, and handed over to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.http import problems
from api.http.parsing import BODY_REFUSALS, JsonObject, Properties, documented_body, path_id
from api.http.problems import ProblemError
from api.instance_service import CHANGE_REFUSALS, require_instance_management
from api.middleware.audit import AuditContextDep
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from api.services import Services, ServicesDep
from databases import adoption
from databases.adoption import Candidate
from databases.errors import DatabaseFaultError
from databases.ownership import Owner
from registry.instances.naming import instance_named
from registry.instances.store import DatabaseName, LostInstance
from registry.storage.errors import InstanceNotFoundError
from registry.storage.models import DbInstance
from settings import MAX_DATABASE_NAME_BYTES

router = APIRouter(
    prefix="/v2/dbInstances",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(require_instance_management)],
)

_JOB = "adopted"
"""Stands in the mark in place of the job that made the database."""

_NO_INSTANCES_NAME = "No instance has a database of this name: rename it to EdFi_Ods_NAME_TEMPLATE."

InstanceId = Annotated[int, path_id("dbInstance")]


class InstanceDatabase(ResponseModel):
    """The database that has the name of an instance's, and whether it is the instance's."""

    id: int
    name: str
    status: str
    ods_instance_id: int
    database_name: str
    owner: str
    size_bytes: int | None
    sessions: int
    comment: str | None
    adopted: bool
    obstacle: str | None


class _AdoptionBody(BaseModel):
    databaseName: str | None = Field(  # noqa: N815 - on the wire
        None, description="The database, if the registry has lost the instance or calls it otherwise."
    )


@router.get("/{instance_id}/database", responses=problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT))
async def get_instance_database(
    instance_id: InstanceId,
    services: ServicesDep,
    database_name: Annotated[str | None, Query(alias="databaseName")] = None,
) -> InstanceDatabase:
    """The database of an instance, or one that it might get: whether it carries the mark, or could."""
    with _faults_told():
        async with services.server.session() as session:
            instance = await _instance(services, session, instance_id, database_name)
            if instance is None:
                return await _lost_instance(services, session, instance_id, str(database_name))
            database = database_name or instance.database_name
            found = await adoption.inspect(
                session, _owner(services, instance), database, await _needed(services)
            )
    return _answer(instance, database, _judged(found, instance))


@router.post(
    "/{instance_id}/adopt",
    openapi_extra=documented_body(_AdoptionBody),
    responses=problems.documented(*CHANGE_REFUSALS, *BODY_REFUSALS, HTTPStatus.CONFLICT),
)
async def adopt_instance_database(
    instance_id: InstanceId, body: JsonObject, services: ServicesDep, audit: AuditContextDep
) -> InstanceDatabase:
    """Write the instance's mark on its database, so that the database is deleted with the instance.

    With a `databaseName`, the registry calls it that from now on, and the ODS/API is routed there as to a new
    one. An instance that the registry has lost, as after a restore, is recorded again.
    """
    audit.instance = instance_id
    database_name = _database_name(body)
    with _faults_told():
        async with services.server.session() as session:
            instance = await _instance(services, session, instance_id, database_name)
    if instance is None:
        return await _restored(services, instance_id, str(database_name))
    owner, needed = _owner(services, instance), await _needed(services)
    database = database_name or instance.database_name
    called = None if database_name is None else _called(services, database)
    with _faults_told():
        async with services.server.session() as session:
            found = await adoption.inspect(session, owner, database, needed)
        marked = found is not None and found.adopted
        # Before the fence is taken, which would end the session of a running job.
        async with services.instances.adopting(instance.id, marked=marked):
            _adopted(_answer(instance, database, _judged(found, instance)))
        async with (
            services.server.fenced(owner) as session,
            services.instances.adopting(instance.id, called, marked=marked) as row,
        ):
            await services.installation.require_confirmed(session)
            found = await adoption.adopt(session, _owner(services, row), database, needed)
            return _adopted(_answer(row, database, found))


async def _instance(
    services: Services, session: asyncpg.Connection, instance_id: int, database: str | None
) -> DbInstance | None:
    """The instance; None if there is none, and a database is named that may be that of a lost one.

    A database that is named may call its instance by the OdsInstanceId, as drift and the reasons of failed
    jobs do, which know no other id. Its mark then tells which instance that is.
    """
    if database is None:
        return await services.queries.instance(instance_id)
    owner = await adoption.owner_of(session, database)
    if owner is not None and owner.ods_instance_id == instance_id:
        return await services.queries.marked_instance(owner.mark)
    try:
        return await services.queries.instance(instance_id)
    except InstanceNotFoundError:
        return None


async def _restored(services: Services, ods_instance_id: int, database: str) -> InstanceDatabase:
    """Record the instance again that the registry has lost and `database` belongs to."""
    with _faults_told():
        async with services.server.session() as session:
            answer = _adopted(await _lost_instance(services, session, ods_instance_id, database))
            owner = await adoption.owner_of(session, database)
        named = instance_named(database)
        if owner is None or named is None:
            raise ProblemError.not_found("database", database)
        lost = LostInstance(*named, ods_instance_id, owner.mark, max(owner.number, 1), owner.attempt)
        own = replace(owner, number=lost.number, installation=services.instances.installation.known_id)
        async with services.server.fenced(own) as session:
            await services.installation.require_confirmed(session)
            # A comment of version 1 names no installation: from now on, it is this one's.
            await adoption.adopt(session, own, database, await _needed(services))
            row = await services.instances.restore_lost(lost, _called(services, database))
    return answer.model_copy(update={"id": row.id, "name": row.name, "status": row.status, "adopted": True})


async def _lost_instance(
    services: Services, session: asyncpg.Connection, ods_instance_id: int, database: str
) -> InstanceDatabase:
    """The database of an instance that the registry does not know, as the instance would get it."""
    owner = await adoption.owner_of(session, database)
    found = await adoption.inspect(session, owner, database, await _needed(services)) if owner else None
    if owner is None or found is None:
        raise ProblemError.not_found("dbInstance", ods_instance_id)
    installation = (await services.instances.installation.state()).id
    named = instance_named(database)
    obstacle = found.obstacle
    if owner.ods_instance_id != ods_instance_id:
        obstacle = f"It belongs to the instance with the OdsInstanceId {owner.ods_instance_id}."
    elif owner.tenant != services.tenant or owner.installation not in {None, installation}:
        obstacle = f"It belongs to the tenant {owner.tenant} of the installation {owner.installation}."
    elif await services.queries.known_marks([owner.mark]):
        obstacle = (
            "The registry knows its instance, under another id, or as deleted. If it is deleted, drop the"
            " database, or remove its comment (COMMENT ON DATABASE … IS NULL)."
        )
    elif (taken_by := await services.queries.holder_of(ods_instance_id)) is not None:
        obstacle = (
            f"The OdsInstanceId {ods_instance_id} was given to '{taken_by}' since the registry lost the"
            " instance. Remove the comment of the database (COMMENT ON DATABASE … IS NULL), and let the"
            " ODS/API route to it under another id: POST /v2/odsInstances."
        )
    elif named is None:
        obstacle = _NO_INSTANCES_NAME
    return InstanceDatabase(
        id=ods_instance_id,
        name=named[0] if named else "",
        status="",
        ods_instance_id=owner.ods_instance_id,
        database_name=database,
        owner=found.owner,
        size_bytes=found.size_bytes,
        sessions=found.sessions,
        comment=found.comment,
        adopted=False,
        obstacle=obstacle,
    )


def _judged(found: Candidate | None, instance: DbInstance) -> Candidate | None:
    """The database as it is, unless it has no mark and neither this instance's nor any instance's name.

    On a server may be the registries of other tenants, of the same role: none shall be dropped as a database.
    """
    if found is None or found.obstacle or found.adopted or found.name == instance.database_name:
        return found
    return found if instance_named(found.name) else replace(found, obstacle=_NO_INSTANCES_NAME)


def _adopted(answer: InstanceDatabase) -> InstanceDatabase:
    if answer.obstacle:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "The database cannot be adopted",
            state=answer.status,
            detail=answer.obstacle,
        )
    return answer


def _database_name(body: Properties[Any]) -> str | None:
    name = body.get("databaseName")
    if name is None or (isinstance(name, str) and 1 <= len(name.encode()) <= MAX_DATABASE_NAME_BYTES):
        return name
    raise ProblemError.invalid(
        {"DatabaseName": [f"'Database Name' must have 1 to {MAX_DATABASE_NAME_BYTES} bytes."]}
    )


def _called(services: Services, database: str) -> DatabaseName:
    return DatabaseName(database, services.connection_strings.encrypted(database))


def _owner(services: Services, instance: DbInstance) -> Owner:
    """The instance, at the latest attempt that the registry knows to have published its database."""
    number, attempt = instance.publication
    return Owner(
        services.tenant,
        instance.ods_instance_id,
        _JOB,
        str(instance.mark),
        number,
        attempt,
        services.instances.installation.known_id,
    )


async def _needed(services: Services) -> set[str]:
    return {*services.settings.template_databases.values(), await services.queries.database()}


def _answer(instance: DbInstance, database: str, found: Candidate | None) -> InstanceDatabase:
    if found is None:
        raise ProblemError.not_found("database", database)
    return InstanceDatabase(
        id=instance.id,
        name=instance.name,
        status=instance.status,
        ods_instance_id=instance.ods_instance_id,
        database_name=found.name,
        owner=found.owner,
        size_bytes=found.size_bytes,
        sessions=found.sessions,
        comment=found.comment,
        adopted=found.adopted,
        obstacle=found.obstacle,
    )


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except DatabaseFaultError as fault:
        if fault.retryable:
            raise ProblemError.unavailable(fault.reason) from None
        raise ProblemError(
            HTTPStatus.CONFLICT, "The server of the ODS databases refuses", detail=fault.reason
        ) from None
