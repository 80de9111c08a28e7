"""What response models have in common: camelCase, nulls written out, times in ISO 8601 and UTC."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, TypeVar

from fastapi import Response
from pydantic import AfterValidator, AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_AT_ONCE_SECONDS = 0.002
"""How long a list is worked on before other requests are served."""

_Item = TypeVar("_Item")


class ResponseModel(BaseModel):
    """A JSON object in an answer, made of the attributes of a row or of another object.

    A field has the name of the attribute, or that as its `validation_alias`; on the wire it is camelCase.
    """

    model_config = ConfigDict(
        alias_generator=AliasGenerator(serialization_alias=to_camel),
        from_attributes=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )


UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]
"""A time of the registry, which holds UTC without a zone."""


class Done(ResponseModel):
    """The answer to a request that has nothing else to show."""

    title: str
    status: int


class Waiting(ResponseModel):
    """What a job waits for: a server is away, or the operator must act; it uses up none of its attempts."""

    reason: str = Field(serialization_alias="for")
    since: UtcTime | None = Field(description="Null if the job has recorded nothing.")
    until: UtcTime | None = Field(
        description="When the job gives up, if it still waits; null if the job has recorded nothing."
    )


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
