"""Tokens of an Admin API on the same registry."""

from collections.abc import AsyncIterator

import httpx
import pytest

from embedded.postgres import EmbeddedPostgres
from tests.api.admin_api_tokens import ADMIN_API_ISSUER, admin_api_settings, admin_api_token
from tests.api.service import NOBODY, bearer, client_of, running
from tests.servers import make_settings


@pytest.fixture
async def client(prepared_postgres: EmbeddedPostgres, registry_dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that accepts these tokens."""
    settings = make_settings(prepared_postgres, registry_dsn, rate_limiting=False, **admin_api_settings())
    async with running(settings, NOBODY) as app, client_of(app) as client:
        assert (await client.get("/v2/jobs", headers=bearer(settings))).status_code == 200
        yield client


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/v2/odsInstances", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("issuer", [ADMIN_API_ISSUER, ADMIN_API_ISSUER.rstrip("/")])
async def test_token_is_accepted_when_the_admin_api_has_issued_it(
    client: httpx.AsyncClient, issuer: str
) -> None:
    assert (await ask(client, admin_api_token("a-client", issuer=issuer))).status_code == 200
    assert (await ask(client, admin_api_token("another", issuer=issuer))).status_code == 401
