"""What clients are shown of rows: response models are made of attributes, and written under wire names."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm.attributes import set_committed_value

from api.routes.audit import AuditAnswer
from api.routes.jobs import JobAnswer
from api.schemas.base import ResponseModel
from api.schemas.instances import Accepted, Instance
from api.schemas.ods_instances import ApplicationAnswer, ContextAnswer, DerivativeAnswer, OdsInstanceAnswer
from ods.model.arguments import MakeArguments
from ods.model.operations import Operation, Template
from ods.model.origins import FROM_TEMPLATE
from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob
from ods.registry.instances.store import Requested
from ods.registry.ods_instances.applications import Application
from ods.registry.storage.models import (
    AuditRow,
    DbInstance,
    InstanceDatabase,
    Job,
    OdsInstance,
    OdsInstanceContext,
    OdsInstanceDerivative,
)

AT = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - the registry holds UTC without a zone
WIRE_AT = "2026-01-02T03:04:05Z"

INSTANCE = DbInstance(
    id=7,
    name="Grand Bend",
    ods_instance_id=42,
    ods_instance_name="Grand Bend",
    status="Completed",
    database_template="Minimal",
    database_name="EdFi_Ods_Grand_Bend_Minimal",
    last_refreshed=AT,
    last_modified=AT,
    operation="Create",
    arguments_column={"origin": {}},
    job_number=1,
    attempt=1,
    mark=UUID(int=1),
    new_name=None,
    error_message=None,
    is_protected=True,
    labels={"district": "255901"},
    database_id=UUID(int=3),
)
set_committed_value(INSTANCE, "database", InstanceDatabase(origin_column={}, template_generation=3))
JOB = InstanceJob(
    *(
        "default",
        Operation.CREATE,
        MakeArguments(FROM_TEMPLATE),
        7,
        42,
        1,
        1,
        "Grand Bend",
        Template.MINIMAL,
    ),
    *("EdFi_Ods_Grand_Bend_Minimal", str(UUID(int=3)), str(UUID(int=1)), str(UUID(int=2))),
    published=False,
    policy=ExecutionPolicy("ods-ddl", 2, 2, 60, 60, "ods-backup"),
    installation="an-installation",
)
RUNNING = {
    "job_id": "CreateInstanceJob-42-1",
    "status": "InProgress",
    "operation": "Create",
    "instance_id": 7,
    "created_at": AT,
    "started_at": AT,
}
WAITING = {"waiting_for": "The server is away.", "waiting_since": AT, "waiting_until": AT}
SHOWN_JOB = {
    "jobId": "CreateInstanceJob-42-1",
    "status": "InProgress",
    "operation": "Create",
    "instanceId": 7,
    "createdAt": WIRE_AT,
    "startedAt": WIRE_AT,
    "finishedAt": None,
    "errorMessage": None,
    "percent": None,
    "etaSeconds": None,
}
CASES: dict[str, tuple[type[ResponseModel], object, dict[str, Any]]] = {
    "instance": (
        Instance,
        INSTANCE,
        {
            "id": 7,
            "name": "Grand Bend",
            "odsInstanceId": 42,
            "odsInstanceName": "Grand Bend",
            "status": "Completed",
            "databaseTemplate": "Minimal",
            "databaseName": "EdFi_Ods_Grand_Bend_Minimal",
            "lastRefreshed": WIRE_AT,
            "lastModifiedDate": WIRE_AT,
            "operation": "Create",
            "newName": None,
            "errorMessage": None,
            "templateGeneration": 3,
            "copyOf": None,
            "mode": None,
            "backupId": None,
            "protected": True,
            "description": None,
            "labels": {"district": "255901"},
            "contexts": [],
            "deleteDropsDatabase": False,
            "retryDropsDatabase": False,
            "jobId": None,
            "progress": None,
            "waiting": None,
            "links": {"job": None, "workflow": None},
        },
    ),
    "accepted": (
        Accepted,
        Requested(INSTANCE, JOB),
        {
            "id": 7,
            "name": "Grand Bend",
            "odsInstanceId": 42,
            "status": "Completed",
            "jobId": "CreateInstanceJob-42-1",
            "location": "/v2/jobs/CreateInstanceJob-42-1",
        },
    ),
    "job": (JobAnswer, Job(**RUNNING), {**SHOWN_JOB, "waiting": None}),
    "waiting job": (
        JobAnswer,
        Job(**RUNNING, **WAITING),
        {**SHOWN_JOB, "waiting": {"for": "The server is away.", "since": WIRE_AT, "until": WIRE_AT}},
    ),
    "ODS instance": (
        OdsInstanceAnswer,
        OdsInstance(ods_instance_id=42, name="North", instance_type=None, connection_string="secret"),
        {"id": 42, "name": "North", "instanceType": None},
    ),
    "context": (
        ContextAnswer,
        OdsInstanceContext(id=1, ods_instance_id=42, key="schoolYear", value="2026"),
        {"id": 1, "odsInstanceId": 42, "contextKey": "schoolYear", "contextValue": "2026"},
    ),
    "derivative": (
        DerivativeAnswer,
        OdsInstanceDerivative(
            id=1, ods_instance_id=42, derivative_type="Snapshot", connection_string="secret"
        ),
        {"id": 1, "odsInstanceId": 42, "derivativeType": "Snapshot"},
    ),
    "application": (
        ApplicationAnswer,
        Application(3, "SIS", "Claims", 4, [5], [6], [42], enabled=True),
        {
            "id": 3,
            "applicationName": "SIS",
            "claimSetName": "Claims",
            "educationOrganizationIds": [5],
            "vendorId": 4,
            "profileIds": [6],
            "odsInstanceIds": [42],
            "enabled": True,
        },
    ),
    "audit": (
        AuditAnswer,
        AuditRow(
            id=1, at=AT, client=None, address="10.0.0.1", method="GET", path="/", instance_id=7, status=200
        ),
        {
            "id": 1,
            "at": WIRE_AT,
            "client": None,
            "address": "10.0.0.1",
            "method": "GET",
            "path": "/",
            "instanceId": 7,
            "jobId": None,
            "status": 200,
            "title": None,
            "omitted": 0,
            "sentBytes": None,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_row_is_shown_under_wire_names_when_a_response_model_is_made_of_it(case: str) -> None:
    model, row, shown = CASES[case]
    if isinstance(row, AuditRow):
        row.omitted = 0
    assert model.model_validate(row).model_dump(mode="json") == shown
