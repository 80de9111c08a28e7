"""Bringing the registry in step with the server, after one of both was restored to an earlier state."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.dependencies import RecoveryDep
from api.http import problems
from api.http.parsing import BODY_REFUSALS, JsonObject, Properties, documented_body, unknown_members
from api.http.problems import ProblemError
from api.idempotency import JobRoute
from api.schemas.recovery import RecoveryPlan, RecoveryReport
from api.security.tokens import bearer_token

router = APIRouter(
    prefix="/v2/recovery", tags=["Recovery"], dependencies=[Depends(bearer_token)], route_class=JobRoute
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *problems.ODS_SERVER_REFUSALS)


class _RecoveryBody(BaseModel):
    confirm: bool = Field(
        default=False,
        description="That no other service works on the original of this registry, and its server is right.",
    )
    acceptStore: bool = Field(  # noqa: N815 - a member of the body
        default=False,
        description="That the store of backups is the right one, and no copy of this registry uses it.",
    )
    asNewInstallation: bool = Field(  # noqa: N815 - a member of the body
        default=False,
        description="That this registry is a copy, which becomes an installation of its own; alone.",
    )
    asInstallation: str | None = Field(  # noqa: N815 - a member of the body
        default=None,
        description="That this registry is new, and goes on as the installation with this id, whose registry"
        " is lost; alone.",
    )
    choose: list[str] = Field(
        default=[], description="Databases, one of an instance that the plan asks about: that it had last."
    )


@router.get("", responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS))
async def get_recovery_plan(
    recovery: RecoveryDep, choose: Annotated[Sequence[str], Query()] = ()
) -> RecoveryPlan:
    """What a recovery would do, and what must be confirmed before; nothing is changed."""
    return RecoveryPlan.of(await recovery.plan(choose), await recovery.identity())


@router.post(
    "",
    openapi_extra=documented_body(_RecoveryBody),
    responses=problems.documented(*_REFUSALS, *BODY_REFUSALS),
)
async def recover(body: JsonObject, recovery: RecoveryDep) -> RecoveryReport:
    """Record what the server has, and drop or overwrite no database; safe to repeat.

    Of several databases of one instance, those that are not chosen go to the trash.

    Jobs that wait to drop a database are cancelled before: the registry may have forgotten that they were.
    What `confirm` and `acceptStore` say is done first. With `asNewInstallation` or
    `asInstallation`, nothing else is done.
    """
    if errors := unknown_members(body, _RecoveryBody.model_fields):
        raise ProblemError.invalid(errors)
    chosen = _chosen(body)
    confirms, accepts = _says(body, "confirm"), _says(body, "acceptStore")
    is_copy, taken_over = _says(body, "asNewInstallation"), _installation(body)
    if not is_copy and taken_over is None:
        outcome = await recovery.apply(chosen, is_confirmed=confirms, accepts_store=accepts)
        return RecoveryReport.of(outcome, await recovery.identity())
    if chosen or confirms or accepts or (is_copy and taken_over is not None):
        name = "AsNewInstallation" if is_copy else "AsInstallation"
        message = f"'{problems.in_words(name)}' is said alone: the registry is a copy, is new, or goes on."
        raise ProblemError.invalid({name: [message]})
    if taken_over is None:
        await recovery.renew()
    else:
        await recovery.take_over(taken_over)
    left = RecoveryPlan.of(await recovery.plan(), await recovery.identity())
    return RecoveryReport(done=[], cancelled=[], left=left, is_over=True)


def _says(body: Properties[Any], name: str) -> bool:
    said = body.get(name)
    if said is None or isinstance(said, bool):
        return bool(said)
    raise ProblemError.invalid(
        {problems.pascal(name): [f"'{problems.in_words(problems.pascal(name))}' must be true or false."]}
    )


def _installation(body: Properties[Any]) -> str | None:
    said = body.get("asInstallation")
    if said is None:
        return None
    with suppress(ValueError, TypeError, AttributeError):
        return str(UUID(said))
    raise ProblemError.invalid({"AsInstallation": ["'As Installation' must be the id of an installation."]})


def _chosen(body: Properties[Any]) -> Collection[str]:
    chosen = body.get("choose")
    if chosen is None:
        return ()
    if isinstance(chosen, list) and all(isinstance(name, str) for name in chosen):
        return chosen
    raise ProblemError.invalid({"Choose": ["'Choose' must be a list of names of databases."]})
