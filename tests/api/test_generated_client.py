"""A client that a generator makes of the OpenAPI document calls every endpoint, and reads each answer."""

import asyncio
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints
from uuid import uuid4

import httpx
import pytest

from tests.api.server import Server
from tests.api.service import bearer
from tests.secret_search import as_secret

PACKAGE = "generated_ods_client"
STRING = "host=test;port=90;username=test;password=test;database=X"
SECRET = as_secret("A-secret-of-32-characters-or-more-1!")
WITHOUT_ANSWER = {
    *("head_health", "head_information", "head_livez", "head_readyz"),
    "delete_managed_instance",
}
"""Calls whose answer has no body."""
BEGINNINGS = ("v2", "v_2", "connect", "health", "livez", "readyz", "get")
"""Of the paths and verbs that follow names of operations."""
CREATED, ACCEPTED = HTTPStatus.CREATED, HTTPStatus.ACCEPTED
UNAVAILABLE, CONFLICT = HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.CONFLICT
OTHER_STATUSES = {
    "create_ods_instance": CREATED,
    "create_context": CREATED,
    "create_derivative": CREATED,
    "create_instance": ACCEPTED,
    "create_managed_instance": ACCEPTED,
    "refresh_all": ACCEPTED,
    "refresh_one": ACCEPTED,
    # The instances wait for workers, which are not there, and Temporal is away.
    "get_instance_database": HTTPStatus.NOT_FOUND,
    "get_instance_usage": HTTPStatus.NOT_FOUND,
    "abandon_job": CONFLICT,
    "retry_instance": CONFLICT,
    "rename_instance": CONFLICT,
    "delete_instance": CONFLICT,
    "adopt_instance_database": CONFLICT,
    "undelete_instance": CONFLICT,
    "purge_trash": CONFLICT,
    "delete_instances": HTTPStatus.BAD_REQUEST,
    "reset_instance": CONFLICT,
    "undo_reset": CONFLICT,
    "create_backup": CONFLICT,
    "get_backup": HTTPStatus.NOT_FOUND,
    "verify_backup": CONFLICT,
    "download_backup": HTTPStatus.NOT_FOUND,
    "delete_backup": CONFLICT,
    "request_snapshot": CONFLICT,
    "delete_snapshot": HTTPStatus.NOT_FOUND,
    "rename_managed_instance": HTTPStatus.BAD_REQUEST,
    "delete_managed_instance": HTTPStatus.BAD_REQUEST,
    "sweep": UNAVAILABLE,
    "refill": UNAVAILABLE,
}


class Calls:
    """Calls the operations of the generated client, by the names that our functions have."""

    def __init__(self, package: ModuleType, server: Server) -> None:
        token = bearer(server.settings)["Authorization"].removeprefix("Bearer ")
        self.client = package.AuthenticatedClient(
            base_url=server.url, token=token, raise_on_unexpected_status=True, timeout=httpx.Timeout(60)
        )
        api = importlib.import_module(f"{PACKAGE}.api")
        found = pkgutil.walk_packages(api.__path__, f"{api.__name__}.")
        self.open = {one.name for one in found if not one.ispkg}

    def __call__(self, operation: str, *path: object, **arguments: Any) -> Any:
        """What the operation answers, parsed; a `body` becomes the model that it takes."""
        (name,) = [one for one in self.open if _is(one, operation)]
        self.open.remove(name)
        call: Callable[..., Any] = importlib.import_module(name).sync_detailed
        if "body" in arguments:
            arguments["body"] = get_type_hints(call)["body"].from_dict(arguments["body"])
        answer = call(*path, client=self.client, **arguments)
        assert answer.status_code == OTHER_STATUSES.get(operation, answer.status_code), answer.content
        assert operation in OTHER_STATUSES or answer.status_code < HTTPStatus.MULTIPLE_CHOICES, answer.content
        assert (answer.parsed is None) == (operation in WITHOUT_ANSWER and not answer.content)
        return answer.parsed


def _is(module: str, operation: str) -> bool:
    """Whether the module has the operation: its name is followed by its path and verb."""
    name = module.rpartition(".")[2]
    rest = name.removeprefix(f"{operation}_")
    return name == operation or (
        rest != name and rest.startswith(("v2", "v_2", "connect", "health", "livez", "readyz", "get"))
    )


