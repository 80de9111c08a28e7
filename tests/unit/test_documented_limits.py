"""The limits in the OpenAPI document are those of the rules that judge requests."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.app import app_with
from api.http.parsing import MAX_INT32
from ods.model.operations import Template
from ods.registry.clients.credentials import (
    BACKUP_DOWNLOAD,
    LONGEST_CLIENT_TEXT,
    OAUTH_SCOPES,
    STRONG_SECRET,
    secret_errors,
)
from ods.registry.instances.attributes import LONGEST_DESCRIPTION
from ods.registry.instances.contexts import LONGEST_CONTEXT_TEXT
from ods.registry.instances.naming import MAX_NAME_LENGTH, NAME_PATTERN, name_errors
from ods.registry.ods_instances.parts import DERIVATIVE_TYPES
from ods.registry.ods_instances.store import LONGEST_ODS_INSTANCE_TEXT
from ods.registry.storage.models import ApiClient, DbInstance, OdsInstance, OdsInstanceContext
from ods.registry.storage.rules import REQUIRED_TEXT_PATTERN, required_text_errors
from ods.settings.settings import Settings

Limits = dict[str, object]

TEMPLATES: Limits = {"enum": list(Template)}
KEPT_TEMPLATE: Limits = {"enum": [*Template, None]}
SCOPES = OAUTH_SCOPES.values()
TYPES: Limits = {"enum": list(DERIVATIVE_TYPES)}
NAMED: Limits = {"maxLength": MAX_NAME_LENGTH, "pattern": NAME_PATTERN}
ODS_INSTANCE_TEXT: Limits = {"maxLength": LONGEST_ODS_INSTANCE_TEXT}
CONTEXT_TEXT: Limits = {"minLength": 1, "maxLength": LONGEST_CONTEXT_TEXT}
DESCRIPTION: Limits = {"maxLength": LONGEST_DESCRIPTION}
CLIENT_TEXT: Limits = {"maxLength": LONGEST_CLIENT_TEXT, "pattern": REQUIRED_TEXT_PATTERN}
ID: Limits = {"minimum": 1, "maximum": MAX_INT32}

LIMITS: list[tuple[str, str, Limits]] = [
    *(
        (request, name, limits)
        for surface, templates in (
            ("/v2/dbInstances", KEPT_TEMPLATE),  # null if it has another origin
            ("/v2/odsInstances/manage", TEMPLATES),
        )
        for request, name, limits in (
            (f"post {surface}", "name", NAMED),
            (f"post {surface}", "databaseTemplate", templates),
            (f"put {surface}/{{instance_id}}", "name", NAMED),
            (f"put {surface}/{{instance_id}}", "databaseTemplate", KEPT_TEMPLATE),
        )
    ),
    *(
        (request, "description", DESCRIPTION)
        for request in ("post /v2/dbInstances", "patch /v2/dbInstances/{instance_id}")
    ),
    *(
        (request, name, limits)
        for request in ("post /v2/odsInstances", "put /v2/odsInstances/{instance_id}")
        for name, limits in (("name", ODS_INSTANCE_TEXT), ("instanceType", ODS_INSTANCE_TEXT))
    ),
    *(
        (request, name, limits)
        for request in ("post /v2/odsInstanceContexts", "put /v2/odsInstanceContexts/{context_id}")
        for name, limits in (
            ("odsInstanceId", ID),
            ("contextKey", CONTEXT_TEXT),
            ("contextValue", CONTEXT_TEXT),
        )
    ),
    *(
        (request, name, limits)
        for request in ("post /v2/odsInstanceDerivatives", "put /v2/odsInstanceDerivatives/{derivative_id}")
        for name, limits in (("odsInstanceId", ID), ("derivativeType", TYPES))
    ),
    ("post /connect/register", "ClientId", CLIENT_TEXT),
    ("post /connect/register", "DisplayName", CLIENT_TEXT),
    ("post /connect/register", "ClientSecret", {"pattern": f"^{STRONG_SECRET.pattern}$"}),
    (
        "post /connect/token",
        "scope",
        {"enum": [*SCOPES, *(f"{one} {BACKUP_DOWNLOAD}" for one in SCOPES)]},
    ),
]


@pytest.fixture(scope="module")
def document(required_values: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document."""
    return app_with(Settings(**required_values)).openapi()


