"""Decrypting payloads for Temporal's Web UI and command line, by Temporal's remote codec protocol.

The Web UI is a page of another origin. A browser sends it the console's cookie along if both have the same
site, whatever the port; so do other pages of that site. Therefore the cookie counts for the origin of
`ODS_TEMPORAL_UI_URL` alone, whose pages are also the only ones that may read an answer.
"""

from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from temporalio.api.common.v1 import Payloads

from api.dependencies import SettingsDep
from api.http import problems
from api.http.audit_context import audit_context
from api.http.parsing import JsonObject
from api.http.problems import ProblemError
from api.security.tokens import authenticate
from api.tenant_services import services_of
from ods.temporal.codec import EncryptionCodec, UnreadablePayloadError

_HEADERS_OF_UI = "Authorization, Authorization-Extras, Content-Type, X-Namespace"
"""What the Web UI sends; the first two if it is told to pass its user's tokens on."""
_PREFLIGHT_SECONDS = 600
_MOST_PAYLOADS = 200
"""Of a request; reading that many takes 30 milliseconds. Web UI and command line send a few at once."""


class _CodecRoute(APIRoute):
    """An endpoint whose answers, refusals included, pages of the Web UI may read, and no others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint with the headers of cross-origin resource sharing."""
        endpoint = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except Exception as error:  # noqa: BLE001 - as `problems.install` does it
                response = await problems.answer(request, error)
            response.headers["Cache-Control"] = "no-store"
            response.headers["Vary"] = "Origin"
            if _is_from_ui(request):
                response.headers["Access-Control-Allow-Origin"] = request.headers["origin"]
                response.headers["Access-Control-Allow-Credentials"] = "true"
            return response

        return handle


router = APIRouter(prefix="/codec", route_class=_CodecRoute, include_in_schema=False)


async def _require_reader(request: Request) -> None:
    """Let a request pass whose token may read, or that the Web UI sends while a client is signed in.

    Raises:
        ProblemError: 401 without either, 403 with a token of another scope.
    """
    client = None if "authorization" in request.headers else await _signed_in_client(request)
    if client is None:
        services = services_of(request)
        await authenticate(request, services.verifier, services.tenant.name, reads=True)
    else:
        audit_context(request).client = client


async def _signed_in_client(request: Request) -> str | None:
    """The client or person that is signed in to the console, by name; None if another page asks."""
    find: Callable[[Request], Awaitable[str | None]] | None = request.app.state.signed_in_client
    return await find(request) if find is not None and _is_from_ui(request) else None


def _is_from_ui(request: Request) -> bool:
    origin = request.app.state.settings.temporal_ui_origin
    return origin is not None and request.headers.get("origin") == origin


async def _payloads(body: JsonObject) -> Payloads:
    return parsed_payloads(body.get("payloads"))


def parsed_payloads(value: object) -> Payloads:
    """The payloads that a JSON value is; fields of a later version of the protocol are left out.

    Raises:
        ProblemError: 400, it is none, or there are too many.
    """
    listed = [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(payload, dict) for payload in listed):
        raise _no_payloads()
    if len(listed) > _MOST_PAYLOADS:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "There are too many payloads",
            detail=f"Send at most {_MOST_PAYLOADS}.",
        )
    try:
        return ParseDict({"payloads": listed}, Payloads(), ignore_unknown_fields=True)
    except ParseError:
        raise _no_payloads() from None


def _no_payloads() -> ProblemError:
    return ProblemError(
        HTTPStatus.BAD_REQUEST,
        "These are no payloads",
        detail='Send {"payloads": [{"metadata": {"encoding": "…"}, "data": "…"}]}, values in base64.',
    )


@router.options("/decode")
async def allow_decode(request: Request) -> Response:
    """Tell a browser that a page of the Web UI may send payloads here."""
    if not _is_from_ui(request):
        raise ProblemError.of_status(HTTPStatus.FORBIDDEN)
    return Response(
        status_code=HTTPStatus.NO_CONTENT,
        headers={
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": _HEADERS_OF_UI,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        },
    )


@router.post("/decode", dependencies=[Depends(_require_reader)])
async def decode(payloads: Annotated[Payloads, Depends(_payloads)], settings: SettingsDep) -> Response:
    """Decrypt those payloads that are encrypted; the others come back as they are."""
    try:
        decoded = await EncryptionCodec(settings.payload_keys).decode(payloads.payloads)
    except UnreadablePayloadError:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "A payload cannot be decrypted",
            detail="It was changed, or neither ODS_PAYLOAD_KEY nor ODS_PAYLOAD_KEY_PREVIOUS has its key.",
        ) from None
    return JSONResponse({"payloads": [MessageToDict(payload) for payload in decoded]})


@router.post("/encode", dependencies=[Depends(_require_reader)])
async def encode(payloads: Annotated[Payloads, Depends(_payloads)]) -> Response:
    """Encrypt nothing: the command line asks for that before it sends a signal without input.

    Raises:
        ProblemError: 400, there is something to encrypt.
    """
    if payloads.payloads:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "Nothing is encrypted here",
            detail="The signals of this service take no input: leave it out.",
        )
    return JSONResponse({"payloads": []})
