import httpx
import pytest
from jsonschema import Draft202012Validator

from api.routes.information import VERSION
from tests.api.server import Server, spellings


async def test_versions_and_tenancy_are_told_when_anybody_asks(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/")

    information = answer.json()
    assert information.pop("build") == information.pop("informationalVersion") == VERSION
    assert information == {
        "version": "2.4.0",
        "specificationVersion": "v2",
        "applicationName": "ODS instance management",
        "tenancy": {"multitenantMode": False, "tenants": []},
        "urls": {"openApiMetadata": "http://api/openapi.json", "tenancy": "http://api/v2/tenancy"},
    }


@pytest.mark.parametrize("target", ["/", "/?X=y"])
async def test_information_is_as_agreed_when_it_is_asked_for_by_bytes(contract: Server, target: str) -> None:
    answer = await contract.ask(f"GET {target}")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert set(answer.json()) == {
        *("version", "build", "specificationVersion", "applicationName", "informationalVersion"),
        *("tenancy", "urls"),
    }
    assert b'"specificationVersion":"v2"' in answer.body
    assert b'"tenancy":{"multitenantMode":false,"tenants":[]}' in answer.body


@pytest.mark.parametrize("spelled", spellings("/health"))
async def test_health_is_as_agreed_when_it_is_asked_for_by_bytes(contract: Server, spelled: str) -> None:
    answer = await contract.ask(f"GET {spelled}")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json()["status"] in {"Healthy", "Degraded"}
    assert all(set(part) == {"name", "status"} for part in answer.json()["results"])


async def test_every_endpoint_is_documented_when_the_description_is_asked_for(
    idle_stranger: httpx.AsyncClient,
) -> None:
    description = (await idle_stranger.get("/openapi.json")).json()
    operations = {
        f"{verb.upper()} {path}": operation
        for path, verbs in description["paths"].items()
        for verb, operation in verbs.items()
    }

    assert set(operations) == {
        "GET /",
        "HEAD /",
        "GET /health",
        "HEAD /health",
        "GET /livez",
        "HEAD /livez",
        "GET /readyz",
        "HEAD /readyz",
        "POST /connect/register",
        "POST /connect/token",
        "POST /v2/dbInstances",
        "GET /v2/dbInstances",
        "GET /v2/dbInstances/{instance_id}",
        "PUT /v2/dbInstances/{instance_id}",
        "DELETE /v2/dbInstances/{instance_id}",
        "POST /v2/dbInstances/{instance_id}/retry",
        "PATCH /v2/dbInstances/{instance_id}",
        "GET /v2/dbInstances/{instance_id}/usage",
        "POST /v2/dbInstances/{instance_id}/undelete",
        "POST /v2/dbInstances/{instance_id}/reset",
        "POST /v2/dbInstances/{instance_id}/reset/undo",
        "POST /v2/dbInstances/bulk",
        "POST /v2/dbInstances/bulk/delete",
        "POST /v2/dbInstances/{instance_id}/backups",
        "GET /v2/dbInstances/{instance_id}/backups",
        "GET /v2/backups",
        "GET /v2/backups/{backup_id}",
        "DELETE /v2/backups/{backup_id}",
        "GET /v2/backups/{backup_id}/dump",
        "POST /v2/backups/{backup_id}/verify",
        "POST /v2/odsInstances/{instance_id}/snapshots",
        "GET /v2/odsInstances/{instance_id}/snapshots",
        "DELETE /v2/odsInstances/{instance_id}/snapshots/{snapshot_id}",
        "DELETE /v2/trash/{instance_id}",
        "GET /v2/trash",
        "GET /v2/dbInstances/{instance_id}/database",
        "POST /v2/dbInstances/{instance_id}/adopt",
        "POST /v2/odsInstances/manage",
        "GET /v2/odsInstances/manage",
        "GET /v2/odsInstances/manage/{instance_id}",
        "PUT /v2/odsInstances/manage/{instance_id}",
        "DELETE /v2/odsInstances/manage/{instance_id}",
        "GET /v2/odsInstances",
        "POST /v2/odsInstances",
        "GET /v2/odsInstances/{instance_id}",
        "PUT /v2/odsInstances/{instance_id}",
        "DELETE /v2/odsInstances/{instance_id}",
        "GET /v2/odsInstances/{instance_id}/applications",
        "GET /v2/odsInstanceContexts",
        "POST /v2/odsInstanceContexts",
        "GET /v2/odsInstanceContexts/{context_id}",
        "PUT /v2/odsInstanceContexts/{context_id}",
        "DELETE /v2/odsInstanceContexts/{context_id}",
        "GET /v2/odsInstanceDerivatives",
        "POST /v2/odsInstanceDerivatives",
        "GET /v2/odsInstanceDerivatives/{derivative_id}",
        "PUT /v2/odsInstanceDerivatives/{derivative_id}",
        "DELETE /v2/odsInstanceDerivatives/{derivative_id}",
        "GET /v2/jobs",
        "GET /v2/jobs/{jobId}",
        "POST /v2/jobs/{jobId}/cancel",
        "POST /v2/jobs/{jobId}/abandon",
        "GET /v2/templates",
        "POST /v2/sweep",
        "GET /v2/audit",
        "GET /v2/drift",
        "GET /v2/recovery",
        "POST /v2/recovery",
        "POST /v2/odsInstances/{instance_id}/edOrgs/refresh",
        "POST /v2/odsInstances/edOrgs/refresh",
        "GET /v2/odsInstances/edOrgs",
        "GET /v2/odsInstances/{instance_id}/edOrgs",
        "GET /v2/tenancy",
        "GET /v2/tenants",
        "GET /v2/tenants/{name}",
        "GET /v2/tenants/{name}/odsInstances/edOrgs",
        "POST /v2/spares/refill",
        "GET /v2/spares",
    }
    anonymous = operations.pop("GET /v2/tenancy")
    assert "security" not in anonymous
    protected = {name: operation for name, operation in operations.items() if " /v2/" in name}
    for operation in protected.values():
        assert operation["security"] == [{"bearerToken": []}]
        assert {"401", "403"} <= set(operation["responses"])
    for operation in operations.values():  # FastAPI's own 422 is none of the answers
        takes_key = any(
            parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", [])
        )
        assert ("422" in operation["responses"]) is takes_key
    assert "409" in operations["DELETE /v2/dbInstances/{instance_id}"]["responses"]
    assert description["components"]["securitySchemes"]["bearerToken"]["scheme"] == "bearer"
    body = operations["POST /v2/dbInstances"]["requestBody"]["content"]["application/json"]["schema"]
    assert Draft202012Validator(body).is_valid({"name": "A name", "databaseTemplate": "Sample"})
    assert not Draft202012Validator(body).is_valid({"name": "A name", "databaseTemplate": "sample"})
    assert not Draft202012Validator(body).is_valid({"databaseTemplate": "Sample"})


async def test_documentation_is_a_page_when_anybody_asks(idle_stranger: httpx.AsyncClient) -> None:
    answer = await idle_stranger.get("/docs")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
