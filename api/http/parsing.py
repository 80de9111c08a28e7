"""Reading parameters and bodies of requests; the rules of their content are judged elsewhere.

A body is bounded before it is parsed, so that parsing it never takes longer than some milliseconds. The
process does nothing else meanwhile, and a thread would not help: the parser does not let go of the
interpreter's lock.
"""

import asyncio
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel

from api.http.problems import ProblemError, in_words, pascal
from ods.registry.storage.rules import printable
from ods.settings.settings import AnySettings

MAX_INT32 = 2**31 - 1
"""The largest number that an `integer` column holds."""

JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"

_NUMBER = re.compile(r"-?[0-9]{1,10}")
_DIGITS = re.compile(r"[0-9]{1,10}")
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_FORM = re.compile(FORM_TYPE, re.IGNORECASE)

_BODY_SECONDS = 10
"""How long a body is waited for."""
_MOST_RECEIVED = 16 * 1024 * 1024
"""Bytes of a body that is too large which are received, and not kept, so that its sender reads the answer."""
_LARGEST_FORM = 16 * 1024  # bytes
_MOST_FIELDS = 20
_MOST_VALUES = 10_000
"""Of a JSON text; reading that many takes a millisecond."""
_LONGEST_NAME = 80
_LONGEST_NUMBER = 100
"""Digits; the time to read a number grows with their square."""

