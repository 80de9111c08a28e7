"""An existing client of the Admin API, from its registration until its instance is gone."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.settings.settings import DEFAULT_TENANT, AnySettings, Settings
from tests.api.service import served
from tests.secret_search import as_secret
from tests.servers import make_tenant_settings

SECRET = as_secret("A-secret-of-32-characters-or-more-1!")
MANAGE = "/v2/odsInstances/manage"


@pytest.fixture(params=[DEFAULT_TENANT, "tenant1"])
def tenant(request: pytest.FixtureRequest) -> str:
    """The only tenant, or one of several."""
    return str(request.param)


@pytest.fixture
def served_settings(settings: Settings, tenant: str) -> AnySettings:
    """A service for that tenant."""
    return settings if tenant == DEFAULT_TENANT else make_tenant_settings({tenant: settings})


class AdminApp:
    """The client, which knows the contract and nothing else of the service."""

    def __init__(self, client: httpx.AsyncClient, tenant: str) -> None:
        self._client = client
        self._tenant = tenant

    async def log_in(self) -> None:
        self._client.headers["Tenant"] = self._tenant
        registration = {"ClientId": "admin-app", "ClientSecret": SECRET, "DisplayName": "Admin App"}
        assert (await self._client.post("/connect/register", data=registration)).status_code == 200
        grant = {
            "grant_type": "client_credentials",
            "scope": "edfi_admin_api/full_access",
            "client_id": "admin-app",
            "client_secret": SECRET,
        }
        token = (await self._client.post("/connect/token", data=grant)).json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    async def ask(
        self, method: str, path: str, status: int, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        answer = await self._client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer

    async def until(self, status: str) -> dict[str, Any]:
        """The only ODS instance of the tenant's view, once it has this status."""
        found: dict[str, Any] = {}

        async def has_it() -> bool:
            view = (await self.ask("GET", f"/v2/tenants/{self._tenant}/odsInstances/edOrgs", 200)).json()
            found.update(view["odsInstances"][0])
            return bool(found["status"] == status)

        await wait_until(has_it, 30)
        return found


async def test_instance_lives_and_dies_when_a_client_follows_the_contract(
    served_settings: AnySettings, tenant: str, own_temporal: Client
) -> None:
    async with served(served_settings, own_temporal) as client:
        app = AdminApp(client, tenant)
        await app.log_in()
        assert (await app.ask("GET", "/v2/odsInstances", 200)).json() == []
        wanted = {"name": "Grand Bend", "databaseTemplate": "Minimal"}
        path = f"/v2{(await app.ask('POST', MANAGE, 202, wanted)).headers['Location']}"
        created = await app.until("Created")
        assert (created["name"], created["databaseName"]) == ("Grand Bend", "EdFi_Ods_Grand_Bend_Minimal")

        context = {"odsInstanceId": created["id"], "contextKey": "schoolYear", "contextValue": "2027"}
        await app.ask("POST", "/v2/odsInstanceContexts", 201, context)
        await app.ask("DELETE", path, 204)
        assert (await app.until("Deleted"))["odsInstanceManageId"] == created["odsInstanceManageId"]
        assert (await app.ask("GET", path, 200)).json()["status"] == "Deleted"
        await app.ask("DELETE", path, 404)
        assert (await app.ask("GET", "/v2/odsInstanceContexts", 200)).json() == []
