"""How answers look: camelCase, nulls written out, times in ISO 8601 and UTC."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Answer(BaseModel):
    """A JSON object in an answer."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)


UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]
"""A time of the registry, which holds UTC without a zone."""


class Done(Answer):
    """The answer to a request that has nothing else to show."""

    title: str
    status: int
