"""Instances: requested, looked at, deleted, retried."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api import problems
from api.auth import bearer_token
from api.instance_answers import Accepted, Instance, describe
from api.problems import ProblemError
from api.requests import BODY_REFUSALS, Count, JsonObject, documented_body, is_storable, path_id
from api.services import Services, Serving
from api.trail import Deed, Noting
from instances.naming import MAX_NAME_LENGTH, name_faults
from instances.registry import Requested
from instances.status import Template

router = APIRouter(prefix="/v2/dbInstances", tags=["DbInstances"], dependencies=[Depends(bearer_token)])

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_CHANGE_REFUSALS = (*_REFUSALS, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


def _instance_id(instance_id: Annotated[int, path_id("dbInstance")], noting: Noting) -> int:
    noting.instance = instance_id
    return instance_id


InstanceId = Annotated[int, Depends(_instance_id)]


class _NewInstanceBody(BaseModel):
    name: str = Field(max_length=MAX_NAME_LENGTH, pattern="^[A-Za-z0-9 _]*[A-Za-z0-9_][A-Za-z0-9 _]*$")
    databaseTemplate: str = Field(json_schema_extra={"enum": list(Template)})  # noqa: N815 - on the wire


@dataclass(frozen=True)
class NewInstance:
    """A request for an instance that keeps all rules."""

    name: str
    template: Template


def _new_instance(body: JsonObject) -> NewInstance:
    name, template = body.get("name"), body.get("databaseTemplate")
    errors = {"Name": _name_faults(name), "DatabaseTemplate": _template_faults(template)}
    if any(errors.values()):
        raise ProblemError.invalid(errors)
    return NewInstance(name=str(name).strip(), template=Template(str(template)))


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=documented_body(_NewInstanceBody),
    responses=problems.documented(*BODY_REFUSALS, *_REFUSALS),
)
async def create_instance(
    new: Annotated[NewInstance, Depends(_new_instance)], services: Serving, noting: Noting, response: Response
) -> Accepted:
    """Request an instance: a database cloned from a template."""
    requested = await services.registry.reserve(new.name, new.template)
    response.headers["Location"] = f"{router.prefix}/{requested.instance.id}"
    return await _accepted(requested, services, noting)


@router.get("", responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS))
async def list_instances(
    services: Serving,
    offset: Count = 0,
    limit: Count = 25,
    id: Count | None = None,  # noqa: A002 - the query's own word
    name: str | None = None,
) -> list[Instance]:
    """A page of instances by id, deleted ones included."""
    if name is not None and not is_storable(name):
        return []
    rows = await services.catalog.instances(offset=offset, limit=limit, instance_id=id, name=name)
    return await describe(rows, services)


@router.get("/{instance_id}", responses=problems.documented(*_REFUSALS, HTTPStatus.NOT_FOUND))
async def get_instance(instance_id: InstanceId, services: Serving) -> Instance:
    """One live instance."""
    (described,) = await describe([await services.catalog.instance(instance_id)], services)
    return described


@router.delete(
    "/{instance_id}", status_code=HTTPStatus.ACCEPTED, responses=problems.documented(*_CHANGE_REFUSALS)
)
async def delete_instance(instance_id: InstanceId, services: Serving, noting: Noting) -> Accepted:
    """Request that the instance is deleted, with its database."""
    return await _accepted(await services.registry.request_delete(instance_id), services, noting)


@router.post(
    "/{instance_id}/retry", status_code=HTTPStatus.ACCEPTED, responses=problems.documented(*_CHANGE_REFUSALS)
)
async def retry_instance(instance_id: InstanceId, services: Serving, noting: Noting) -> Accepted:
    """Request that the failed job of the instance is tried again."""
    return await _accepted(await services.registry.request_retry(instance_id), services, noting)


async def _accepted(requested: Requested, services: Services, noting: Deed) -> Accepted:
    """Start what was committed, as far as possible, and say where to follow it."""
    noting.instance, noting.job = requested.instance.id, requested.job.job_id
    await services.launcher.launch(requested.job)
    return Accepted.of(requested)


def _name_faults(name: object) -> list[str]:
    if isinstance(name, str | None):
        return name_faults(name or "")
    return ["'Name' must be text."]


def _template_faults(template: object) -> list[str]:
    words = " or ".join(f"'{word}'" for word in Template)
    faults = []
    if template is None or (isinstance(template, str) and not template.strip()):
        faults.append("'Database Template' must not be empty.")
    if template not in list(Template):
        faults.append(f"'Database Template' must be {words}.")
    return faults
