"""Which service the files in deploy/proxy send each path to, held against the paths that this service has."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from api.app import app_with
from ods.settings.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "proxy"
NOT_OURS = {"/", "/connect/register", "/connect/token"}
"""Paths of this service that the Admin API answers: one address gives one kind of token."""
ADMIN_API = [
    *("/", "/connect/register", "/connect/token", "/.well-known/openid-configuration"),
    *("/swagger", "/swagger/index.html", "/swagger/v2/swagger.json"),
    *("/v2/vendors", "/v2/vendors/{id}", "/v2/vendors/{id}/applications"),
    *("/v2/applications", "/v2/applications/{id}", "/v2/applications/{id}/reset-credential"),
    *("/v2/apiclients", "/v2/apiclients/{id}", "/v2/apiclients/{id}/reset-credential"),
    *("/v2/profiles", "/v2/profiles/{id}", "/v2/actions", "/v2/authorizationStrategies"),
    *("/v2/claimSets", "/v2/claimSets/{id}", "/v2/claimSets/{id}/export", "/v2/claimSets/copy"),
    "/v2/claimSets/import",
    "/v2/claimSets/{id}/resourceClaimActions/{resourceClaimId}/overrideAuthorizationStrategy",
    *("/v2/resourceClaims", "/v2/resourceClaims/{id}", "/v2/resourceClaimActions"),
    "/v2/resourceClaimActionAuthStrategies",
]
"""What Admin App and scripts ask the Admin API for, and this service does not have."""
_MAP = re.compile(r"^map \$path \$service \{\n(.+?)^\}", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^    (?:(?P<default>default)|~\*(?P<pattern>\S+)) \$(?P<service>ods|admin_api);$")
_MATCHER = re.compile(r"^\t@admin_api \{\n(.+?)^\t\}", re.MULTILINE | re.DOTALL)


def by_nginx(path: str) -> bool:
    """Whether nginx sends `path` to the Admin API."""
    (body,) = _MAP.findall((FOLDER / "nginx.conf").read_text())
    default = None
    for line in body.splitlines():
        rule = _LINE.fullmatch(line)
        assert rule, line
        if rule["default"]:
            default = rule["service"]
        elif re.search(rule["pattern"], path, re.IGNORECASE):
            return rule["service"] == "admin_api"
    return default == "admin_api"


def by_caddy(path: str) -> bool:
    """Whether Caddy sends `path` to the Admin API; `*` stands for anything."""
    (body,) = _MATCHER.findall((FOLDER / "Caddyfile").read_text())
    lines = [line.split() for line in body.splitlines()]
    assert {words[0] for words in lines} == {"path"}
    return any(fnmatchcase(path.lower(), pattern.lower()) for _, *patterns in lines for pattern in patterns)


each_proxy = pytest.mark.parametrize("sends_to_admin_api", [by_nginx, by_caddy])


@pytest.fixture
def ours(values: dict[str, Any]) -> set[str]:
    """Every path that this service can have."""
    app = app_with(Settings(**values, codec_server=True, payload_key=values["encryption_key"]))
    return {str(route.path_format) for route in iter_route_contexts(app.routes)}


@each_proxy
def test_paths_of_this_service_come_to_it_when_they_are_not_the_admin_apis(
    sends_to_admin_api: Any, ours: set[str]
) -> None:
    lost = {path for path in ours if sends_to_admin_api(path)}
    assert lost == NOT_OURS


@each_proxy
@pytest.mark.parametrize("path", ADMIN_API)
def test_paths_of_the_admin_api_come_to_it_in_any_spelling(sends_to_admin_api: Any, path: str) -> None:
    spellings = {path, path.lower(), path.upper(), path.swapcase(), f"{path.rstrip('/')}/"}
    assert [spelled for spelled in spellings if not sends_to_admin_api(spelled)] == []


@each_proxy
@pytest.mark.parametrize(
    "path",
    [
        *("/v2/odsInstances/{id}/applications", "/v2/tenants/vendors", "/console/connect", "/v2/vendorsX"),
        *("/V2/ODSINSTANCES/MANAGE", "/v2/tenants/t/OdsInstances/edOrgs", "/v3/vendors", "/connected"),
        *("/v2/dbInstances/actions", "/v2", "/v2/", "/health", "/livez", "/v2/somethingNew"),
    ],
)
def test_paths_that_only_look_like_the_admin_apis_come_to_this_service(
    sends_to_admin_api: Any, path: str
) -> None:
    assert not sends_to_admin_api(path)
