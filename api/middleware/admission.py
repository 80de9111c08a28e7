"""The checks that every request passes before its endpoint, in the order agreed with clients."""

import logging
import re
from http import HTTPStatus

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http import problems
from api.http.problems import ProblemError
from api.middleware import shedding
from api.middleware.audit import READING
from api.middleware.hosts import AllowedHosts
from api.middleware.route_table import RouteTable, path_of
from api.middleware.tenancy import require_tenant, tenancy
from api.security.tokens import authenticate
from api.tenant_services import Services, services_of
from ods.observability.logs import fault_name
from ods.registry.storage.errors import InstallationNotConfirmedError

_OTHER_VERSION = re.compile(r"/v[13]/", re.IGNORECASE)
_logger = logging.getLogger(__name__)

_READ_BY_TOKEN = {"GET", "HEAD"}
"""Methods for which a token that may only read suffices."""
_RECOVERY = re.compile(r"/v2/recovery/?\Z", re.IGNORECASE)
"""Where the installation is confirmed."""
_PROTECTED = re.compile(r"/v2(?!/tenancy/?\Z)(/|\Z)", re.IGNORECASE)


class ProtocolMiddleware:
    """Lets a request through to the endpoint that it means, or answers why not."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, route_table: RouteTable) -> None:
        self._app = app
        self._hosts = hosts
        self._route_table = route_table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with shedding.counted_request(scope):
            try:
                await self._admit(HTTPConnection(scope))
            except ProblemError as refusal:
                response = await problems.answer(Request(scope), refusal)
                await response(scope, receive, send)
                return
            await self._app(scope, receive, send)

    async def _admit(self, connection: HTTPConnection) -> None:
        """Let the request pass.

        Raises:
            ProblemError: it may not. The first of these checks that it fails decides the answer.
        """
        self._hosts.require(connection)
        path = path_of(connection.scope)
        connection.scope["state"]["services"] = tenancy(connection).of(connection)
        _require_version(path)
        require_tenant(connection, path)
        is_protected = _PROTECTED.match(path)
        if is_protected:
            services = services_of(connection)
            method = connection.scope["method"]
            reads = method in _READ_BY_TOKEN
            await authenticate(connection, services.verifier, services.tenant.name, reads=reads)
            if method not in READING and not _RECOVERY.match(path):
                await require_confirmed(services)
        self._route_table.normalize(connection.scope)
        if is_protected:
            await shedding.admit(connection)


async def require_confirmed(services: Services) -> None:
    """Refuse to change a registry that was copied or moved, until its operator says what it is.

    Raises:
        ProblemError: 503, the operator has not said it yet.
    """
    try:
        await services.tenant.instances.installation.require_confirmed()
    except InstallationNotConfirmedError as obstacle:
        raise problems.explained(obstacle) from None
    except Exception as error:  # noqa: BLE001 - the registry is away: the endpoint answers that as always
        _logger.info("Whether the installation is confirmed is not known: %s", fault_name(error))


def _require_version(path: str) -> None:
    if _OTHER_VERSION.search(path):
        raise _WrongVersionError


class _WrongVersionError(ProblemError):
    """A request for another version of the Admin API."""

    def __init__(self) -> None:
        message = "Wrong API version for this instance mode."
        super().__init__(HTTPStatus.BAD_REQUEST, message)
        self.content = {"message": message}
