"""How answers look: camelCase, nulls written out, times in ISO 8601 and UTC."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from instances.models import Job


class Answer(BaseModel):
    """A JSON object in an answer."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)


UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]
"""A time of the registry, which holds UTC without a zone."""


class Done(Answer):
    """The answer to a request that has nothing else to show."""

    title: str
    status: int


class Waiting(Answer):
    """What a job waits for: something is away, which uses up none of the job's attempts."""

    reason: str = Field(serialization_alias="for")
    since: UtcTime
    until: UtcTime = Field(description="When the job gives up, if that is away until then.")

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """What the job waits for; None if it waits for nothing."""
        if job.waitingfor is None or job.waitingsince is None or job.waitinguntil is None:
            return None
        return cls(reason=job.waitingfor, since=job.waitingsince, until=job.waitinguntil)
