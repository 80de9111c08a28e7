"""Protection, description, labels and contexts of instances, as clients give, change and see them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api.service import NOBODY, bearer, client_of, faults_of, running
from tests.postgres.instance_states import CONNECTION_STRING, STATES, bring_to
from tests.servers import NUMBERS, session

INSTANCES = "/v2/dbInstances"
MANAGE = "/v2/odsInstances/manage"
ODS_INSTANCES = "/v2/odsInstances"
CONTEXTS = "/v2/odsInstanceContexts"
NOTHING: dict[str, Any] = {"protected": False, "description": None, "labels": {}, "contexts": []}
LABELS = {"district": "255901", "example.org/Stage": "pilot_1", "empty": ""}
BEING_DELETED = {"Pending_Delete", "InProgress_Delete", "Delete_Failed"}


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


def context(key: str, value: str) -> dict[str, str]:
    return {"contextKey": key, "contextValue": value}


def contexts(**values: str) -> list[dict[str, str]]:
    return [context(key, value) for key, value in values.items()]


async def create(api: httpx.AsyncClient, **attributes: Any) -> httpx.Response:
    body = {"name": f"Attributes {next(NUMBERS)}", "databaseTemplate": "Minimal", **attributes}
    return await api.post(INSTANCES, json=body)


async def created(api: httpx.AsyncClient, **attributes: Any) -> int:
    answer = await create(api, **attributes)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["id"])


async def finish(job_store: JobStore, instance_id: int) -> None:
    """Do the create of the instance."""
    (job,) = [job for job in await job_store.waiting_jobs(0, 100) if job.instance_id == instance_id]
    assert (await job_store.begin(job)).held
    assert await job_store.finish_create(job, CONNECTION_STRING)


async def change(api: httpx.AsyncClient, instance_id: int, **attributes: Any) -> httpx.Response:
    return await api.patch(f"{INSTANCES}/{instance_id}", json=attributes)


async def attributes_of(api: httpx.AsyncClient, instance_id: int) -> dict[str, Any]:
    """As one answer shows them, and the list as well."""
    shown = (await api.get(f"{INSTANCES}/{instance_id}")).json()
    (listed,) = (await api.get(f"{INSTANCES}?id={instance_id}")).json()
    attributes = {name: shown[name] for name in NOTHING}
    assert attributes.items() <= listed.items()
    return attributes


# A new instance


async def test_instance_has_no_attributes_when_the_request_has_none(api: httpx.AsyncClient) -> None:
    for sent in ({}, dict.fromkeys(NOTHING), {"description": " \n", "labels": {}, "contexts": []}):
        assert await attributes_of(api, await created(api, **sent)) == NOTHING


async def test_instance_shows_its_attributes_when_the_request_has_them(
    api: httpx.AsyncClient, job_store: JobStore
) -> None:
    wanted: dict[str, Any] = {
        "protected": True,
        "description": "Für den Bezirk \U0001f986\n\"'; DROP TABLE adminapi.dbinstances; --",
        "labels": LABELS,
        "contexts": contexts(schoolYear="2027", näme="Ünï \U0001f986 '\"%"),
    }
    instance_id = await created(api, **wanted)
    reserved = await attributes_of(api, instance_id)
    assert sorted(reserved.pop("contexts"), key=str) == sorted(wanted["contexts"], key=str)
    await finish(job_store, instance_id)
    published = await attributes_of(api, instance_id)
    assert sorted(published.pop("contexts"), key=str) == sorted(wanted.pop("contexts"), key=str)
    assert reserved == published == wanted


async def test_names_of_members_match_in_any_case_when_attributes_are_sent(api: httpx.AsyncClient) -> None:
    instance_id = await created(
        api, PROTECTED=True, Contexts=[{"contextkey": "k", "CONTEXTVALUE": "any case"}]
    )
    shown = await attributes_of(api, instance_id)
    assert (shown["protected"], shown["contexts"]) == (True, [context("k", "any case")])
    assert (await change(api, instance_id, Protected=False)).json()["protected"] is False


async def test_manage_shows_no_attributes_when_an_instance_is_requested_there(api: httpx.AsyncClient) -> None:
    body = {"name": "Of manage", "databaseTemplate": "Minimal", "x": 1}
    answer = await api.post(MANAGE, json=body)
    assert answer.status_code == 202
    assert len(answer.json()) == 9
    assert await attributes_of(api, answer.json()["id"]) == NOTHING


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        ({"protected": "true"}, {"Protected": ["'Protected' must be true or false."]}),
        ({"protected": 1}, {"Protected": ["'Protected' must be true or false."]}),
        ({"description": 5}, {"Description": ["'Description' must be text."]}),
        (
            {"description": "x" * 501},
            {"Description": ["'Description' must be 500 characters or fewer. You entered 501 characters."]},
        ),
        (
            {"description": "a\x00"},
            {"Description": ["'Description' must not contain NUL characters or halves of surrogate pairs."]},
        ),
        ({"labels": ["a"]}, {"Labels": ["'Labels' must be an object."]}),
        (
            {"labels": {f"k{number}": "v" for number in range(21)}},
            {"Labels": ["'Labels' must be 20 labels or fewer: there are 21."]},
        ),
        ({"labels": {"a": 5}}, {"Labels": ["The value of the label 'a' must be text."]}),
        ({"contexts": {"a": "b"}}, {"Contexts": ["'Contexts' must be a list of objects; [] is none."]}),
        ({"contexts": ["a"]}, {"Contexts": ["'Contexts' must be a list of objects; [] is none."]}),
        (
            {"contexts": [context(f"k{number}", "v") for number in range(21)]},
            {"Contexts": ["'Contexts' must be 20 contexts or fewer: there are 21."]},
        ),
        (
            {"contexts": [{}]},
            {
                "ContextKey": ["'Context Key' must not be empty."],
                "ContextValue": ["'Context Value' must not be empty."],
            },
        ),
        (
            {"contexts": [{"contextKey": "a", "contextValue": 5}]},
            {"ContextValue": ["'Context Value' must be text."]},
        ),
        (
            {"contexts": [context("k" * 51, "v" * 51)]},
            {
                "ContextKey": ["'Context Key' must be 50 characters or fewer. You entered 51 characters."],
                "ContextValue": [
                    "'Context Value' must be 50 characters or fewer. You entered 51 characters."
                ],
            },
        ),
        (
            {"contexts": contexts(k="1", K="2")},
            {"Contexts": ["An instance has one context of a key, in whatever case it is written."]},
        ),
    ],
)
async def test_attributes_are_refused_when_they_break_rules(
    api: httpx.AsyncClient, sent: dict[str, Any], errors: dict[str, list[str]]
) -> None:
    assert faults_of(await create(api, **sent)) == errors
    assert (await api.get(INSTANCES)).json() == []
    instance_id = await created(api)
    assert faults_of(await change(api, instance_id, **sent)) == errors
    assert await attributes_of(api, instance_id) == NOTHING


async def test_half_of_a_character_is_refused_when_it_is_in_an_attribute(api: httpx.AsyncClient) -> None:
    instance_id = await created(api)
    for body in (
        rb'{"description": "\ud800"}',
        rb'{"labels": {"\ud800": "x"}}',
        rb'{"labels": {"x": "\ud800"}}',
        rb'{"contexts": [{"contextKey": "\ud800", "contextValue": "\ud800"}]}',
        rb'{"\ud800": 1}',
    ):
        headers = {"Content-Type": "application/json"}
        answer = await api.patch(f"{INSTANCES}/{instance_id}", content=body, headers=headers)
        assert faults_of(answer)


async def test_attributes_are_accepted_when_they_are_as_large_as_can_be(api: httpx.AsyncClient) -> None:
    wanted = {
        "protected": True,
        "description": "\U0001f986" * 500,
        "labels": {f"{'d' * 63}.org/{'k' * 61}{number:02}": "v" * 63 for number in range(20)},
        "contexts": [context(f"{'ä' * 48}{number:02}", "\U0001f986" * 50) for number in range(20)],
    }
    assert await attributes_of(api, await created(api, **wanted)) == wanted


async def test_faults_of_name_and_attributes_are_reported_together_when_both_are_wrong(
    api: httpx.AsyncClient,
) -> None:
    answer = await create(
        api, name="-", databaseTemplate="x", description=5, labels=5, protected=5, contexts=5
    )
    assert set(faults_of(answer)) == {
        *("Name", "DatabaseTemplate", "Description", "Labels", "Protected", "Contexts")
    }


# PATCH


async def test_other_attributes_stay_when_some_are_changed(api: httpx.AsyncClient) -> None:
    instance_id = await created(
        api, protected=True, description="d", labels=LABELS, contexts=contexts(k="stay")
    )
    answer = await change(api, instance_id, labels={"district": None, "empty": "full", "new": "n"})
    assert answer.status_code == 200
    assert answer.json().keys() == (await api.get(f"{INSTANCES}/{instance_id}")).json().keys()
    expected = {
        "protected": True,
        "description": "d",
        "labels": {"example.org/Stage": "pilot_1", "empty": "full", "new": "n"},
        "contexts": contexts(k="stay"),
    }
    assert expected.items() <= answer.json().items()
    assert await attributes_of(api, instance_id) == expected
    assert (await change(api, instance_id)).status_code == 200
    assert (await api.patch(f"{INSTANCES}/{instance_id}")).status_code == 200
    assert await attributes_of(api, instance_id) == expected


async def test_attributes_are_removed_when_null_is_sent(api: httpx.AsyncClient) -> None:
    instance_id = await created(
        api, protected=True, description="d", labels=LABELS, contexts=contexts(k="gone")
    )
    assert faults_of(await change(api, instance_id, protected=None))
    assert (await change(api, instance_id, description=None, labels=None)).status_code == 200
    kept = {"protected": True, "contexts": contexts(k="gone")}
    assert await attributes_of(api, instance_id) == NOTHING | kept


async def test_contexts_are_removed_only_when_an_empty_list_is_sent(api: httpx.AsyncClient) -> None:
    """Null is what a program sends that has read nothing; without contexts, the ODS/API finds no instance."""
    instance_id = await created(api, contexts=contexts(k="gone"))
    assert faults_of(await change(api, instance_id, contexts=None)) == {
        "Contexts": ["'Contexts' must be a list of objects; [] is none."]
    }
    assert (await change(api, instance_id, contexts=[])).status_code == 200
    assert await attributes_of(api, instance_id) == NOTHING


async def test_labels_are_refused_when_they_would_be_more_than_twenty(api: httpx.AsyncClient) -> None:
    instance_id = await created(api, labels={f"k{number}": "v" for number in range(19)})
    assert (await change(api, instance_id, labels={"k19": "v", "k0": "w"})).status_code == 200
    errors = faults_of(await change(api, instance_id, labels={"k20": "v"}))
    assert errors == {"Labels": ["'Labels' must be 20 labels or fewer: there are 21."]}
    assert (await change(api, instance_id, labels={"k20": "v", "k0": None})).status_code == 200
    assert len((await attributes_of(api, instance_id))["labels"]) == 20


async def test_change_is_refused_when_it_has_unknown_members(api: httpx.AsyncClient) -> None:
    instance_id = await created(api)
    errors = faults_of(await change(api, instance_id, name="x", lables={}, protected=True))
    assert set(errors) == {"name", "lables"}
    assert "protected, description, labels, contexts" in errors["lables"][0]
    assert await attributes_of(api, instance_id) == NOTHING


async def test_instance_is_not_found_whatever_is_wrong_with_the_body_when_it_is_unknown_or_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Deleted", "Gone")
    for number in (job.instance_id, job.instance_id + 1):
        answer = await change(api, number, x=1)
        assert answer.status_code == 404
        assert answer.json()["title"].startswith(f"Not found: dbInstance with ID {number}. ")


@pytest.mark.parametrize("state", sorted(set(STATES) - {"Deleted"}))
async def test_description_and_labels_are_changed_when_the_instance_is_in_any_state(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Any")
    before = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()
    changes = {"description": "d", "labels": LABELS}
    answer = await change(api, job.instance_id, **changes)
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["lastModifiedDate"] > before["lastModifiedDate"]
    for moving in (before, shown):
        moving.pop("lastModifiedDate")
        (moving["progress"] or {}).pop("elapsedSeconds", None)
    assert shown == before | changes


async def test_change_is_in_the_audit_trail_when_it_was_made(api: httpx.AsyncClient) -> None:
    instance_id = await created(api)
    await change(api, instance_id, protected=True)

    async def entry() -> dict[str, Any]:
        found: dict[str, Any] = (await api.get("/v2/audit?limit=1")).json()[0]
        return found

    last = await entry()
    assert (last["method"], last["instanceId"], last["status"]) == ("PATCH", instance_id, 200)


# Labels in lists


async def test_list_has_the_instances_with_all_labels_when_it_is_filtered_by_labels(
    api: httpx.AsyncClient,
) -> None:
    one = await created(api, labels={"district": "255901", "stage": "pilot"})
    two = await created(api, labels={"district": "255901", "stage": "", "e.org/k": "v"})
    await created(api, labels={"district": "255902", "District": "255901"})
    await created(api)

    async def found(query: str) -> list[int]:
        return [it["id"] for it in (await api.get(f"{INSTANCES}?{query}")).json()]

    assert await found("label=district:255901") == [one, two]
    assert await found("LABEL=district:255901&label=stage:pilot") == [one]
    assert await found("label=district:255901,stage:pilot") == [one]
    assert await found("label=stage:") == [two]
    assert await found("label=e.org/k:v&orderBy=name&direction=desc&limit=1") == [two]
    assert await found(f"label=district:255901&id={one}") == [one]
    for nothing in ("district:25590", "District:pilot", "no:255901", "district:255901&label=district:255902"):
        assert await found(f"label={nothing}") == []


@pytest.mark.parametrize(
    "query",
    [
        *(
            "label=",
            "label=,",
            "label=district:255901,",
            "label=district",
            "label=:255901",
            "label=district=255901",
            "label=a:b:c",
            "label=a:%00",
            "label=%C3%A4:b",
        ),
        *(
            "label=district:255901&label=x",
            "label=a%20b:c",
            f"label={','.join(f'k{i}:v' for i in range(21))}",
        ),
    ],
)
async def test_list_is_refused_when_the_filter_is_no_label(api: httpx.AsyncClient, query: str) -> None:
    assert set(faults_of(await api.get(f"{INSTANCES}?{query}"))) == {"Label"}


# Protection


async def test_protected_instance_stays_when_a_delete_is_requested_on_any_surface(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Protected")
    await change(api, job.instance_id, protected=True)
    before = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()
    how = f"`ods instance unprotect {job.instance_id}`"

    refused = await api.delete(f"{INSTANCES}/{job.instance_id}")
    assert (refused.status_code, refused.json()["state"]) == (409, "Completed")
    assert "protected" in refused.json()["detail"]
    assert how in refused.json()["nextStep"]
    assert f"PATCH /v2/dbInstances/{job.instance_id}" in refused.json()["nextStep"]
    (told,) = faults_of(await api.delete(f"{MANAGE}/{job.instance_id}"))["id"]
    assert "protected" in told
    assert how in told
    (told,) = faults_of(await api.delete(f"{ODS_INSTANCES}/{job.ods_instance_id}"))["Id"]
    assert "protected" in told
    assert "Can not be deleted." in told
    assert how in told
    assert (await api.get(f"{ODS_INSTANCES}/{job.ods_instance_id}")).status_code == 200
    assert (await api.get(f"{INSTANCES}/{job.instance_id}")).json() == before

    assert (await change(api, job.instance_id, protected=False)).status_code == 200
    assert (await api.delete(f"{INSTANCES}/{job.instance_id}")).status_code == 202


async def test_protected_instance_is_renamed_when_that_is_requested(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Protected")
    await change(api, job.instance_id, protected=True)
    assert (await api.put(f"{INSTANCES}/{job.instance_id}", json={"name": "New"})).status_code == 202
    (due,) = await job_store.waiting_jobs(0, 9)
    assert (await job_store.begin(due)).refusal is None
    assert await job_store.finish_rename(due, CONNECTION_STRING)
    assert (await attributes_of(api, job.instance_id))["protected"] is True


@pytest.mark.parametrize("state", STATES)
async def test_protection_is_refused_only_when_the_instance_is_being_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Protected")
    answer = await change(api, job.instance_id, protected=True, description="d")
    if state == "Deleted":
        assert answer.status_code == 404
    elif state in BEING_DELETED:
        assert answer.status_code == 409
        assert "cannot be protected" in answer.json()["detail"]
        assert await attributes_of(api, job.instance_id) == NOTHING
        assert (await change(api, job.instance_id, protected=False)).status_code == 200
    else:
        assert (answer.status_code, answer.json()["protected"]) == (200, True)


async def test_failed_create_of_a_protected_instance_can_be_retried_and_not_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Error", "Protected")
    await change(api, job.instance_id, protected=True)
    assert (await api.delete(f"{INSTANCES}/{job.instance_id}")).status_code == 409
    assert (await api.post(f"{INSTANCES}/{job.instance_id}/retry")).status_code == 202


async def test_failed_delete_is_not_retried_when_the_instance_is_protected(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    job = await bring_to(instances, job_store, "Delete_Failed", "Protected")
    await rows.execute("UPDATE adminapi.dbinstances SET isprotected = true WHERE id = $1", job.instance_id)
    refused = await api.post(f"{INSTANCES}/{job.instance_id}/retry")
    assert (refused.status_code, refused.json()["state"]) == (409, "Delete_Failed")
    assert "unprotect" in refused.json()["nextStep"]


async def test_new_instances_are_protected_when_the_setting_says_so(settings: Settings) -> None:
    protecting = settings.model_copy(update={"protect_new": True})
    async with (
        running(protecting, NOBODY) as app,
        client_of(app, headers=bearer(protecting)) as api,
    ):
        assert (await attributes_of(api, await created(api)))["protected"] is True
        assert (await attributes_of(api, await created(api, protected=None)))["protected"] is True
        assert (await attributes_of(api, await created(api, protected=False)))["protected"] is False
        managed = await api.post(MANAGE, json={"name": "Of manage", "databaseTemplate": "Minimal"})
        assert (await attributes_of(api, managed.json()["id"]))["protected"] is True


async def test_delete_or_protection_wins_when_both_are_requested_at_once(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    for number in range(10):
        job = await bring_to(instances, job_store, "Completed", f"Both {number}")
        requests = [
            change(api, job.instance_id, protected=True),
            api.delete(f"{INSTANCES}/{job.instance_id}"),
        ]
        if number % 2:
            requests.reverse()
        answers = await asyncio.gather(*requests)
        if number % 2:
            answers.reverse()
        shown = (await api.get(f"{INSTANCES}/{job.instance_id}")).json()
        assert ([answer.status_code for answer in answers], shown["protected"], shown["status"]) in (
            ([200, 409], True, "Completed"),
            ([409, 202], False, "Pending_Delete"),
        )


# Contexts


async def test_contexts_are_published_with_the_ods_instance_and_reserved_until_then(
    api: httpx.AsyncClient, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    instance_id = await created(api, contexts=contexts(schoolYear="2027", district="255901"))
    assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 0
    await finish(job_store, instance_id)
    ods_instance = (await api.get(f"{ODS_INSTANCES}/{instance_id}")).json()
    published = {it["contextKey"]: it["contextValue"] for it in ods_instance["odsInstanceContexts"]}
    assert published == {"schoolYear": "2027", "district": "255901"}
    for one in ods_instance["odsInstanceContexts"]:
        assert (await api.delete(f"{CONTEXTS}/{one['id']}")).status_code == 200
    assert (await attributes_of(api, instance_id))["contexts"] == []
    await created(api, contexts=contexts(schoolYear="2027", district="255901"))


@pytest.mark.parametrize("is_published", [False, True], ids=["reserved", "published"])
async def test_contexts_are_refused_before_anything_is_made_when_another_instance_has_just_these(
    api: httpx.AsyncClient, job_store: JobStore, *, is_published: bool
) -> None:
    one = await created(api, contexts=contexts(schoolYear="2027", district="255901"))
    if is_published:
        await finish(job_store, one)
    named = (await api.get(f"{INSTANCES}/{one}")).json()["name"]
    answer = await create(api, contexts=contexts(DISTRICT="255901", SCHOOLYEAR="2027"))
    (reason,) = faults_of(answer)["Contexts"]
    assert reason.startswith(f"The instance '{named}' has just these contexts: 'DISTRICT' = '255901', ")
    assert [it["id"] for it in (await api.get(INSTANCES)).json()] == [one]

    two = await created(api, contexts=contexts(schoolYear="2028", district="255901"))
    errors = faults_of(await change(api, two, contexts=contexts(schoolYear="2027", district="255901")))
    assert f"'{named}'" in errors["Contexts"][0]
    assert (await change(api, one, contexts=contexts(district="255901"))).status_code == 200
    again = await change(api, two, contexts=contexts(schoolYear="2027", district="255901"))
    assert again.status_code == 200
    assert (await change(api, two, contexts=[])).status_code == 200  # any number may have none
    assert (await change(api, one, contexts=[])).status_code == 200


async def test_districts_and_years_share_contexts_when_all_of_each_instance_differ(
    api: httpx.AsyncClient, job_store: JobStore
) -> None:
    for year in ("2027", "2028"):
        for district in range(20):
            one = await created(api, contexts=contexts(schoolYear=year, district=f"{255900 + district}"))
            if district % 2:
                await finish(job_store, one)
    whole_state = await created(api, contexts=contexts(schoolYear="2027"))
    await finish(job_store, whole_state)
    assert (await attributes_of(api, whole_state))["contexts"] == contexts(schoolYear="2027")


@pytest.mark.parametrize("wanted", [{"a": "b=c"}, {"a=b": "c"}, {"a": "b", "c": "d"}, {"a": "b,c=d"}])
async def test_contexts_differ_when_only_their_separators_do(
    api: httpx.AsyncClient, wanted: dict[str, str]
) -> None:
    for others in ({"a": "b=c"}, {"a=b": "c"}, {"a": "b", "c": "d"}, {"a": "b,c=d"}):
        if others != wanted:
            await created(api, contexts=contexts(**others))
    await created(api, contexts=contexts(**wanted))


async def test_contexts_of_an_ods_instance_that_is_managed_elsewhere_are_refused_for_an_instance(
    api: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    await rows.execute(
        "INSERT INTO dbo.odsinstances (odsinstanceid, name) VALUES (1000001, 'By hand');"
        " INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES (1000001, 'Year', 'Ä')"
    )
    assert set(faults_of(await create(api, contexts=contexts(year="ä")))) == {"Contexts"}


async def test_contexts_cannot_be_made_elsewhere_when_they_are_reserved(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    other = await bring_to(instances, job_store, "Completed", "Other")
    one = await created(api, contexts=contexts(year="2027"))
    body = {"odsInstanceId": other.ods_instance_id, **context("Year", "2027")}
    errors = faults_of(await api.post(CONTEXTS, json=body))
    assert set(errors) == {"ContextValue"}
    await finish(job_store, one)
    made = await api.post(CONTEXTS, json=body)
    assert made.status_code == 201  # as the Admin API does it
    two = await created(api, contexts=contexts(year="2028", other="y"))
    one_of_both = {"odsInstanceId": other.ods_instance_id, **context("year", "2028")}
    address = f"/v2{made.headers['Location']}"
    assert (await api.put(address, json=one_of_both)).status_code == 200
    both = await api.post(CONTEXTS, json={**one_of_both, **context("Other", "Y")})
    named = (await api.get(f"{INSTANCES}/{two}")).json()["name"]
    assert f"'{named}'" in faults_of(both)["ContextValue"][0]
    own = {"odsInstanceId": one, **context("other", "x")}
    assert (await api.post(CONTEXTS, json=own)).status_code == 201


async def test_context_is_free_again_when_the_instance_that_reserved_it_is_deleted(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    one = await created(api, contexts=contexts(year="2027"))
    (job,) = await job_store.waiting_jobs(0, 9)
    await job_store.begin(job)
    await job_store.fail(job, "It could not be created.")
    assert set(faults_of(await create(api, contexts=contexts(year="2027")))) == {"Contexts"}
    deletion = (await instances.request_delete(one)).job
    await job_store.begin(deletion)
    assert await job_store.finish_delete(deletion)
    assert (await create(api, contexts=contexts(year="2027"))).status_code == 202


async def test_undelete_is_refused_with_the_way_out_when_another_instance_has_the_context(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    job = await bring_to(instances, job_store, "Completed", "Comes back")
    path = f"{INSTANCES}/{job.instance_id}"
    await change(api, job.instance_id, contexts=contexts(year="2027"))
    assert (await api.get(path)).json()["deleteDropsDatabase"] is False
    assert (await api.delete(path)).status_code == 202
    (delete,) = await job_store.waiting_jobs(0, 9)
    await job_store.begin(delete)
    assert await job_store.finish_delete(delete)
    other = await created(api, contexts=contexts(year="2027"))

    refused = (await api.post(f"{path}/undelete")).json()
    assert (refused["status"], refused["state"]) == (409, "Deleted")
    named = (await api.get(f"{INSTANCES}/{other}")).json()["name"]
    assert refused["detail"].startswith(f"The instance '{named}' has just these contexts: 'year' = '2027'.")
    assert "`ods instance contexts`" in refused["nextStep"]
    await finish(job_store, other)
    assert (await change(api, other, contexts=[])).status_code == 200
    assert (await api.post(f"{path}/undelete")).status_code == 202
    assert set(faults_of(await create(api, contexts=contexts(year="2027")))) == {"Contexts"}
    elsewhere = await api.post(CONTEXTS, json={"odsInstanceId": other, **context("year", "2027")})
    assert set(faults_of(elsewhere)) == {"ContextValue"}


async def test_contexts_are_replaced_and_those_that_stay_keep_their_ids_when_the_instance_is_live(
    api: httpx.AsyncClient, job_store: JobStore
) -> None:
    instance_id = await created(api, contexts=contexts(stays="1", changes="2", goes="3"))
    await finish(job_store, instance_id)

    async def ids() -> dict[str, int]:
        shown = (await api.get(f"{ODS_INSTANCES}/{instance_id}")).json()["odsInstanceContexts"]
        return {f"{it['contextKey']}={it['contextValue']}": it["id"] for it in shown}

    before = await ids()
    wanted = contexts(stays="1", changes="4", comes="5")
    answer = await change(api, instance_id, contexts=wanted)
    assert sorted(answer.json()["contexts"], key=str) == sorted(wanted, key=str)
    after = await ids()
    assert set(after) == {"stays=1", "changes=4", "comes=5"}
    assert after["stays=1"] == before["stays=1"]

    by_hand = {"odsInstanceId": instance_id, **context("byHand", "6")}
    assert (await api.post(CONTEXTS, json=by_hand)).status_code == 201
    assert context("byHand", "6") in (await attributes_of(api, instance_id))["contexts"]
    refused = await api.delete(f"{INSTANCES}/{instance_id}?purge=true")
    assert refused.status_code == 409
    assert "OdsInstanceContexts" in refused.json()["detail"]
    assert (await change(api, instance_id, contexts=[])).json()["contexts"] == []
    assert await ids() == {}
    assert (await api.delete(f"{INSTANCES}/{instance_id}")).status_code == 202


async def context_ids(api: httpx.AsyncClient, instance_id: int) -> dict[str, int]:
    """The ids of the contexts of its ODS instance, by their keys."""
    shown = (await api.get(f"{ODS_INSTANCES}/{instance_id}")).json()["odsInstanceContexts"]
    return {it["contextKey"]: it["id"] for it in shown}


async def purge_answer(api: httpx.AsyncClient, instance_id: int) -> int:
    """How a purge of the live instance would be answered."""
    planned = (await api.delete(f"{INSTANCES}/{instance_id}?purge=true&dryRun=true")).json()
    if planned["status"] != 202:
        assert "OdsInstanceContexts" in planned["errors"]["Id"][0], planned
    return int(planned["status"])


@pytest.mark.parametrize("trash_days", [7, 0])
async def test_own_contexts_go_with_the_instance_when_its_database_is_dropped_at_once(
    settings: Settings,
    temporal_address: str,
    job_store: JobStore,
    rows: asyncpg.Connection,
    trash_days: int,
) -> None:
    own = settings.model_copy(update={"trash_days": trash_days})
    async with running(own, temporal_address) as app, client_of(app, headers=bearer(own)) as api:
        instance_id = await created(api, contexts=contexts(schoolYear="2027", district="255901"))
        await finish(job_store, instance_id)
        detached = await api.delete(f"{INSTANCES}/{instance_id}?detach=true")
        assert (detached.status_code, "OdsInstanceContexts" in detached.json()["detail"]) == (409, True)
        wanted = contexts(schoolYear="2028", district="255901", stage="pilot")
        assert (await change(api, instance_id, contexts=wanted)).status_code == 200

        assert await purge_answer(api, instance_id) == 202
        query = "?purge=true" if trash_days else ""
        assert (await api.delete(f"{INSTANCES}/{instance_id}{query}")).status_code == 202
        (job,) = await job_store.waiting_jobs(0, 9)
        assert job.operation == "Delete"
        for _ in range(2):  # the step may be repeated
            assert (await job_store.begin(job)).held
            assert await rows.fetchval("SELECT count(*) FROM dbo.odsinstancecontexts") == 0
        assert await job_store.finish_delete(job)
        await created(api, contexts=wanted)


async def test_contexts_that_others_gave_or_changed_keep_an_instance_when_it_is_to_be_purged(
    api: httpx.AsyncClient, job_store: JobStore, rows: asyncpg.Connection
) -> None:
    instance_id = await created(api, contexts=contexts(schoolYear="2027", district="255901"))
    await finish(job_store, instance_id)
    ids = await context_ids(api, instance_id)
    year = {"odsInstanceId": instance_id, **context("schoolYear", "2027")}
    changes = [
        year | {"contextValue": "2028"},
        year | {"contextKey": "SchoolYear"},
    ]
    for changed in changes:
        assert (await api.put(f"{CONTEXTS}/{ids['schoolYear']}", json=changed)).status_code == 200
        assert await purge_answer(api, instance_id) == 409
        assert (await api.put(f"{CONTEXTS}/{ids['schoolYear']}", json=year)).status_code == 200
        assert await purge_answer(api, instance_id) == 202

    other = {"odsInstanceId": instance_id, **context("stage", "pilot")}
    assert (await api.post(CONTEXTS, json=other)).status_code == 201
    assert await purge_answer(api, instance_id) == 409
    stage = (await context_ids(api, instance_id))["stage"]
    assert (await api.delete(f"{CONTEXTS}/{stage}")).status_code == 200
    assert await purge_answer(api, instance_id) == 202

    # As another product writes them.
    await rows.execute("UPDATE dbo.odsinstancecontexts SET contextvalue = 'x' WHERE contextkey = 'district'")
    assert await purge_answer(api, instance_id) == 409
    # Who gives all of them anew has said that they are the instance's.
    assert (await change(api, instance_id, contexts=contexts(district="x"))).status_code == 200
    assert await purge_answer(api, instance_id) == 202
    assert (await api.delete(f"{CONTEXTS}/{ids['district']}")).status_code == 200
    assert await purge_answer(api, instance_id) == 202


async def test_ods_instance_with_own_contexts_stays_when_the_admin_api_s_surface_deletes_it(
    settings: Settings, temporal_address: str, job_store: JobStore
) -> None:
    """There, no ODS instance with contexts is deleted, unless it goes to the trash."""
    own = settings.model_copy(update={"trash_days": 0})
    async with running(own, temporal_address) as app, client_of(app, headers=bearer(own)) as api:
        instance_id = await created(api, contexts=contexts(schoolYear="2027"))
        await finish(job_store, instance_id)
        answer = await api.delete(f"{ODS_INSTANCES}/{instance_id}")
        assert "OdsInstanceContexts refer to this ODS instance" in faults_of(answer)["Id"][0]


@pytest.mark.parametrize("state", ["InProgress_Delete", "Delete_Failed"])
async def test_contexts_are_refused_when_the_ods_instance_is_gone(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, state: str
) -> None:
    job = await bring_to(instances, job_store, state, "Gone")
    answer = await change(api, job.instance_id, contexts=contexts(year="2027"))
    assert answer.status_code == 409
    assert "no contexts" in answer.json()["detail"]


async def test_one_instance_gets_the_context_when_several_ask_for_it_at_once(api: httpx.AsyncClient) -> None:
    """Half of them write the contexts in another order and case: that must not have them wait in a circle."""
    for number in range(5):
        year, district = f"{2100 + number}", f"{number}"
        wanted = [contexts(year=year, district=district), contexts(DISTRICT=district, YEAR=year)] * 4
        answers = await asyncio.gather(*(create(api, contexts=one) for one in wanted))
        assert sorted(answer.status_code for answer in answers) == [202] + [400] * 7
        assert all(set(faults_of(it)) == {"Contexts"} for it in answers if it.status_code == 400)


async def test_one_instance_gets_the_context_when_two_are_changed_or_created_at_once(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore
) -> None:
    for number in range(5):
        live = await bring_to(instances, job_store, "Completed", f"Live {number}")
        pending = await created(api)
        wanted = contexts(year=f"{2200 + number}")
        answers = await asyncio.gather(
            change(api, live.instance_id, contexts=wanted),
            change(api, pending, contexts=wanted),
            create(api, contexts=wanted),
        )
        assert sum(answer.is_success for answer in answers) == 1
        assert all(answer.status_code in {200, 202, 400} for answer in answers)
