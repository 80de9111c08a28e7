"""How answers look: camelCase, nulls written out, times in ISO 8601 and UTC."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Self, TypeVar

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registry.storage.models import Job

_AT_ONCE_SECONDS = 0.002
"""How long a list is worked on before other requests get their turn."""

_Item = TypeVar("_Item")


class ResponseModel(BaseModel):
    """A JSON object in an answer."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)


UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]
"""A time of the registry, which holds UTC without a zone."""


class Done(ResponseModel):
    """The answer to a request that has nothing else to show."""

    title: str
    status: int


class Waiting(ResponseModel):
    """What a job waits for: something is away, which uses up none of the job's attempts."""

    reason: str = Field(serialization_alias="for")
    since: UtcTime
    until: UtcTime = Field(description="When the job gives up, if that is away until then.")

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """What the job waits for; None if it waits for nothing."""
        if job.waiting_for is None or job.waiting_since is None or job.waiting_until is None:
            return None
        return cls(reason=job.waiting_for, since=job.waiting_since, until=job.waiting_until)


async def paced(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """The items one by one; other requests are served every two milliseconds in between."""
    due = monotonic() + _AT_ONCE_SECONDS
    for item in items:
        if monotonic() >= due:
            await asyncio.sleep(0)
            due = monotonic() + _AT_ONCE_SECONDS
        yield item


async def list_response(answers: AsyncIterable[ResponseModel]) -> Response:
    """The JSON array of `answers`, which is written as they come: it may be long."""
    written = [answer.model_dump_json() async for answer in answers]
    return Response(f"[{','.join(written)}]", media_type="application/json")
