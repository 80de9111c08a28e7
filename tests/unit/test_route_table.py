"""Which endpoint a request means."""

from http import HTTPStatus
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from api.http.problems import ProblemError
from api.middleware.route_table import RouteTable

router = APIRouter(prefix="/v2/things")


@router.get("/{thing}")
@router.delete("/{thing}")
def one(thing: str, orderBy: str = "") -> None:  # noqa: N803 - the query's own word
    """Anything."""


@router.get("/manage")
@router.get("")
def several(limit: int = 0) -> None:
    """Several."""


@pytest.fixture
def places() -> RouteTable:
    app = FastAPI()
    app.include_router(router)
    return RouteTable(app.routes)


def scope(path: str, query: bytes = b"", method: str = "GET", root_path: str = "") -> dict[str, Any]:
    return {"path": path, "query_string": query, "method": method, "root_path": root_path}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/V2/THINGS/", "/v2/things"),
        ("//V2///things//", "/v2/things"),
        ("/v2/Things/aB", "/v2/things/aB"),
        ("/v2/things/aB/", "/v2/things/aB"),
        ("/v2/things/{x}", "/v2/things/{x}"),
        ("/v2/things/MANAGE", "/v2/things/manage"),
        ("/v2/things/manager", "/v2/things/manager"),
        ("/OpenAPI.json", "/openapi.json"),
    ],
)
def test_path_is_spelled_as_the_endpoint_spells_it_when_it_comes_in_another_case(
    places: RouteTable, asked: str, meant: str
) -> None:
    request = scope(asked)
    places.normalize(request)
    assert request["path"] == meant


@pytest.mark.parametrize(
    "path",
    ["/", "/v2", "/v2/things/a/b", "/v2/things/a/b/", "/ /v2/things", "/v2/things\n", "/v2/thing\u017f"],
)
def test_path_is_not_found_when_no_endpoint_has_it(places: RouteTable, path: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        places.normalize(scope(path))
    assert refusal.value.status is HTTPStatus.NOT_FOUND


def test_all_verbs_of_the_path_are_told_when_the_verb_is_wrong(places: RouteTable) -> None:
    with pytest.raises(ProblemError) as refusal:
        places.normalize(scope("/v2/things/1", method="PUT"))
    assert refusal.value.status is HTTPStatus.METHOD_NOT_ALLOWED
    assert refusal.value.headers == {"Allow": "DELETE, GET"}


def test_word_wins_over_parameter_when_only_the_parameter_has_the_verb(places: RouteTable) -> None:
    with pytest.raises(ProblemError) as refusal:
        places.normalize(scope("/v2/things/manage", method="DELETE"))
    assert refusal.value.status is HTTPStatus.METHOD_NOT_ALLOWED
    assert refusal.value.headers == {"Allow": "GET"}


@pytest.mark.parametrize(
    ("path", "asked", "meant"),
    [
        ("/v2/things/1", b"ORDERBY=Name&x=y", b"orderBy=Name&x=y"),
        ("/v2/things/1", b"order%42y=%4E&orderby", b"orderBy=%4E&orderBy"),
        ("/v2/things/1", b"Limit=1&&=", b"Limit=1&&="),
        ("/v2/things", b"Limit=1", b"limit=1"),
        ("/v2/things", b"\xff=1&%ff=1", b"\xff=1&%ff=1"),
    ],
)
def test_names_of_queries_are_spelled_as_the_endpoint_spells_them_when_they_come_in_another_case(
    places: RouteTable, path: str, asked: bytes, meant: bytes
) -> None:
    request = scope(path, asked)
    places.normalize(request)
    assert request["query_string"] == meant


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/ods/V2/things", "/ods"),
        ("/ods//v2//things", "/ods"),
        ("/ods/ods/v2/things", "/ods"),  # the proxy has left the prefix, and uvicorn has put it there as well
        ("/ods//v2/things", "/ods/"),
        ("/v2/things", "/ods"),
    ],
)
def test_path_of_a_mounted_service_is_found_when_a_proxy_has_put_something_before_it(
    places: RouteTable, path: str, root_path: str
) -> None:
    request = scope(path, root_path=root_path)
    places.normalize(request)
    assert request["path"] == "/ods/v2/things"


@pytest.mark.parametrize("path", ["/odsv2/things", "/other/v2/things", "/ods/ods/ods/v2/things"])
def test_path_is_not_found_when_it_is_below_another_prefix(places: RouteTable, path: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        places.normalize(scope(path, root_path="/ods"))
    assert refusal.value.status is HTTPStatus.NOT_FOUND
