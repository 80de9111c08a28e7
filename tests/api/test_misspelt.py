"""Requests that misspell what they ask for are refused: more might be lost than their clients mean."""

import re
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI

from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import bring_to


@pytest.mark.parametrize(
    ("state", "verb", "path"),
    [
        ("Completed", "DELETE", "/v2/dbInstances/{id}?purge=true&final_backup=true"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?purge=true&dry_run=true"),
        ("Deleted", "DELETE", "/v2/trash/{id}?finalBackups=true"),
        ("Completed", "POST", "/v2/dbInstances/{id}/reset?dry-run=true"),
        ("Completed", "POST", "/v2/dbInstances/bulk/delete?dry_run=true"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?_=1&dry-run=true"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?Dry%20Run=true"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?dryRun[]=true"),
        ("Completed", "DELETE", "/v2/odsInstances/manage/{id}?purge[0]=false"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?purge=true&api-version=2"),
        ("Completed", "DELETE", "/v2/dbInstances/{id}?Idempotency-Key=abc"),
        ("Completed", "PUT", "/v2/dbInstances/{id}?api-version=2"),
        ("Completed", "DELETE", "/v2/odsInstances/manage/{id}?dry_run=true"),
        ("Completed", "POST", "/v2/dbInstances/{id}/backups?dry_run=true"),
        ("Completed", "POST", "/v2/dbInstances/{id}/adopt?instance_id=7"),
    ],
)
async def test_parameter_is_named_when_there_is_none_of_that_name(
    api: httpx.AsyncClient,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    state: str,
    verb: str,
    path: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    answer = await api.request(verb, path.format(id=job.instance_id), json={"ids": [job.instance_id]})
    assert answer.status_code == 400
    misspelt = path.rpartition("=")[0].replace("?", "&").rpartition("&")[2]
    assert list(answer.json()["errors"]) == [unquote(misspelt)]
    assert job.job_id == await last_job(tenant, job.instance_id)


@pytest.mark.parametrize(
    ("state", "path", "body", "member"),
    [
        ("Completed", "reset", {"backup": "0c6b1f6e"}, "backup"),
        ("Completed", "reset", {"copy_of": 12}, "copy_of"),
        ("Completed", "reset?dryRun=true", {"backup_id": "0c6b1f6e"}, "backup_id"),
        ("Completed", "reset/undo", {"databaseName": "ods_trash_1"}, "databasename"),
        ("Deleted", "undelete", {"newName": "Another"}, "newname"),
        ("Completed", "adopt", {"database": "ods_trash_1"}, "database"),
    ],
)
async def test_member_is_named_when_there_is_none_of_that_name(
    api: httpx.AsyncClient,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    state: str,
    path: str,
    body: dict[str, object],
    member: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    answer = await api.post(f"/v2/dbInstances/{job.instance_id}/{path}", json=body)
    if "dryRun" in path:
        assert member in answer.text
        assert answer.json()["status"] == 400
    else:
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == [member]
    assert job.job_id == await last_job(tenant, job.instance_id)


@pytest.mark.parametrize("body", [{"dryRun": True}, {"id": 7}])
async def test_member_is_named_when_a_request_for_many_has_none_of_that_name(
    api: httpx.AsyncClient,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    body: dict[str, object],
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    new = {"instances": [{"name": f"{name} 2", "databaseTemplate": "Minimal"}]}
    for path, wanted in (("bulk", new), ("bulk/delete", {"ids": [job.instance_id]})):
        answer = await api.post(f"/v2/dbInstances/{path}", json=wanted | body)
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == [member.lower() for member in body]
    assert job.job_id == await last_job(tenant, job.instance_id)
    assert len((await api.get("/v2/dbInstances")).json()) == 1


async def test_reset_is_not_undone_when_null_stands_for_the_database_that_comes_back(
    api: httpx.AsyncClient, tenant: Tenant, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    answer = await api.post(f"/v2/dbInstances/{job.instance_id}/reset/undo", json={"database": None})
    assert answer.status_code == 400
    assert answer.json()["errors"] == {
        "Database": ["'Database' must be text. Without it, the one that was replaced last comes back."]
    }
    assert job.job_id == await last_job(tenant, job.instance_id)


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ("Completed", "/v2/dbInstances/{id}"),
        ("Completed", "/v2/dbInstances/{id}?purge=true"),
        ("Completed", "/v2/odsInstances/manage/{id}"),
        ("Deleted", "/v2/trash/{id}"),
    ],
)
@pytest.mark.parametrize(
    "body",
    ['{"finalBackup": true}', '{"dryRun": true}', '{"Purge": false}', "final_backup=true", '{"detach": 1}'],
)
async def test_nothing_is_deleted_when_the_body_says_how(
    api: httpx.AsyncClient,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    state: str,
    path: str,
    body: str,
) -> None:
    job = await bring_to(instances, job_store, state, name)
    answer = await api.request("DELETE", path.format(id=job.instance_id), content=body)
    assert answer.status_code == 400
    (reason,) = next(iter(answer.json()["errors"].values()))
    assert "takes no body, but its body has" in reason
    assert job.job_id == await last_job(tenant, job.instance_id)


@pytest.mark.parametrize(
    "path", ["/v2/dbInstances/{id}/retry", "/v2/dbInstances/{id}/backups", "/v2/jobs/{job}/cancel"]
)
async def test_nothing_is_started_when_the_body_asks_for_a_dry_run(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    path: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending" if "cancel" in path else "DeleteFailed", name)
    before = await _jobs(api)
    answer = await api.post(path.format(id=job.instance_id, job=job.job_id), json={"dryRun": True})
    assert answer.status_code == 400
    assert "takes no body, but its body has" in answer.json()["errors"]["dryRun"][0]
    assert await _jobs(api) == before
    assert (await api.get("/v2/backups")).json() == []


@pytest.mark.parametrize("body", ["", "{}", "null", ' {"id": 7} ', "a=b"])
async def test_instance_is_deleted_when_the_body_says_nothing_of_ours(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str, body: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    answer = await api.request("DELETE", f"/v2/dbInstances/{job.instance_id}", content=body)
    assert answer.status_code == 202


async def test_attributes_are_refused_when_a_put_would_not_change_them(
    api: httpx.AsyncClient, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    path = f"/v2/dbInstances/{job.instance_id}"
    read = (await api.get(path)).json()
    changed = {
        "protected": True,
        "labels": {"a": "b"},
        "description": "new",
        "contexts": [{"contextKey": "a"}],
    }
    refused = await api.put(path, json={**read, "name": f"{name} new", **changed})
    assert refused.status_code == 400
    assert refused.json()["errors"] == {
        name.capitalize(): [f"PUT only renames an instance. PATCH changes '{name}'."] for name in changed
    }
    assert (await api.put(path, json={**read, "name": f"{name} new"})).status_code == 202


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("POST", "/v2/dbInstances", 202),
        ("DELETE", "/v2/dbInstances/{id}", 202),
        ("POST", "/v2/odsInstances/manage", 202),
        ("PUT", "/v2/odsInstances/manage/{id}", 202),
        ("DELETE", "/v2/odsInstances/manage/{id}", 204),
        ("DELETE", "/v2/odsInstances/{id}", 200),
        ("POST", "/v2/odsInstances/{id}/edOrgs/refresh", 202),
    ],
)
async def test_parameters_of_a_gateway_are_ignored_when_the_admin_api_has_the_request(
    api: httpx.AsyncClient,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    verb: str,
    path: str,
    status: int,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    which = job.ods_instance_id if path.startswith("/v2/odsInstances/{id}") else job.instance_id
    body = {"name": f"{name} 2", "databaseTemplate": "Minimal"}
    answer = await api.request(verb, f"{path.format(id=which)}?api-version=2&_=1732741000", json=body)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "path", ["/v2/odsInstances/manage/{0.instance_id}", "/v2/odsInstances/{0.ods_instance_id}"]
)
async def test_request_that_takes_a_parameter_is_named_when_a_delete_of_the_admin_api_has_it(
    api: httpx.AsyncClient,
    app: FastAPI,
    tenant: Tenant,
    instances: InstanceStore,
    job_store: JobStore,
    name: str,
    path: str,
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    delete = app.openapi()["paths"]["/v2/dbInstances/{instance_id}"]["delete"]
    names = known_to(delete) - {"dryRun"}
    assert {"purge", "detach", "finalBackup"} <= names
    for spelled in (*names, *(one.upper() for one in names), "final_backup"):
        answer = await api.delete(f"{path.format(job)}?api-version=2&{spelled}=true")
        assert answer.status_code == 400, spelled
        assert "DELETE /v2/dbInstances/{id}" in answer.json()["errors"][spelled][0]
    assert job.job_id == await last_job(tenant, job.instance_id)
    assert (await api.delete(f"/v2/dbInstances/{job.instance_id}?detach=true")).status_code == 202


async def test_parameter_is_named_when_a_change_has_it_twice(
    api: httpx.AsyncClient, tenant: Tenant, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Completed", name)
    for query in ("finalBackup=true&finalBackup=false", "finalBackup=true&FINALBACKUP=true"):
        answer = await api.delete(f"/v2/dbInstances/{job.instance_id}?purge=true&{query}")
        assert answer.status_code == 400
        assert answer.json()["errors"] == {"FinalBackup": ["'Final Backup' must be given once."]}
    assert job.job_id == await last_job(tenant, job.instance_id)


def changes_of(app: FastAPI) -> list[tuple[str, str, set[str]]]:
    """Verb and path of every request that changes something, and the parameters that its query may have."""
    return [
        (verb, path, known_to(operation))
        for path, verbs in app.openapi()["paths"].items()
        for verb, operation in verbs.items()
        if verb in {"post", "put", "patch", "delete"}
    ]


def known_to(operation: dict[str, Any]) -> set[str]:
    return {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}


def is_of_admin_api(verb: str, path: str) -> bool:
    """Whether the contract of the Admin API has this request."""
    if path.startswith("/v2/dbInstances"):
        return (verb, path) in {("post", "/v2/dbInstances"), ("delete", "/v2/dbInstances/{instance_id}")}
    return path.startswith(("/connect/", "/v2/odsInstance")) and "snapshots" not in path


async def test_every_change_that_this_service_alone_has_refuses_unknown_parameters(
    idle_app: FastAPI, idle_api: httpx.AsyncClient
) -> None:
    changes = [change for change in changes_of(idle_app) if not is_of_admin_api(*change[:2])]
    assert len(changes) > 15
    for verb, path, known in changes:
        for query, named in (("dryRun=true", "DryRun"), ("unknown=true", "unknown")):
            if query.partition("=")[0] not in known:
                answer = await idle_api.request(verb, f"{re.sub('{.*?}', '1', path)}?{query}")
                assert answer.status_code == 400, (verb, path, query)
                assert list(answer.json()["errors"]) == [named], (verb, path, query)


async def test_every_change_without_a_dry_run_refuses_one(
    idle_app: FastAPI, idle_api: httpx.AsyncClient
) -> None:
    changes = [(verb, path) for verb, path, known in changes_of(idle_app) if "dryRun" not in known]
    changes = [(verb, path) for verb, path in changes if not path.startswith("/connect/")]
    assert len(changes) > 25
    for verb, path in changes:
        answer = await idle_api.request(verb, f"{re.sub('{.*?}', '1', path)}?dryRun=true", json={})
        assert answer.status_code == 400, (verb, path)
        assert list(answer.json()["errors"]) == ["DryRun"], (verb, path)


async def test_every_change_refuses_a_parameter_that_is_given_twice(
    idle_app: FastAPI, idle_api: httpx.AsyncClient
) -> None:
    changes = [(verb, path, name) for verb, path, known in changes_of(idle_app) for name in known]
    assert len(changes) > 7
    for verb, path, name in changes:
        answer = await idle_api.request(verb, f"{re.sub('{.*?}', '1', path)}?{name}=true&{name}=true")
        assert answer.status_code == 400, (verb, path, name)
        assert list(answer.json()["errors"]) == [name[0].upper() + name[1:]], (verb, path, name)


async def _jobs(api: httpx.AsyncClient) -> list[tuple[str, str]]:
    return [(job["jobId"], job["status"]) for job in (await api.get("/v2/jobs")).json()]


async def last_job(tenant: Tenant, instance_id: int) -> str:
    row = await tenant.queries.any_instance(instance_id)
    assert row is not None
    (job,) = await tenant.jobs.ended_jobs([str(row.mark)])
    return job.job_id
