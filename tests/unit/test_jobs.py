from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from temporalio.converter import default

from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob, JobFailure, workflow_id
from ods.registry.instances.status import Operation
from ods.registry.storage.models import DbInstance
from ods.settings.settings import Settings
from ods.tenants.job_owners import owner_of
from tests.unit.example import JOB


@pytest.mark.parametrize(("tenant", "expected"), [("default", "42"), ("tenant1", "tenant1:42")])
def test_workflow_is_named_after_the_ods_instance_when_a_job_is_carried_out(
    tenant: str, expected: str
) -> None:
    assert replace(JOB, tenant=tenant).workflow_id == expected


def test_workflow_is_named_alike_when_only_tenant_and_id_are_known() -> None:
    for job in (JOB, replace(JOB, tenant="tenant1")):
        assert workflow_id(job.tenant, job.ods_instance_id) == job.workflow_id


def test_jobs_of_an_instance_share_a_workflow_id_when_they_follow_each_other() -> None:
    assert replace(JOB, operation=Operation.DELETE, number=4, attempt=1).workflow_id == JOB.workflow_id


@pytest.mark.parametrize(
    ("operation", "known", "publication"),
    [
        (Operation.CREATE, (None, None), (3, 2)),
        (Operation.RENAME, (None, None), (3, 2)),
        (Operation.RENAME, (1, 1), (3, 2)),  # after a delete that failed
        (Operation.DELETE, (1, 4), (1, 4)),
        (Operation.DELETE, (1, None), (1, 0)),
        (Operation.DELETE, (None, None), (3, 2)),  # requested before that was recorded
    ],
)
def test_job_and_its_row_name_the_same_last_publication_when_deletes_publish_nothing(
    operation: Operation, known: tuple[int | None, int | None], publication: tuple[int, int]
) -> None:
    number, attempt = known
    job = replace(JOB, operation=operation, number=3, attempt=2, known_number=number, known_attempt=attempt)
    row = DbInstance(operation=operation, job_number=3, attempt=2, known_number=number, known_attempt=attempt)
    assert job.publication == row.publication == publication
    owner = owner_of(job)
    assert owner.publication == publication


@pytest.mark.parametrize(
    ("operation", "job_id"),
    [(Operation.CREATE, "CreateInstanceJob-42-3"), (Operation.DELETE, "DeleteInstanceJob-42-3")],
)
def test_job_is_named_after_operation_instance_and_number_when_it_is_recorded(
    operation: Operation, job_id: str
) -> None:
    assert replace(JOB, operation=operation).job_id == job_id
    assert replace(JOB, operation=operation, attempt=9).job_id == job_id


def test_jobs_are_one_attempt_when_request_and_attempt_are_the_same() -> None:
    assert replace(JOB, number=9).is_attempt(JOB)
    assert not replace(JOB, attempt=3).is_attempt(JOB)
    assert not replace(JOB, request="7c1f0f6e-1111-4222-8333-444444444444").is_attempt(JOB)


def test_job_is_read_when_it_carries_requests_as_a_worker_of_before_wrote_it() -> None:
    converter = default().payload_converter
    payload = converter.to_payload({**asdict(JOB), "requests": ["7c1f0f6e-1111-4222-8333-444444444444"]})
    assert converter.from_payload(payload, InstanceJob) == JOB


def test_policy_is_what_the_settings_say_when_a_job_is_made(values: dict[str, Any]) -> None:
    settings = Settings(
        **values,
        task_queue="q",
        ddl_attempts=3,
        heartbeat_timeout=4,
        decision_window=5,
        outage_timeout=7,
        ddl_concurrency=6,
    )
    assert ExecutionPolicy.from_settings(settings) == ExecutionPolicy(
        "q-ddl", 3, 4, 5, 7, backup_queue="q-backup"
    )


def test_no_secret_travels_when_a_job_is_carried_out(values: dict[str, Any]) -> None:
    failure = JobFailure(replace(JOB, policy=ExecutionPolicy.from_settings(Settings(**values))), "reason")
    assert "secret" not in repr(failure)
    assert {field.name for field in fields(InstanceJob)}.isdisjoint(
        {"dsn", "password", "connection_string", "key"}
    )
