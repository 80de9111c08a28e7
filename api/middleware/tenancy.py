"""Which tenants there are, and which of them a request is for."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.http.problems import ProblemError
from api.tenant_services import Services
from ods.settings.settings import TENANT_NAME

HEADER = "tenant"

_ANONYMOUS = re.compile(
    r"/|/(health|livez|readyz)/?|/v2/tenancy/?|/openapi\.json/?|/docs(/.*)?|/console(/.*)?", re.IGNORECASE
)
"""The paths that belong to no tenant. On the console, the session of the client says which tenant it is."""


class Tenancy:
    """The services of every tenant.

    Args:
        services: of each.
        multi_tenant: whether requests name their tenant; else there is one, which every request is for.
    """

    def __init__(self, services: Iterable[Services], *, multi_tenant: bool) -> None:
        self.multi_tenant = multi_tenant
        self._services = {one.tenant.name.lower(): one for one in services}

    def __iter__(self) -> Iterator[Services]:
        return iter(self._services.values())

    @property
    def names(self) -> list[str]:
        """The names that requests have for the tenants; none if there is one, which they need not name."""
        return [one.tenant.name for one in self] if self.multi_tenant else []

    def named(self, name: str) -> Services | None:
        """The tenant of this name, in any case."""
        return self._services.get(name.lower()) if TENANT_NAME.fullmatch(name) else None

    def of(self, connection: HTTPConnection) -> Services | None:
        """The tenant that the request is for; None if it names none that there is."""
        if not self.multi_tenant:
            return next(iter(self))
        return self.named(_header(connection))


def tenancy(connection: HTTPConnection) -> Tenancy:
    """The tenants of this process."""
    found: Tenancy = connection.app.state.tenancy
    return found


async def _tenancy(connection: HTTPConnection) -> Tenancy:
    return tenancy(connection)


TenantsDep = Annotated[Tenancy, Depends(_tenancy)]


def require_tenant(connection: HTTPConnection, path: str) -> None:
    """Let the request pass if it is for a tenant, or for `path`, which belongs to none.

    Raises:
        ProblemError: 400, it has to name a tenant.
    """
    services = connection.scope["state"].get("services")
    if services is None and not _ANONYMOUS.fullmatch(path):
        raise ProblemError.invalid({"Tenant": [_fault(_header(connection))]})


def _header(connection: HTTPConnection) -> str:
    """What the header says; of several, together, which is the name of none."""
    return ",".join(connection.headers.getlist(HEADER)).strip()


def _fault(name: str) -> str:
    if not name:
        return "'Tenant' must not be empty. Send the name of your tenant in the header 'tenant'."
    if not TENANT_NAME.fullmatch(name):
        return "'Tenant' must have 1 to 50 letters (A to Z), digits and hyphens, and nothing else."
    return "'Tenant' must be the name of a tenant of this service, and there is none of that name."