Count = Annotated[int, Query(ge=0, le=MAX_INT32)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
"""Rows of a list to leave out. PostgreSQL reads each of them."""
DEFAULT_LIMIT = 25
"""Rows of a list that are shown unless the client says how many."""
MOST_ROWS = 10_000
Limit = Annotated[int, Query(ge=0, le=MOST_ROWS)]
"""Rows of a list to show. Clients that want them all ask for the most."""


def path_id(resource: str, name: str = "instance_id") -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    """The dependency that reads a row's id from the path; text that is no id is an id that does not exist."""

    async def read(text: Annotated[str, Path(alias=name, json_schema_extra={"type": "integer"})]) -> int:
        if not _DIGITS.fullmatch(text) or int(text) > MAX_INT32:
            raise ProblemError.not_found(resource, text)
        return int(text)

    return Depends(read)


_Value = TypeVar("_Value")


def _distinct(members: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    """The members of an object. Of one that is there with two values, nothing says which one is meant.

    Raises:
        ProblemError: 400, there is one.
    """
    distinct: dict[str, _Value] = {}
    for name, value in members:
        if distinct.setdefault(name, value) != value:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                "The body has a member twice",
                detail=f"Send '{shown_name(name)}' once, in one case of letters.",
            )
    return distinct


class Properties(Mapping[str, _Value]):
    """The properties of a JSON object, or the fields of a form: found whatever the case of their names.

    Raises:
        ProblemError: 400, one is there twice, with two values.
    """

    def __init__(self, spelled: Mapping[str, _Value]) -> None:
        self._values = _distinct((name.lower(), value) for name, value in spelled.items())

    def __getitem__(self, name: str) -> _Value:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def shown_name(name: str) -> str:
    """A name that a client has sent, as a refusal repeats it: printable, and of 80 characters at most."""
    return printable(name[:_LONGEST_NAME])


def unknown_members(body: Properties[Any], known: Collection[str]) -> dict[str, list[str]]:
    """What is wrong with members of a body that are none of the `known` ones, by their names."""
    names = {name.lower() for name in known}
    unknown = [shown_name(name) for name in body if name.lower() not in names]
    return {name: [f"'{name}' is none of {', '.join(known)}, which can be given here."] for name in unknown}


def member_names(body: bytes) -> list[str]:
    """The names of the members of a JSON object, or of the fields of a form; what is neither is one name."""
    try:
        value = json.loads(body.strip() or b"null")
    except (ValueError, RecursionError):
        return [name for name, _ in parse_qsl(body.decode(errors="replace"), keep_blank_values=True)]
    if isinstance(value, dict):
        return list(value)
    return [] if value is None else [str(value)]


def whole_number(value: object) -> int | None:
    """The number that a property is, or writes as text; None if no `integer` column can hold it."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT32:
        return value
    return None


class Texts:
    """The texts in a body. `errors` names, in PascalCase, the properties that are there and are no texts."""

    def __init__(self, body: Properties[Any]) -> None:
        self._body = body
        self.errors: dict[str, list[str]] = {}

    def get(self, name: str) -> str | None:
        """The text under `name`, if there is one."""
        value = self._body.get(name)
        if isinstance(value, str | None):
            return value
        self.errors[pascal(name)] = [f"'{in_words(pascal(name))}' must be text."]
        return None


async def _body(request: Request, limit: int) -> bytes:
    """The body of the request.

    Raises:
        ProblemError: 413, it has more than `limit` bytes; 408, it does not arrive in time.
    """
    if int(request.headers.get("content-length", 0)) > _MOST_RECEIVED:
        raise _too_large(limit)
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > _MOST_RECEIVED:
                    break
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            "The body did not arrive in time",
            {"Connection": "close"},
            detail=f"Send the whole body within {_BODY_SECONDS} seconds.",
        ) from None
    if size > limit:
        raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large", detail=f"Send at most {limit:,} bytes."
    )


async def json_body(request: Request) -> bytes:
    """The body of a request that may have JSON for a body.

    Raises:
        ProblemError: 413, it is too large; 408, it does not arrive in time.
    """
    settings: AnySettings = request.app.state.settings
    return await _body(request, settings.json_limit)


async def _json_object(request: Request) -> Properties[Any]:
    body = await json_body(request)
    if not body:
        return Properties({})
    _require_type(request, _JSON, JSON_TYPE)
    return parsed_json(body)


def parsed_json(body: bytes) -> Properties[Any]:
    """The properties of the JSON object that `body` is.

    Raises:
        ProblemError: 400, it is none, it has too many values, or a member twice.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "The body has too many values",
            detail=f"Send at most {_MOST_VALUES:,} commas and opening brackets, those in texts included.",
        )
    try:
        value = json.loads(
            body, parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not well-formed JSON") from None
    if not isinstance(value, dict | None):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body must be a JSON object")
    return Properties(value or {})


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is Python's, and no JSON")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("The number is too long")
    return int(digits)


async def _form(request: Request) -> Properties[str]:
    body = await _body(request, _LARGEST_FORM)
    if not body:
        return Properties({})
    _require_type(request, _FORM, FORM_TYPE)
    return parsed_form(body)


def parsed_form(body: bytes) -> Properties[str]:
    """The fields of the form that `body` is.

    Raises:
        ProblemError: 400, it is none, it has too many fields, or one twice, with two values.
    """
    if body.count(b"&") >= _MOST_FIELDS:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "The form has too many fields",
            detail=f"Send at most {_MOST_FIELDS} fields.",
        )
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:  # replacing what is no UTF-8 would make one id of many
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not a well-formed form") from None
    return Properties(_distinct(fields))


JsonObject = Annotated[Properties[Any], Depends(_json_object)]
Form = Annotated[Properties[str], Depends(_form)]


BODY_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
"""How bodies are refused, for the documentation of endpoints that have one."""


def documented_body(
    model: type[BaseModel], media_type: str = JSON_TYPE, *, required: bool = True
) -> dict[str, Any]:
    """The OpenAPI description of a body that the endpoint reads by itself."""
    content = {media_type: {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}


def documented_list(member: str, items: dict[str, Any], most: int) -> dict[str, Any]:
    """The same of a body whose one member is a list of 1 to `most` items, which JSON Schema describes."""
    schema = {
        "type": "object",
        "properties": {member: {"type": "array", "minItems": 1, "maxItems": most, "items": items}},
        "required": [member],
    }
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}}}}


def _require_type(request: Request, accepted: re.Pattern[str], name: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if not accepted.fullmatch(media_type):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content type is not supported", detail=f"Send {name}."
        )
