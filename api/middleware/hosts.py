"""Which hosts requests may name, so that a page of another site cannot reach the API under its own name."""

import re
from http import HTTPStatus

from starlette.requests import HTTPConnection

from api.http.problems import ProblemError

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+?)\.?(:[0-9]*)?", re.IGNORECASE)
_ANY = "*"


class AllowedHosts:
    """The names that the header `Host` may have.

    Args:
        names: separated by commas; `*.example.org` for every subdomain, `*` for any name, as None does.
    """

    def __init__(self, names: str | None) -> None:
        allowed = {name.strip().lower() for name in (names or _ANY).split(",")}
        self._any = _ANY in allowed
        self._exact = allowed
        self._domains = tuple(name.removeprefix("*") for name in allowed if name.startswith("*."))

    def require(self, connection: HTTPConnection) -> None:
        """Let the request pass if its host is allowed, whatever the port.

        Raises:
            ProblemError: 400, it is not.
        """
        if self._any:
            return
        match = _HOST.fullmatch(connection.headers.get("host", ""))
        name = match[1].lower() if match else ""
        if name not in self._exact and not name.endswith(self._domains):
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                "This host is not served here",
                detail="Use a name that the operator allows (ODS_ALLOWED_HOSTS).",
            )
