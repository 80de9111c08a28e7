"""Finding the endpoint that a request means: paths and names of queries match in any case."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self
from urllib.parse import unquote_plus

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

from api.http.addresses import prefix_of
from api.http.problems import ProblemError

_MOST_FIELDS = 100  # of a query; each is looked at, whether or not the endpoint knows it
_ANY_CASE = re.IGNORECASE | re.ASCII  # of Latin letters: no other is in our paths
_SLASHES = re.compile("/{2,}")


@dataclass(frozen=True)
class _PathEntry:
    """A path of the API, its methods, and how its query names are spelled."""

    template: str
    pattern: re.Pattern[str]
    verbs: frozenset[str]
    queries: Mapping[str, str]

    @classmethod
    def of(cls, routes: Sequence[RouteContext]) -> Self:
        """The entry of these endpoints, which have one path."""
        template = str(routes[0].path_format)
        return cls(
            template=template,
            pattern=re.compile(routes[0].path_regex.pattern, _ANY_CASE),
            verbs=frozenset(verb for route in routes for verb in route.methods or ()),
            queries={
                name.lower(): name
                for route in routes
                if isinstance(route.original_route, APIRoute)
                for name in query_names(route.dependant)
            },
        )

    @property
    def parameters(self) -> list[bool]:
        """Of each part of the path, whether it may be anything; in order, those with words come first."""
        return [part.startswith("{") for part in self.template.split("/")]

    def spelled(self, path: str) -> str | None:
        """`path` as the endpoints spell it; None if it is another."""
        match = self.pattern.fullmatch(path)
        return self.template.format(**match.groupdict()) if match else None

    def query(self, asked: bytes) -> bytes:
        """The query `asked`, with the names as the endpoints spell them."""
        return b"&".join(self._pair(pair) for pair in asked.split(b"&"))

    def _pair(self, pair: bytes) -> bytes:
        name, equals, value = pair.partition(b"=")
        known = self.queries.get(unquote_plus(name.decode("latin-1")).lower())
        return pair if known is None else known.encode() + equals + value


_FOUND = "ods.route"
"""In the scope of a request: the template of its path."""


class RouteTable:
    """Every path of the API; a word in one (`manage`) wins over the parameter of another (`{id}`)."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        together: dict[str, list[RouteContext]] = {}
        for route in iter_route_contexts(routes):
            together.setdefault(str(route.path_format), []).append(route)
        entries = [_PathEntry.of(endpoints) for endpoints in together.values()]
        self._entries = sorted(entries, key=lambda entry: entry.parameters)

    def normalize(self, scope: Scope) -> None:
        """Make path and query of the request those of the endpoint that it means.

        Raises:
            ProblemError: 404, there is no such path; 405, the verb cannot be used there; 400, the query has
                too many fields.
        """
        entry, scope["path"] = self._find(scope)
        scope[_FOUND] = entry.template
        if scope["method"] not in entry.verbs:
            raise ProblemError.of_status(
                HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(sorted(entry.verbs))}
            )
        if scope["query_string"].count(b"&") >= _MOST_FIELDS:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                "The query has too many fields",
                detail=f"Send at most {_MOST_FIELDS} fields.",
            )
        scope["query_string"] = entry.query(scope["query_string"])

    def template_of(self, scope: Scope) -> str | None:
        """The template of the path that was asked for; None if there is no such path."""
        found: str | None = scope.get(_FOUND)
        if found is not None:
            return found
        try:
            return self._find(scope)[0].template  # it was refused before it was normalized
        except ProblemError:
            return None

    def _find(self, scope: Scope) -> tuple[_PathEntry, str]:
        path = path_of(scope).removesuffix("/") or "/"
        for entry in self._entries:
            if spelled := entry.spelled(path):
                return entry, prefix_of(scope) + spelled
        raise ProblemError.of_status(HTTPStatus.NOT_FOUND)


def path_of(scope: Scope) -> str:
    """The path that is asked for, without the service's prefix; slashes in a row count as one.

    uvicorn puts the prefix before every path, and a proxy may have left it there as well.
    """
    prefix, path = prefix_of(scope), _SLASHES.sub("/", scope["path"])
    return _below(prefix, _below(prefix, path))


def _below(prefix: str, path: str) -> str:
    """`path` without `prefix`, if it begins with that."""
    rest = path.removeprefix(prefix)
    return (rest or "/") if rest.startswith("/") or not rest else path


def query_names(endpoint: Dependant) -> Iterator[str]:
    """The names of the parameters that the endpoint reads from the query."""
    for parameter in get_flat_params(endpoint):
        if isinstance(parameter.field_info, Query):
            yield parameter.alias
