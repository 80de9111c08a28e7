"""What a recovery does, asks and has done, as the API and the command line show it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self

from pydantic import Field

from api.schemas.base import ResponseModel
from ods.recovery.plan import Plan, Question, RecoveryStep, StepKind
from ods.recovery.recovery import Identity, Outcome


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


class OtherInstallationFacts(ResponseModel):
    """An installation with databases on the server that no tenant of this service has."""

    id: str
    tenants: list[str] = Field(description="The names of its tenants, by the databases.")
    databases: int = Field(description="How many of the databases are its.")


class InstallationFacts(ResponseModel):
    """What registry and server say of the installation, and what was confirmed."""

    id: str
    registry: str = Field(description="Where the registry is.")
    confirmed_registry: str = Field(description="Where it was when it was last confirmed.")
    server: str = Field(description="System identifier of the server of the ODS databases.")
    confirmed_server: str | None = Field(description="That of the server that the installation has used.")
    databases: int = Field(description="How many databases on the server are the installation's.")
    other_installations: list[OtherInstallationFacts]
    confirmed_installations: list[str] = Field(description="Those of which that is meant.")
    unasked: list[str] = Field(
        description="Tenants that may be this installation: their registries are away."
    )
    why_no_copy: str | None = Field(
        description="Why it cannot become an installation of its own; null if it can."
    )


class RecoveryPlan(ResponseModel):
    """What a recovery does; if nothing is in it, the registry knows what the server has."""

    steps: list[RecoveryStepAnswer]
    questions: list[RecoveryQuestion] = Field(description="To be answered with `choose`.")
    confirmation: str | None = Field(description="What is to be confirmed before, with `confirm`.")
    store: str | None = Field(
        description="What is to be decided about the store of backups, with `acceptStore`."
    )
    installation: InstallationFacts
    waiting: list[str] = Field(description="Instances whose jobs go on, and are looked at after that.")

    @classmethod
    def of(cls, plan: Plan, identity: Identity, obstacles: Mapping[RecoveryStep, str] | None = None) -> Self:
        """The plan, with what is asked before, and why steps could not be done."""
        return cls(
            steps=[_step(step, (obstacles or {}).get(step)) for step in plan.steps],
            questions=[_question(question) for question in plan.questions],
            confirmation=plan.confirmation,
            store=identity.store,
            installation=InstallationFacts.model_validate(identity.standing),
            waiting=list(plan.waiting),
        )


class CancelledDrop(ResponseModel):
    """A job that waited to drop a database; its client requests it again, if that is still wanted."""

    job_id: str
    name: str = Field(description="The instance's name.")


class RecoveryReport(ResponseModel):
    """What a recovery has done, and what is left."""

    done: list[RecoveryStepAnswer]
    cancelled: list[CancelledDrop]
    left: RecoveryPlan
    is_over: bool = Field(description="False if the request is to be sent again: there was no time for all.")

    @classmethod
    def of(cls, outcome: Outcome, identity: Identity) -> Self:
        """What was done, and what is asked now."""
        obstacles = {refused.step: refused.reason for refused in outcome.refused}
        return cls(
            done=[_step(step) for step in outcome.done],
            cancelled=[CancelledDrop(job_id=job.job_id, name=job.name) for job in outcome.cancelled],
            left=RecoveryPlan.of(outcome.plan, identity, obstacles),
            is_over=outcome.is_over,
        )


def _question(question: Question) -> RecoveryQuestion:
    return RecoveryQuestion(
        ods_instance_id=question.ods_instance_id,
        name=question.name,
        databases=[
            PossibleDatabase(name=one.name, in_trash=one.trash, published_at=one.published_at)
            for one in question.databases
        ],
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
