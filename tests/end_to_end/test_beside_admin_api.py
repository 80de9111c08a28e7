"""Ed-Fi Admin App with one address: nginx with deploy/proxy/nginx.conf, before an Admin API and this service.

The Admin API is a stand-in, which registers clients in the shared registry and signs tokens as the real one.
"""

import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import DEFAULT_TENANT, AnySettings
from tests import registries
from tests.admin_api import VENDORS, AdminApi
from tests.api.admin_api_tokens import admin_api_settings
from tests.end_to_end.steps import working
from tests.ods import connection_string
from tests.reverse_proxy import Nginx
from tests.secret_search import as_secret
from tests.servers import make_settings, make_tenant_settings
from tests.stand_in import serving

pytestmark = pytest.mark.long  # Debian's package is fetched where nginx is not installed

SECRET = as_secret("aB3!of-the-Admin-App-aB3!aB3!aB3!")
PROXY = ("--forwarded-allow-ips", "127.0.0.1")


class AdminApp:
    """Its code for a tenant: what it asks under the one address, with the one token.

    Args:
        url: the address that its user has entered.
        trust: for the certificate there.
        tenant: the tenant.
    """

    def __init__(self, url: str, trust: ssl.SSLContext, tenant: str) -> None:
        self._url = url
        self._trust = trust
        self._tenant = tenant
        self._id = f"app-of-{tenant}"
        self._client = httpx.AsyncClient(
            verify=trust, headers={"tenant": tenant, "User-Agent": "axios/1.7.9"}
        )
        self._token: dict[str, str] = {}

    async def register(self) -> None:
        """Have the Admin API know its client."""
        registration = {"ClientId": self._id, "ClientSecret": SECRET, "DisplayName": "Ed-Fi Admin App"}
        assert (
            await self._client.post(f"{self._url}//connect/register", data=registration)
        ).status_code == 200

    async def log_in(self, url: str | None = None) -> None:
        """Get a token; of the one address, unless another is said."""
        grant = {
            "client_id": self._id,
            "client_secret": SECRET,
            "grant_type": "client_credentials",
            "scope": "edfi_admin_api/full_access",
        }
        answer = await self._client.post(f"{url or self._url}/connect/token", data=grant)
        assert answer.status_code == 200
        self._token = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def tenants(self) -> list[str]:
        """Those that the root names, and the address there, which must be of the same origin."""
        root = (await self._client.get(f"{self._url}/", headers=self._token)).json()
        assert int(root["version"].split(".")[0]) >= 2
        address = root["urls"]["tenancy"]
        assert urlsplit(address)[:2] == urlsplit(self._url)[:2]
        async with httpx.AsyncClient(verify=self._trust) as anonymous:
            names: list[str] = (await anonymous.get(address)).json()["tenants"]
        assert root["tenancy"] == {"multitenantMode": bool(names), "tenants": names}
        return names or [DEFAULT_TENANT]

    async def call(
        self, verb: str, path: str, status: int, body: object = None, tenant: str | None = None
    ) -> httpx.Response:
        """Send a request below `v2/`, if need be for another tenant."""
        headers = self._token | {"tenant": tenant or self._tenant}
        answer = await self._client.request(verb, f"{self._url}/v2/{path}", headers=headers, json=body)
        assert answer.status_code == status, answer.text
        return answer

    async def told(self, path: str) -> Any:
        """What is there."""
        return (await self.call("GET", path, 200)).json()

    async def synchronised(self) -> list[dict[str, Any]]:
        """The ODS instances of the tenant."""
        view = await self.told(f"tenants/{self._tenant}/OdsInstances/edOrgs")
        assert view["id"] == self._tenant
        instances: list[dict[str, Any]] = view["odsInstances"]
        return instances

    async def refresh(self, scope: str) -> None:
        """Have education organizations read, and wait."""
        job = (await self.call("POST", f"odsInstances/{scope}edOrgs/refresh", 202)).json()["jobId"]

        async def is_done() -> bool:
            return (await self.told(f"jobs/{job}"))["status"] not in {"Pending", "InProgress"}

        await wait_until(is_done, 60)
        assert (ended := await self.told(f"jobs/{job}"))["status"] == "Completed", ended["errorMessage"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


async def manage_an_instance(app: AdminApp) -> None:
    """Create one, look at it as Admin App does, and delete it."""

    async def is_alone(status: str) -> bool:
        return [one["status"] for one in await app.synchronised()] == [status]

    assert await app.synchronised() == []
    new = {"name": "Grand Bend", "databaseTemplate": "Sample"}
    location = (await app.call("POST", "odsInstances/manage", 202, new)).headers["Location"]
    digits = re.search(r"\d+$", location)
    assert digits
    number = int(digits[0])
    await wait_until(lambda: is_alone("Created"), 60)
    assert [one["id"] for one in await app.synchronised()] == [number]

    await app.refresh("")
    await app.refresh(f"{number}/")
    for path in ("odsInstances/edOrgs?offset=0&limit=10000", f"odsInstances/{number}/edOrgs"):
        (listed,) = await app.told(path)
        assert (listed["id"], listed["name"]) == (number, "Grand Bend")
        assert listed["educationOrganizations"]

    await app.call("DELETE", f"odsInstances/manage/{number}", 204)
    await wait_until(lambda: is_alone("Deleted"), 60)
    assert (await app.told(f"odsInstances/manage/{number}"))["status"] == "Deleted"


@pytest.fixture
async def second_registry_dsn(prepared_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    async with registries.cloned(prepared_postgres) as dsn:
        yield dsn


@pytest.fixture(params=["", "/edfi"], ids=["at the root", "below a prefix"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Nginx:
    return Nginx(tmp_path, request.param)


@pytest.fixture(params=[False, True], ids=["one tenant", "several tenants"])
def settings_beside(
    request: pytest.FixtureRequest,
    prepared_postgres: EmbeddedPostgres,
    registry_dsn: str,
    second_registry_dsn: str,
    proxy: Nginx,
) -> AnySettings:
    """Of a service that accepts the tokens of the Admin API behind the proxy."""
    accepting = admin_api_settings(admin_api_issuer=proxy.url)
    # As the owner of the templates' tables, who may read education organizations.
    readable = {"instance_connection_string": connection_string(prepared_postgres.port, "any")}
    if not request.param:
        return make_settings(prepared_postgres, registry_dsn, **accepting, **readable)
    tenants = {
        "tenant1": make_settings(prepared_postgres, registry_dsn, **readable),
        "tenant2": make_settings(prepared_postgres, second_registry_dsn, **readable),
    }
    return make_tenant_settings(tenants, **accepting)


async def test_admin_app_manages_vendors_and_instances_with_one_token_under_one_address(
    settings_beside: AnySettings, own_temporal: Client, proxy: Nginx
) -> None:
    registries_of = {
        name if settings_beside.multi_tenant else None: tenant.admin_dsn.get_secret_value()
        for name, tenant in settings_beside.tenants.items()
    }
    # .NET writes a slash after a bare host.
    admin_api = AdminApi(proxy.url if proxy.prefix else f"{proxy.url}/", registries_of, proxy.prefix)
    below = ("--root-path", proxy.prefix) if proxy.prefix else ()
    async with (
        working(settings_beside, (*PROXY, *below), own_temporal) as service,
        serving(admin_api) as address,
    ):
        proxy.configure(service.url, address)
        async with proxy.running():
            for tenant in settings_beside.tenants:
                async with AdminApp(proxy.url, proxy.trust, tenant) as app:
                    await app.call("GET", "vendors", 401)
                    await app.call("GET", "odsInstances", 401)
                    await app.register()
                    await app.log_in(service.url)  # also directly, which keeps the Admin API's hash
                    await app.log_in()
                    assert await app.tenants() == [*settings_beside.tenants]
                    assert await app.told("vendors?offset=0&limit=10000") == VENDORS
                    await manage_an_instance(app)
                    await check_headers(app, tenant)
                    for other in {*settings_beside.tenants} - {tenant}:
                        await app.call("GET", "odsInstances", 401, tenant=other)
    told_of_instances = [asked for asked in admin_api.asked if "nstances" in asked or "jobs" in asked]
    assert told_of_instances == []


async def check_headers(app: AdminApp, tenant: str) -> None:
    """Each protective header comes once, and the service knows that its client uses TLS."""
    answer = await app.call("GET", "jobs", 200)
    for name in ("Content-Security-Policy", "Cache-Control", "Strict-Transport-Security"):
        assert len(answer.headers.get_list(name)) == 1, name
    page = await app.call("GET", f"tenants/{tenant}", 200)
    assert page.headers.get_list("X-Content-Type-Options") == ["nosniff"]
