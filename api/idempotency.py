"""Requests that clients may repeat safely: under the same `Idempotency-Key` they are carried out once.

A router whose endpoints change something has `JobRoute` for its routes, and each endpoint that starts a job
declares `STARTS_A_JOB` among its dependencies. The rest is done here. Parameters that an endpoint does not
know are refused: without a misspelt one, more might be dropped than the client means. Endpoints that clients
of the Admin API use declare `OF_ADMIN_API`, and ignore what such clients, or their gateways, may add.

The transaction in which a key is kept holds a connection of the registry. What an endpoint asks of another
server, which may be slow, it asks before (`asks_first`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from api.http import problems
from api.http.audit_context import audit_context
from api.http.parsing import json_body, member_names, shown_name
from api.http.problems import ProblemError, in_words, pascal
from api.middleware.route_table import query_names
from api.tenant_services import services_of
from ods.registry.idempotency_keys import LONGEST_KEY, KeyedRequest, StoredAnswer

DRY_RUN = "dryRun"
"""The parameter of the query with which a client only asks what would happen."""

_OF_DELETE = frozenset({"purge", "detach", "finalbackup"})
"""Parameters of `DELETE /v2/dbInstances/{id}`, as `_letters`: a delete that ignored one might drop more."""
_HEADER = "Idempotency-Key"
_COMPUTED = "content-length"
"""The header that each answer gets anew."""
_READING = {"GET", "HEAD"}
_BOOLEAN = TypeAdapter(bool)
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


async def _document_key(
    key: Annotated[
        str | None,
        Header(
            alias=_HEADER,
            max_length=LONGEST_KEY,
            description="Any text that the client chooses. The same request under the same key gets the same"
            " answer for 24 hours, and starts no other job.",
        ),
    ] = None,
) -> None:
    """Describe the header; `JobRoute` reads it."""


STARTS_A_JOB: Any = Depends(_document_key)
"""The dependency of an endpoint that starts a job."""


async def _mark() -> None:
    """Do nothing; `JobRoute` looks whether an endpoint depends on it."""


OF_ADMIN_API: Any = Depends(_mark)
"""The dependency of an endpoint that clients of Ed-Fi's Admin API use."""

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_Question = Callable[[Request], Awaitable[object]]

_questions: dict[Callable[..., Any], _Question] = {}


def asks_first(question: _Question) -> Callable[[_Endpoint], _Endpoint]:
    """Have `question` awaited for each new request to an endpoint, before a transaction is open.

    What it raises is the answer to the request.
    """

    def keep(endpoint: _Endpoint) -> _Endpoint:
        _questions[endpoint] = question
        return endpoint

    return keep


