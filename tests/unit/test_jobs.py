from dataclasses import fields, replace
from typing import Any

import pytest

from ods.registry.instances.jobs import ExecutionPolicy, InstanceJob, JobFailure, workflow_id
from ods.settings.settings import Settings
from tests.job_kinds import of_kind
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
    assert of_kind(JOB, "Delete", number=4, attempt=1).workflow_id == JOB.workflow_id


@pytest.mark.parametrize(
    ("kind", "job_id"),
    [
        ("Create", "CreateInstanceJob-42-3"),
        ("Delete", "DeleteInstanceJob-42-3"),
        ("Trash", "DeleteInstanceJob-42-3"),
        ("Detach", "DeleteInstanceJob-42-3"),
        ("UndoReset", "UndoResetInstanceJob-42-3"),
    ],
)
def test_job_is_named_after_operation_instance_and_number_when_it_is_recorded(kind: str, job_id: str) -> None:
    assert of_kind(JOB, kind).job_id == job_id
    assert of_kind(JOB, kind, attempt=9).job_id == job_id


def test_jobs_are_one_attempt_when_request_and_attempt_are_the_same() -> None:
    assert replace(JOB, number=9).is_attempt(JOB)
    assert not replace(JOB, attempt=3).is_attempt(JOB)
    assert not replace(JOB, request="7c1f0f6e-1111-4222-8333-444444444444").is_attempt(JOB)


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
    assert ExecutionPolicy.from_settings(settings) == ExecutionPolicy("q-ddl", 3, 4, 5, 7, "q-backup")


def test_no_secret_travels_when_a_job_is_carried_out(values: dict[str, Any]) -> None:
    failure = JobFailure(replace(JOB, policy=ExecutionPolicy.from_settings(Settings(**values))), "reason")
    assert "secret" not in repr(failure)
    assert {field.name for field in fields(InstanceJob)}.isdisjoint(
        {"dsn", "password", "connection_string", "key"}
    )
