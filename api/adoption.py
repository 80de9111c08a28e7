"""Databases that an Admin API made for instances: looked at, and handed over to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends

from api import problems
from api.answers import Answer
from api.auth import bearer_token
from api.instance_requests import CHANGE_REFUSALS, switched_on
from api.problems import ProblemError
from api.requests import path_id
from api.services import Services, Serving
from api.trail import Noting
from databases import adoption
from databases.adoption import Candidate
from databases.errors import DatabaseFaultError
from databases.ownership import Owner
from instances.models import DbInstance

router = APIRouter(
    prefix="/v2/dbInstances",
    tags=["DbInstances"],
    dependencies=[Depends(bearer_token), Depends(switched_on)],
)

_JOB = "adopted"
"""Stands in the mark in place of the job that made the database."""

InstanceId = Annotated[int, path_id("dbInstance")]


class InstanceDatabase(Answer):
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


@router.get("/{instance_id}/database", responses=problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT))
async def get_instance_database(instance_id: InstanceId, services: Serving) -> InstanceDatabase:
    """The database of an instance: whether it carries the instance's mark, and else whether it could."""
    instance = await services.catalog.instance(instance_id)
    with _faults_told():
        async with services.server.session() as session:
            found = await adoption.look(
                session, _owner(services, instance), instance.databasename, await _needed(services)
            )
    return _answer(instance, found)


@router.post("/{instance_id}/adopt", responses=problems.documented(*CHANGE_REFUSALS, HTTPStatus.CONFLICT))
async def adopt_instance_database(
    instance_id: InstanceId, services: Serving, noting: Noting
) -> InstanceDatabase:
    """Write the instance's mark on its database, so that the database is deleted with the instance."""
    noting.instance = instance_id
    async with services.registry.adopting(instance_id) as instance:
        owner = _owner(services, instance)  # taking the fence of a running job would end its session
    needed = await _needed(services)
    with _faults_told():
        async with services.server.fenced(owner) as session, services.registry.adopting(instance_id) as row:
            found = await adoption.adopt(session, owner, row.databasename, needed)
    answer = _answer(row, found)
    if answer.obstacle:
        raise ProblemError(
            HTTPStatus.CONFLICT, "The database cannot be adopted", state=row.status, detail=answer.obstacle
        )
    return answer


def _owner(services: Services, instance: DbInstance) -> Owner:
    return Owner(services.tenant, instance.odsinstanceid, _JOB, str(instance.mark))


async def _needed(services: Services) -> set[str]:
    return {*services.settings.template_databases.values(), await services.catalog.database()}


def _answer(instance: DbInstance, found: Candidate | None) -> InstanceDatabase:
    if found is None:
        raise ProblemError.not_found("database", instance.databasename)
    return InstanceDatabase(
        id=instance.id,
        name=instance.name,
        status=instance.status,
        ods_instance_id=instance.odsinstanceid,
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