class JobRoute(APIRoute):
    """A route whose endpoint, if it starts a job, is called once for each `Idempotency-Key`.

    A change with parameters that its endpoint does not know, or with one twice, is refused; so is one with
    a body that its endpoint does not read.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dependencies: Sequence[params.Depends] | None = None,
        responses: dict[int | str, dict[str, Any]] | None = None,
        openapi_extra: dict[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> None:
        self._starts_a_job = STARTS_A_JOB in (dependencies or ())
        self._reads_a_body = "requestBody" in (openapi_extra or {})
        refusals = problems.documented(*_REFUSALS) if self._starts_a_job else {}
        super().__init__(
            path,
            endpoint,
            dependencies=dependencies,
            responses={**refusals, **(responses or {})},
            openapi_extra=openapi_extra,
            **options,
        )
        self._question = _questions.get(endpoint)
        self._is_of_admin_api = OF_ADMIN_API in (dependencies or ())
        self._parameters = set(query_names(self.dependant))
        # A header in the query is misplaced, as a misspelt name is.
        names = (DRY_RUN, *(it.alias for it in get_flat_params(self.dependant)))
        own = {_letters(name) for name in names}
        is_admin_delete = self._is_of_admin_api and "DELETE" in (self.methods or ())
        self._misplaced = _OF_DELETE - own if is_admin_delete else frozenset()
        self._own_letters = own | self._misplaced

    def get_route_handler(self) -> _Handler:
        """Have the handler of the endpoint called when the request is new."""
        handler = super().get_route_handler()
        if _READING.issuperset(self.methods or ()):
            return handler

        async def handle(request: Request) -> Response:
            self._require_known(request)
            if not self._reads_a_body:
                await self._require_no_members(request)
            if not self._starts_a_job:
                return await handler(request)
            audit_context(request).is_dry_run = is_dry_run(request)
            if (key := _key(request)) is not None:
                return await _once(request, key, handler, self._question)
            if self._question is not None:
                await self._question(request)
            return await handler(request)

        return handle

    def _require_known(self, request: Request) -> None:
        """Refuse unknown parameters, and known ones that are given twice: only the last would count.

        Raises:
            ProblemError: 400.
        """
        given = [name for name, _ in request.query_params.multi_items()]
        if DRY_RUN not in self._parameters and any(name.lower() == DRY_RUN.lower() for name in given):
            raise ProblemError.invalid({pascal(DRY_RUN): ["There is no dry run of this request."]})
        if repeated := [name for name in given if name in self._parameters and given.count(name) > 1]:
            raise ProblemError.invalid(
                {pascal(name): [f"'{in_words(pascal(name))}' must be given once."] for name in repeated}
            )
        if refused := self._refused(request.query_params.keys()):
            shown = shown_name(refused[0])
            reason = f"There is no parameter '{shown}' of this request."
            if _letters(refused[0]) in self._misplaced:
                reason += " DELETE /v2/dbInstances/{id} takes purge, detach and finalBackup."
            raise ProblemError.invalid({shown: [reason]})

    async def _require_no_members(self, request: Request) -> None:
        """Refuse members in a body that the endpoint does not read: without them, more may be done.

        Those that a client of the Admin API may send, and that are none of ours, are ignored.

        Raises:
            ProblemError: 400.
        """
        names = member_names(await whole_body(request))
        if self._is_of_admin_api:
            names = [name for name in names if _letters(name) in self._own_letters]
        if names:
            shown = shown_name(names[0])
            reason = (
                f"This request takes no body, but its body has '{shown}'. What it takes is given in its"
                " query."
            )
            raise ProblemError.invalid({shown: [reason]})

    def _refused(self, names: Collection[str]) -> list[str]:
        """Those parameters of a query with these `names` for which it is refused.

        A client of the Admin API sends none of ours: only beside one, or misspelling one, another is refused;
        and to a delete, those of `DELETE /v2/dbInstances/{id}`, which it would ignore.
        """
        unknown = [name for name in names if name not in self._parameters]
        if self._is_of_admin_api and len(unknown) == len(names):
            return [name for name in unknown if _letters(name) in self._own_letters]
        return unknown


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name)).lower()


async def _once(request: Request, key: str, handler: _Handler, question: _Question | None) -> Response:
    """The stored answer to the request; if there is none, that of `handler`, stored with what it changes.

    What `handler` refuses changes nothing, and leaves the key as it was. So does a dry run; of a request that
    was answered already, it tells that answer: the request would get it, and do nothing.
    """
    body = await whole_body(request)  # which may take a while: before a transaction is open
    keyed = KeyedRequest(_client(request), key, _digest(request, body))
    keys = services_of(request).idempotency_keys
    if is_dry_run(request):
        answer = await keys.answer_to(keyed)
        return await handler(request) if answer is None else _response(answer)
    if question is not None:
        if (answer := await keys.answer_to(keyed)) is not None:
            return _response(answer)
        await question(request)
    async with keys.reserved(keyed) as reservation:
        if reservation.answer is not None:
            response = _response(reservation.answer)
        else:
            response = await handler(request)
            await reservation.store(_answer(response))
    return response


def is_dry_run(request: Request) -> bool:
    """Whether the request is a dry run, as the endpoint reads it; what is neither, the endpoint refuses."""
    try:
        return _BOOLEAN.validate_python(request.query_params.get(DRY_RUN, "false"))
    except ValidationError:
        return True


def _key(request: Request) -> str | None:
    """The key of the request, if it has one.

    Raises:
        ProblemError: 400, it has several, or one that is empty or too long.
    """
    keys = request.headers.getlist(_HEADER)
    if not keys:
        return None
    key = keys[0]
    if len(keys) == 1 and 1 <= len(key) <= LONGEST_KEY:
        return key
    raise ProblemError.invalid(
        {"IdempotencyKey": [f"'Idempotency Key' must be one text of 1 to {LONGEST_KEY} characters."]}
    )


async def whole_body(request: Request) -> bytes:
    """The body, which the endpoint can read again."""
    body = await json_body(request)
    request._body = body  # noqa: SLF001 - where Starlette keeps a body that was read
    return body


def _client(request: Request) -> str:
    return audit_context(request).client or ""


def _digest(request: Request, body: bytes) -> bytes:
    """SHA-256 of method, path, query without `dryRun`, and body; the length of each says where it ends."""
    digest = hashlib.sha256()
    scope = request.scope
    pairs = [
        pair for pair in scope["query_string"].split(b"&") if pair.partition(b"=")[0] != DRY_RUN.encode()
    ]
    for part in (scope["method"].encode(), scope["path"].encode(), b"&".join(pairs), body):
        digest.update(f"{len(part)}:".encode() + part)
    return digest.digest()


def _answer(response: Response) -> StoredAnswer:
    headers = {name: value for name, value in response.headers.items() if name != _COMPUTED}
    return StoredAnswer(response.status_code, headers, bytes(response.body))


def _response(answer: StoredAnswer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
