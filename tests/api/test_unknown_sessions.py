"""Cookies of no session, in any number, do not disturb the open pages of clients that are signed in."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from api.http.problems import ProblemError
from ods.console.session import find_session
from ods.console.session_ids import new_id
from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.console_sessions import digest_of
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api.service import client_of
from tests.api.test_shared_fragments import Operator, sign_in
from tests.servers import make_settings

STRANGER = "203.0.113.7"
COOKIES = 40_000
"""More than the driver takes as parameters of one query."""
AT_ONCE = 100


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """With limits of rates."""
    return make_settings(postgres, registry_dsn)


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[Operator]:
    async with AsyncExitStack() as stack:
        yield await sign_in(app, "an-operator", stack)


def former(operator: Operator, settings: Settings) -> dict[str, str]:
    """What an open page sends, with the cookie of a session that there is no more."""
    return sent(operator, new_id(settings.token_signing_keys))


def sent(operator: Operator, session_id: str) -> dict[str, str]:
    """What an open page sends with the cookie of this session."""
    (name,) = operator.browser.cookies
    cookie = f"{name}={DEFAULT_TENANT}.{session_id}"
    return {"Host": "127.0.0.1:8080", "HX-Request": "true", "Console-Live": "1", "Cookie": cookie}


async def is_refused(app: FastAPI, headers: dict[str, str]) -> bool:
    """Whether a session is not even looked up."""
    scope = {
        "type": "http",
        "app": app,
        "state": {},
        "method": "GET",
        "client": (STRANGER, 1),
        "scheme": "http",
        "server": None,
        "path": "/console/instances/rows",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    try:
        assert await find_session(HTTPConnection(scope)) is None
    except ProblemError as problem:
        return problem.status == HTTPStatus.TOO_MANY_REQUESTS
    return False


@pytest.mark.long
async def test_open_pages_stay_current_and_nothing_is_kept_when_a_stranger_invents_cookies(
    app: FastAPI, operator: Operator, settings: Settings
) -> None:
    await operator.fragment("/console/instances/rows")
    refused = 0
    for _ in range(COOKIES // AT_ONCE):
        refused += sum(
            await asyncio.gather(*(is_refused(app, former(operator, settings)) for _ in range(AT_ONCE)))
        )
    assert refused > COOKIES * 0.9
    (services,) = app.state.tenancy
    assert len(services.session_states) == 1
    await operator.fragment("/console/instances/rows")
    async with client_of(app, STRANGER) as stranger:
        for path in ("/console/instances/rows", "/console/live", "/console/jobs/rows"):
            answer = await stranger.get(path, headers=former(operator, settings))
            while (
                answer.status_code == HTTPStatus.UNAUTHORIZED
            ):  # some more requests are admitted each second
                answer = await stranger.get(path, headers=former(operator, settings))
            assert answer.status_code == HTTPStatus.TOO_MANY_REQUESTS, path
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.content == b""  # a page for the error would cost more than the look-up


async def test_operator_works_on_when_a_stranger_at_the_same_address_invents_cookies(
    app: FastAPI, operator: Operator
) -> None:
    async with client_of(app) as stranger:
        for _ in range(400):
            headers = sent(operator, secrets.token_urlsafe(32))
            answer = await stranger.get("/console/instances/rows", headers=headers)
            assert answer.status_code == HTTPStatus.UNAUTHORIZED
    (services,) = app.state.tenancy
    (cookie,) = operator.browser.cookies.values()
    services.session_states.forget(digest_of(cookie.partition(".")[2]))  # as if it was not used for long
    await operator.fragment("/console/instances/rows")