def documented(document: dict[str, Any], request: str, name: str) -> dict[str, Any]:
    """What the document says of the property `name` in the body of `request`."""
    method, path = request.split()
    content = document["paths"][path][method]["requestBody"]["content"]
    (described,) = content.values()
    schema: dict[str, Any] = described["schema"]["properties"][name]
    texts: dict[str, Any] = next((one for one in schema.get("anyOf", []) if one["type"] == "string"), {})
    return schema | texts


@pytest.mark.parametrize(("request_", "name", "limits"), LIMITS)
def test_document_has_the_limits_of_the_rules_when_a_client_reads_it(
    document: dict[str, Any], request_: str, name: str, limits: Limits
) -> None:
    said = documented(document, request_, name)
    assert {keyword: said.get(keyword) for keyword in limits} == limits


def test_limits_are_those_of_the_columns_when_the_registry_holds_the_texts() -> None:
    models = (ApiClient, DbInstance, OdsInstance, OdsInstanceContext)
    tables = (model.__table__ for model in models)
    clients, instances, ods_instances, contexts = (
        {column.key: column.type for column in it.columns} for it in tables
    )
    lengths = {
        LONGEST_CLIENT_TEXT: (clients["clientid"], clients["displayname"]),
        LONGEST_ODS_INSTANCE_TEXT: (ods_instances["name"], ods_instances["instancetype"]),
        LONGEST_DESCRIPTION: (instances["description"],),
        LONGEST_CONTEXT_TEXT: (contexts["contextkey"], contexts["contextvalue"]),
    }
    for length, columns in lengths.items():
        assert [getattr(column, "length", None) for column in columns] == [length] * len(columns)


CHARACTERS = st.sampled_from("aZ0_ -\x00\x01\n\x85ä")


@given(name=st.text(CHARACTERS, max_size=MAX_NAME_LENGTH))
def test_name_matches_the_documented_pattern_when_no_rule_refuses_it(name: str) -> None:
    assert bool(re.fullmatch(NAME_PATTERN.strip("^$"), name)) is (not name_errors(name))


def test_name_is_refused_when_it_is_longer_than_documented() -> None:
    assert not name_errors("x" * MAX_NAME_LENGTH)
    assert name_errors("x" * (MAX_NAME_LENGTH + 1))


@given(text=st.text(CHARACTERS))
def test_no_rule_refuses_a_text_when_it_matches_the_documented_pattern(text: str) -> None:
    if re.fullmatch(REQUIRED_TEXT_PATTERN.strip("^$"), text):
        assert not required_text_errors("Text", text, len(text))


@pytest.mark.parametrize("text", ["", " ", "\n\x85", "a\x00"])
def test_text_breaks_pattern_and_rule_when_it_is_blank_or_has_a_nul(text: str) -> None:
    assert not re.fullmatch(REQUIRED_TEXT_PATTERN.strip("^$"), text)
    assert required_text_errors("Text", text, 10)


@pytest.mark.parametrize("secret", ["", " ", "aB1!" * 7, "aB1!" * 33, "ab1!" * 8, "AB1!" * 8, "aBc!" * 8])
def test_secret_breaks_pattern_and_rule_when_it_is_weak(secret: str) -> None:
    assert not STRONG_SECRET.fullmatch(secret)
    assert len(secret_errors(secret)) == 1


@pytest.mark.parametrize("secret", ["aB1!" * 8, "aB1!" * 32])
def test_secret_keeps_pattern_and_rule_when_it_is_strong(secret: str) -> None:
    assert STRONG_SECRET.fullmatch(secret)
    assert secret_errors(secret) == []
