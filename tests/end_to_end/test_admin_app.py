"""Ed-Fi Admin App, request by request as its releases 4.0.x and the newer builds send them.

It joins addresses as it does there, believes the number in `Location` to be the OdsInstanceId, and asks the
service directly, through a proxy that ends TLS, and through one that has it below a prefix.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from ods.settings.settings import DEFAULT_TENANT, Settings
from tests.api.server import ResponseModel, Server
from tests.end_to_end.steps import working
from tests.servers import make_tenant_settings

SECRET = "aB3!aB3!aB3!aB3!aB3!aB3!aB3!aB3!"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Way:
    """How Admin App reaches the service.

    Attributes:
        base: the address that its user has entered; None for the service's own.
        options: of the service.
        headers: what the proxy adds.
        removed: the prefix that the proxy removes.
    """

    base: str | None = None
    options: tuple[str, ...] = ()
    headers: Mapping[str, str] | None = None
    removed: str = ""


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
PROXY = ("--forwarded-allow-ips", "127.0.0.1")
WAYS = {
    "directly": Way(),
    "through TLS": Way("https://ods.example.org/", PROXY, FORWARDED | {"Host": "ods.example.org"}),
    "below a prefix": Way(
        "https://ods.example.org/admin/",
        (*PROXY, "--root-path", "/admin"),
        FORWARDED | {"Host": "internal:8000", "X-Forwarded-Host": "ods.example.org"},
        removed="/admin",
    ),
}


class AdminApp:
    """Its code, as far as it speaks to the service."""

    def __init__(self, service: Server, way: Way) -> None:
        self._service = service
        self._way = way
        self._admin_api_url = way.base or f"{service.url}/"
        self._headers: dict[str, str] = {}

    async def discover(self) -> list[str]:
        """Judge the service by its root, and learn the tenants."""
        told = (await self._ask("GET", self._admin_api_url)).json()
        assert int(told["version"].split(".")[0]) >= 2
        assert told["specificationVersion"] == "v2"
        tenancy = told["urls"]["tenancy"]
        assert urlsplit(tenancy)[:2] == urlsplit(self._admin_api_url)[:2]
        tenants: list[str] = (await self._ask("GET", tenancy)).json()["tenants"]
        assert told["tenancy"] == {"multitenantMode": bool(tenants), "tenants": tenants}
        return tenants or [DEFAULT_TENANT]

    async def log_in(self, tenant: str) -> None:
        """Register a client and get its token."""
        registration = {"ClientId": "client_x7", "ClientSecret": SECRET, "DisplayName": "AdminApp-v4-x7"}
        form = {"tenant": tenant, "Content-Type": FORM}
        address = f"{self._admin_api_url}/connect/register"
        assert (await self._ask("POST", address, form, urlencode(registration))).status == 200
        grant = {
            "client_id": "client_x7",
            "client_secret": SECRET,
            "grant_type": "client_credentials",
            "scope": "edfi_admin_api/full_access",
        }
        address = f"{self._admin_api_url.removesuffix('/')}/connect/token"
        answer = (await self._ask("POST", address, form, urlencode(grant))).json()
        assert int(answer["expires_in"]) - 60 > 0
        self._headers = {"Authorization": f"Bearer {answer['access_token']}", "tenant": tenant}

    async def call(self, method: str, path: str, status: int, body: object = None) -> ResponseModel:
        """Send a request below `v2/`."""
        address = f"{self._admin_api_url.removesuffix('/')}/v2/{path}"
        kind = {} if body is None else {"Content-Type": "application/json"}
        content = "" if body is None else json.dumps(body)
        answer = await self._ask(method, address, self._headers | kind, content)
        assert answer.status == status, answer.body
        return answer

    async def _ask(
        self, method: str, address: str, headers: Mapping[str, str] | None = None, body: str = ""
    ) -> ResponseModel:
        parts = urlsplit(address)
        path = (parts.path or "/").removeprefix(self._way.removed) or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        sent = {
            "Host": parts.netloc,
            "Accept": "application/json, text/plain, */*",
            "User-Agent": "axios/1.7.9",
            "Connection": "close",
            "Content-Length": str(len(body.encode())),
            **(headers or {}),
            **(self._way.headers or {}),
        }
        lines = (
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items()),
            "",
            body,
        )
        return ResponseModel.read(await self._service.answer("\r\n".join(lines).encode(), 60))


@pytest.mark.parametrize("tenant", [DEFAULT_TENANT, "tenant1"])
@pytest.mark.parametrize("way", WAYS)
async def test_instance_lives_and_dies_when_admin_app_asks(
    settings: Settings, own_temporal: Client, way: str, tenant: str
) -> None:
    several = settings if tenant == DEFAULT_TENANT else make_tenant_settings({tenant: settings})
    async with working(several, WAYS[way].options, own_temporal) as service:
        app = AdminApp(service, WAYS[way])
        assert await app.discover() == [tenant]
        await app.log_in(tenant)

        async def synchronised() -> list[dict[str, Any]]:
            view = (await app.call("GET", f"tenants/{tenant}/odsInstances/edOrgs", 200)).json()
            assert view["id"] == view["name"] == tenant
            instances: list[dict[str, Any]] = view["odsInstances"]
            return instances

        async def is_alone(status: str) -> bool:
            return [one["status"] for one in await synchronised()] == [status]

        async def is_refreshed() -> bool:
            return bool((await app.call("GET", f"jobs/{job}", 200)).json()["status"] == "Completed")

        assert await synchronised() == []
        job = (await app.call("POST", "odsInstances/edOrgs/refresh", 202)).json()["jobId"]
        await wait_until(is_refreshed, 60)

        new = {"name": "Grand Bend", "databaseTemplate": "Minimal"}
        location = (await app.call("POST", "odsInstances/manage", 202, new)).headers["location"]
        digits = re.search(r"\d+$", location)
        assert digits
        number = int(digits[0])
        await wait_until(lambda: is_alone("Created"), 60)
        (created,) = await synchronised()
        # It has filed ownerships under this number.
        assert created["id"] == created["odsInstanceManageId"] == number
        assert (created["name"], created["instanceType"]) == ("Grand Bend", "Minimal")

        listed = (await app.call("GET", "odsInstances?offset=0&limit=10000", 200)).json()
        assert listed == [{"id": number, "name": "Grand Bend", "instanceType": "Minimal"}]
        renamed = {"name": "Grand Bend 2028", "instanceType": "Minimal"}
        await app.call("PUT", f"odsInstances/{number}", 200, renamed)
        assert (await app.call("GET", f"odsInstances/{number}", 200)).json()["name"] == "Grand Bend 2028"
        assert [one["name"] for one in await synchronised()] == ["Grand Bend 2028"]

        await app.call("DELETE", f"odsInstances/manage/{number}", 204)
        await wait_until(lambda: is_alone("Deleted"), 60)
        assert (await app.call("GET", f"odsInstances/manage/{number}", 200)).json()["status"] == "Deleted"
        await app.call("GET", f"odsInstances/{number}", 404)
