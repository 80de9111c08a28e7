"""Registering an API client, and getting a bearer token for it."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api.dependencies import ClientRegistrationDep, TokenGrantsDep
from api.http import problems
from api.http.audit_context import AuditContextDep
from api.http.parsing import BODY_REFUSALS, Form
from api.schemas.base import Done
from api.security.grants import GRANT_REFUSALS, TOKEN_BODY, TokenRequest
from api.security.registration import REGISTRATION_BODY

router = APIRouter(prefix="/connect", tags=["Connect"])


class Token(BaseModel):
    """A token, as OAuth 2.0 words it."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a kind of token
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(description="What it allows, separated by spaces.")


async def _admit_registration(request: Request, registration: ClientRegistrationDep) -> None:
    await registration.admit(request)


async def _admit_token(request: Request, grants: TokenGrantsDep) -> None:
    await grants.admit(request)


@router.post(
    "/register",
    dependencies=[Depends(_admit_registration)],
    openapi_extra=REGISTRATION_BODY,
    responses=problems.documented(*BODY_REFUSALS, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS),
)
async def register(form: Form, registration: ClientRegistrationDep, audit: AuditContextDep) -> Done:
    """Register an API client, while registration is open."""
    audit.client = await registration.register(form)
    return Done(title=f"Registered client {audit.client} successfully.", status=HTTPStatus.OK)


@router.post(
    "/token",
    response_model=Token,
    dependencies=[Depends(_admit_token)],
    openapi_extra=TOKEN_BODY,
    responses=problems.documented(*BODY_REFUSALS, HTTPStatus.TOO_MANY_REQUESTS) | GRANT_REFUSALS,
)
async def token(
    request: Request, asked: Annotated[TokenRequest, Depends(TokenRequest.read)], grants: TokenGrantsDep
) -> Response:
    """Issue a bearer token."""
    granted = await grants.grant(request, asked)
    answer = Token(access_token=granted.token, expires_in=granted.lifetime, scope=granted.scope).model_dump()
    return JSONResponse(answer, background=granted.afterwards)
