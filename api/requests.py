"""Reading requests: what cannot be read is refused, what can be read is judged by its endpoint."""

import json
import re
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel

from api.problems import ProblemError

MAX_INT32 = 2**31 - 1
"""The largest number that an `integer` column holds."""

JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"

_DIGITS = re.compile(r"[0-9]{1,10}")
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_FORM = re.compile(FORM_TYPE, re.IGNORECASE)
_LARGEST_BODY = 1024 * 1024  # bytes; no request needs a hundredth of it

Count = Annotated[int, Query(ge=0, le=MAX_INT32)]


def path_id(resource: str) -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    """The dependency that reads a row's id from the path; text that is no id is an id that does not exist."""

    def read(text: Annotated[str, Path(alias="instance_id", json_schema_extra={"type": "integer"})]) -> int:
        if not _DIGITS.fullmatch(text) or int(text) > MAX_INT32:
            raise ProblemError.not_found(resource, text)
        return int(text)

    return Depends(read)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold `text`: it refuses the NUL character."""
    return "\x00" not in text


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large")
    return bytes(body)


async def _json_object(request: Request) -> dict[str, Any]:
    body = await _body(request)
    if not body:
        return {}
    _require_type(request, _JSON, JSON_TYPE)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not well-formed JSON") from None
    if not isinstance(value, dict | None):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body must be a JSON object")
    return value or {}


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, by their names in lower case."""
    body = await _body(request)
    if not body:
        return {}
    _require_type(request, _FORM, FORM_TYPE)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:  # replacing what is no UTF-8 would make one id of many
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not a well-formed form") from None
    return {name.lower(): value for name, value in fields}


JsonObject = Annotated[dict[str, Any], Depends(_json_object)]
Form = Annotated[dict[str, str], Depends(_form)]


BODY_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
"""How bodies are refused, for the documentation of endpoints that have one."""


def documented_body(model: type[BaseModel], media_type: str = JSON_TYPE) -> dict[str, Any]:
    """The OpenAPI description of a body that the endpoint reads by itself."""
    content = {media_type: {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def _require_type(request: Request, accepted: re.Pattern[str], name: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if not accepted.fullmatch(media_type):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content type is not supported", detail=f"Send {name}."
        )
