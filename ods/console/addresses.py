"""Addresses within the console, as the browser reaches them: below the prefix that a proxy has for it."""

import re
from urllib.parse import urlencode

from starlette.requests import HTTPConnection

from api.http.addresses import prefix_of

ROOT = "/console"
"""Where the console is, below the service's own prefix."""
_PATH = re.compile(rf"{ROOT}(?:/[\w.~%/-]*)?(?:\?[\w.~%&=+:,-]*)?", re.ASCII)
"""A page of the console, with or without a query; never the address of another site."""


def page_url(connection: HTTPConnection, path: str = "", **query: object) -> str:
    """The address of a page.

    Args:
        connection: the request that is answered.
        path: the page's path below the console, as in `/instances`.
        query: the fields of the query; those that are empty or None are left out.
    """
    fields = {name: value for name, value in query.items() if value not in {None, ""}}
    asked = f"?{urlencode(fields, doseq=True)}" if fields else ""
    return f"{prefix_of(connection.scope)}{ROOT}{path}{asked}"


def own_path(path: str) -> str | None:
    """`path` if it is that of a page of the console, without the service's prefix; else None."""
    return path if _PATH.fullmatch(path) and ".." not in path and "//" not in path else None
