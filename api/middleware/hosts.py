"""Which hosts requests may name, so that a page of another site cannot reach the API under its own name."""

import re
from http import HTTPStatus

from starlette.requests import HTTPConnection

from api.http.addresses import hosts
from api.http.problems import ProblemError

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+?)\.?(:[0-9]*)?", re.IGNORECASE)
_ANY = "*"


class AllowedHosts:
    """The names that requests may have for the service.

    Args:
        names: separated by commas; `*.example.org` for every subdomain, `*` for any name, as None does.
    """

    def __init__(self, names: str | None) -> None:
        allowed = {name.strip().lower() for name in (names or _ANY).split(",")}
        self._any = _ANY in allowed
        self._exact = allowed
        self._domains = tuple(name.removeprefix("*") for name in allowed if name.startswith("*."))

    def require(self, connection: HTTPConnection) -> None:
        """Let the request pass if its host is allowed, and that which its proxy was sent; whatever the port.

        Raises:
            ProblemError: 400, one is not.
        """
        if not self._any and not all(map(self._allows, hosts(connection))):
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                "This host is not served here",
                detail="Use a name that the operator allows (ODS_ALLOWED_HOSTS).",
            )

    def _allows(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = match[1].lower() if match else ""
        return name in self._exact or name.endswith(self._domains)