@pytest.fixture
def package(serving: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generated client of the API that serves."""
    (tmp_path / "configuration.yml").write_text("post_hooks: []")
    command = (
        *(sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{serving.url}/openapi.json"),
        *("--meta", "none", "--config", str(tmp_path / "configuration.yml"), "--fail-on-warning"),
        *("--output-path", str(tmp_path / PACKAGE)),
    )
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a generator of ours
    assert run.returncode == 0, run.stdout + run.stderr
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(PACKAGE)


async def test_every_endpoint_is_called_when_a_client_is_generated(
    serving: Server, package: ModuleType
) -> None:
    calls = Calls(package, serving)
    with calls.client:
        await asyncio.to_thread(_call_all, calls)
    assert calls.open == set()


def _call_all(calls: Calls) -> None:
    _call_what_operates(calls)
    instance = calls("create_instance", body={"name": "One", "databaseTemplate": "Minimal"})
    assert instance.id == instance.ods_instance_id
    assert calls("get_job", instance.job_id).status == "Pending"
    _call_instances(calls, instance.id)
    managed = calls("create_managed_instance", body={"name": "Two", "databaseTemplate": "Sample"})
    assert [one.id for one in calls("list_managed_instances")] == [instance.id, managed.id]
    assert calls("get_managed_instance", managed.id).status == "PendingCreate"
    assert calls("rename_managed_instance", managed.id, body={"name": "Three"}).status == 400
    assert "id" in calls("delete_managed_instance", managed.id).errors
    _call_copies(calls, instance.id)
    _call_ods_instances(calls)
    assert instance.job_id in {job.job_id for job in calls("list_jobs")}
    assert calls("abandon_job", instance.job_id).status == CONFLICT
    assert calls("cancel_job", instance.job_id).status == "Error"


def _call_what_operates(calls: Calls) -> None:
    form = {"ClientId": "generated", "ClientSecret": SECRET, "DisplayName": "Generated"}
    assert calls("register", body=form).status == 200
    grant = {"grant_type": "client_credentials", "scope": "edfi_admin_api/full_access"}
    assert calls("token", body=grant | {"client_id": "generated", "client_secret": SECRET}).expires_in > 0
    assert calls("get_information").version == "2.4.0"
    assert calls("get_tenancy").tenants == []
    assert calls("get_health").results
    assert calls("get_livez").status == "alive"
    assert calls("get_readyz").status == "ready"
    for operation in (
        "head_health",
        "head_information",
        "head_livez",
        "head_readyz",
        "get_drift",
        "get_recovery_plan",
        "get_spares",
        "list_audit",
        "list_templates",
    ):
        calls(operation)
    assert calls("recover", body={}).is_over
    for operation in ("sweep", "refill"):
        assert calls(operation).status == 503
    assert calls("list_tenants")[0].tenant_name == calls("get_tenant", "default").tenant_name
    assert calls("get_tenant_view", "default").ods_instances == []


def _call_instances(calls: Calls, number: int) -> None:
    (listed,) = calls("list_instances", name="One", include=["usage"])
    assert (listed.id, listed.usage, listed.usage_obstacle) == (number, None, "The instance has no database.")
    assert calls("get_instance", number).status == "Pending"
    assert calls("get_instance_database", number).status == 404
    assert calls("get_instance_usage", number).status == 404
    for operation in ("retry_instance", "delete_instance", "reset_instance", "undo_reset"):
        assert calls(operation, number).next_step
    assert calls("undelete_instance", number).next_step
    assert calls("purge_trash", number).next_step
    wanted = {"instances": [{"name": "Planned", "databaseTemplate": "Minimal"}]}
    (planned,) = calls("create_instances", body=wanted, dry_run=True, idempotency_key="a key").instances
    assert planned.database_name == "EdFi_Ods_Planned_Minimal"
    assert "ids[0]" in calls("delete_instances", body={"ids": [number]}).errors
    assert calls("list_trash") == []
    assert calls("rename_instance", number, body={"name": "Other"}).state == "Pending"
    attributes = {
        "protected": True,
        "labels": {"district": "255901", "old": None},
        "contexts": [{"contextKey": "k", "contextValue": "generated"}],
    }
    changed = calls("change_instance", number, body=attributes)
    assert (changed.protected, changed.labels["district"]) == (True, "255901")
    assert changed.contexts[0].context_value == "generated"
    assert calls("adopt_instance_database", number, body={}).detail


def _call_copies(calls: Calls, number: int) -> None:
    assert calls("create_backup", number).detail
    assert calls("list_backups") == calls("list_backups_of_instance", number) == []
    for operation in ("verify_backup", "delete_backup"):
        assert calls(operation, uuid4()).detail
    for operation in ("get_backup", "download_backup"):
        assert calls(operation, uuid4()).status == 404
    assert calls("request_snapshot", number).next_step
    assert calls("list_snapshots", number) == []
    assert calls("delete_snapshot", number, 1).status == 404


def _call_ods_instances(calls: Calls) -> None:
    new = {"name": "An ODS", "instanceType": "x", "connectionString": STRING}
    number = calls("create_ods_instance", body=new).id
    assert calls("update_ods_instance", number, body=new).name == "An ODS"
    assert calls("list_ods_instances", order_by="Id", direction="desc")[0].id == number
    context = {"odsInstanceId": number, "contextKey": "k", "contextValue": "v"}
    derivative = {"odsInstanceId": number, "derivativeType": "Snapshot", "connectionString": STRING}
    parts = [
        (kind, content, calls(f"create_{kind}", body=content).id)
        for kind, content in (("context", context), ("derivative", derivative))
    ]
    shown = calls("get_ods_instance", number)
    assert len(shown.ods_instance_contexts) == len(shown.ods_instance_derivatives) == 1
    for kind, content, part in parts:
        assert [one.id for one in calls(f"list_{kind}s")] == [part]
        assert calls(f"get_{kind}", part).id == calls(f"update_{kind}", part, body=content).id
        assert calls(f"delete_{kind}", part).status == 200
    assert calls("list_applications", number) == []
    (alone,) = calls("list_organizations_of_one", number)
    assert (alone.id, alone.education_organizations) == (number, [])
    assert alone in calls("list_organizations")
    assert calls("refresh_all").job_id
    assert calls("refresh_one", number).job_id
    assert calls("delete_ods_instance", number).status == 200
