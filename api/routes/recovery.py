"""Bringing the registry in step with the server, after one of both was restored to an earlier state."""

from collections.abc import Collection, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.dependencies import RecoveryDep
from api.http import problems
from api.http.parsing import BODY_REFUSALS, JsonObject, Properties, documented_body, unknown_members
from api.http.problems import ProblemError
from api.idempotency import JobRoute
from api.schemas.base import ResponseModel
from api.security.tokens import bearer_token
from ods.recovery.plan import Plan, RecoveryStep, StepKind
from ods.recovery.recovery import Outcome

router = APIRouter(
    prefix="/v2/recovery", tags=["Recovery"], dependencies=[Depends(bearer_token)], route_class=JobRoute
)

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *problems.ODS_SERVER_REFUSALS)


class RecoveryStepAnswer(ResponseModel):
    """One change of the registry."""

    kind: StepKind
    ods_instance_id: int
    name: str = Field(description="The instance's name, as its database tells it.")
    database: str
    explanation: str = Field(description="In words, what is done and why.")
    obstacle: str | None = Field(default=None, description="Why it could not be done, if it was tried.")


class PossibleDatabase(ResponseModel):
    """A database that the instance may have had last."""

    name: str
    in_trash: bool
    published_at: datetime | None = Field(description="When it was published, or put into the trash.")


class RecoveryQuestion(ResponseModel):
    """An instance of which registry and server do not tell which database it had last."""

    ods_instance_id: int
    name: str
    databases: list[PossibleDatabase]


class RecoveryPlan(ResponseModel):
    """What a recovery does; if nothing is in it, the registry knows what the server has."""

    steps: list[RecoveryStepAnswer]
    questions: list[RecoveryQuestion] = Field(description="To be answered with `choose`.")
    confirmation: str | None = Field(description="What is to be confirmed before, with `confirm`.")
    waiting: list[str] = Field(description="Instances whose jobs go on, and are looked at after that.")


class RecoveryReport(ResponseModel):
    """What a recovery has done, and what is left."""

    done: list[RecoveryStepAnswer]
    left: RecoveryPlan
    is_over: bool = Field(description="False if the request is to be sent again: there was no time for all.")


class _RecoveryBody(BaseModel):
    confirm: bool = Field(
        default=False,
        description="That no other service works on the original of this registry, and its server is right.",
    )
    choose: list[str] = Field(
        default=[], description="Databases, one of an instance that the plan asks about: that it had last."
    )


@router.get("", responses=problems.documented(HTTPStatus.BAD_REQUEST, *_REFUSALS))
async def get_recovery_plan(
    recovery: RecoveryDep, choose: Annotated[Sequence[str], Query()] = ()
) -> RecoveryPlan:
    """What a recovery would do; nothing is changed."""
    return _plan(await recovery.plan(choose))


@router.post(
    "",
    openapi_extra=documented_body(_RecoveryBody),
    responses=problems.documented(*_REFUSALS, *BODY_REFUSALS),
)
async def recover(body: JsonObject, recovery: RecoveryDep) -> RecoveryReport:
    """Record what the server has, and drop or overwrite no database; safe to repeat.

    Of several databases of one instance, those that are not chosen go to the trash.

    Jobs that wait to drop a database are cancelled before: the registry may have forgotten that they were.
    """
    if errors := unknown_members(body, _RecoveryBody.model_fields):
        raise ProblemError.invalid(errors)
    return _report(await recovery.apply(_chosen(body), is_confirmed=_is_confirmed(body)))


def _is_confirmed(body: Properties[Any]) -> bool:
    confirm = body.get("confirm")
    if confirm is None or isinstance(confirm, bool):
        return bool(confirm)
    raise ProblemError.invalid({"Confirm": ["'Confirm' must be true or false."]})


def _chosen(body: Properties[Any]) -> Collection[str]:
    chosen = body.get("choose")
    if chosen is None:
        return ()
    if isinstance(chosen, list) and all(isinstance(name, str) for name in chosen):
        return chosen
    raise ProblemError.invalid({"Choose": ["'Choose' must be a list of names of databases."]})


def _report(outcome: Outcome) -> RecoveryReport:
    return RecoveryReport(
        done=[_step(step) for step in outcome.done],
        left=_plan(outcome.plan, {refused.step: refused.reason for refused in outcome.refused}),
        is_over=outcome.is_over,
    )


def _plan(plan: Plan, obstacles: dict[RecoveryStep, str] | None = None) -> RecoveryPlan:
    return RecoveryPlan(
        steps=[_step(step, (obstacles or {}).get(step)) for step in plan.steps],
        questions=[
            RecoveryQuestion(
                ods_instance_id=question.ods_instance_id,
                name=question.name,
                databases=[
                    PossibleDatabase(name=one.name, in_trash=one.trash, published_at=one.published_at)
                    for one in question.databases
                ],
            )
            for question in plan.questions
        ],
        confirmation=plan.confirmation,
        waiting=list(plan.waiting),
    )


def _step(step: RecoveryStep, obstacle: str | None = None) -> RecoveryStepAnswer:
    return RecoveryStepAnswer(
        kind=step.kind,
        ods_instance_id=step.ods_instance_id,
        name=step.name,
        database=step.database,
        explanation=step.explanation,
        obstacle=obstacle,
    )
