"""Templates beside `Minimal` and `Sample`: what clients may name, and what the document says of them."""

from collections.abc import AsyncIterator

import httpx
import pytest

from api.app import app_with
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, running

INSTANCES = "/v2/dbInstances"
MANAGE = "/v2/odsInstances/manage"
THREE = "'Database Template' must be 'Minimal', 'Sample' or 'Year2027'."


@pytest.fixture
def further(settings: Settings) -> Settings:
    """Settings with one more template."""
    return settings.model_copy(update={"templates": {"Year2027": "EdFi_Ods_2027_Template"}})


@pytest.fixture
async def api(further: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(further, NOBODY) as app, client_of(app, headers=bearer(further)) as client:
        yield client


async def test_instance_is_requested_when_its_template_is_a_further_one(api: httpx.AsyncClient) -> None:
    accepted = await api.post(INSTANCES, json={"name": "Further", "databaseTemplate": "Year2027"})
    assert accepted.status_code == 202
    shown = (await api.get(f"{INSTANCES}/{accepted.json()['id']}")).json()
    assert (shown["databaseTemplate"], shown["databaseName"]) == ("Year2027", "EdFi_Ods_Further_Year2027")


async def test_refusal_names_all_templates_when_the_client_names_another(api: httpx.AsyncClient) -> None:
    refused = await api.post(INSTANCES, json={"name": "x" * 46, "databaseTemplate": "year2027"})
    assert refused.json()["errors"] == {"DatabaseTemplate": [THREE]}


async def test_name_is_refused_when_it_is_too_long_with_its_template(api: httpx.AsyncClient) -> None:
    refused = await api.post(INSTANCES, json={"name": "x" * 46, "databaseTemplate": "Year2027"})
    assert refused.json()["errors"] == {
        "Name": ["'Name' must be 45 characters or fewer. You entered 46 characters."]
    }


async def test_further_template_is_refused_when_a_client_of_manage_names_it(api: httpx.AsyncClient) -> None:
    refused = await api.post(MANAGE, json={"name": "Managed", "databaseTemplate": "Year2027"})
    assert refused.status_code == 400
    assert refused.json()["errors"] == {
        "DatabaseTemplate": ["'Database Template' must be 'Minimal' or 'Sample'."]
    }


def test_document_names_all_templates_when_there_are_further_ones(further: Settings) -> None:
    paths = app_with(further).openapi()["paths"]

    def names(verb: str, path: str) -> list[str | None]:
        (content,) = paths[path][verb]["requestBody"]["content"].values()
        found: list[str | None] = content["schema"]["properties"]["databaseTemplate"]["enum"]
        return found

    assert names("post", INSTANCES) == ["Minimal", "Sample", "Year2027", None]
    assert names("put", f"{INSTANCES}/{{instance_id}}") == ["Minimal", "Sample", "Year2027", None]
    assert names("post", MANAGE) == ["Minimal", "Sample"]
