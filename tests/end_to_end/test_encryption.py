"""With a key of its own, the service leaves nothing in Temporal's histories that could be read without it."""

import base64
import json
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from api.security.tokens import READ_ONLY
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.model.operations import JobStatus
from ods.registry.instances.jobs import InstanceJob
from ods.settings.settings import Settings
from ods.temporal import client
from ods.tenants.tenant import Tenant
from tests.api.server import serving
from tests.api.service import tokens
from tests.end_to_end.conftest import Operator
from tests.secret_search import as_secret
from tests.servers import MINIMAL_TEMPLATE, make_settings
from worker import ddl_worker, registry_worker

KEY = as_secret(base64.b64encode(b"payload key of 32 bytes, for us!").decode())


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Settings with a key for payloads, and no template."""
    return make_settings(postgres, registry_dsn, payload_key=KEY)


@pytest.fixture
async def temporal(temporal: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that was connected as the API and the worker connect theirs."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    return await client.connect(settings)


@pytest.mark.usefixtures("workers")
async def test_histories_hold_no_readable_job_when_there_is_a_key(
    operator: Operator, temporal: Client, admin: Any, name: str
) -> None:
    created = await operator.create(name)
    assert await operator.ended(created) is JobStatus.COMPLETED
    deleted = await operator.delete(created)
    assert await operator.ended(deleted) is JobStatus.COMPLETED

    runs = [run async for run in temporal.list_workflows(f"WorkflowId = '{created.workflow_id}'")]
    assert len(runs) == 2
    for run in runs:
        assert run.typed_search_attributes.search_attributes  # they are for searching, and stay readable
        handle = temporal.get_workflow_handle(run.id, run_id=run.run_id)
        assert_unreadable(await readable(handle), created)


@pytest.mark.usefixtures("workers")
async def test_reason_is_unreadable_but_told_when_an_encrypted_job_fails(
    operator: Operator, temporal: Client, admin: Any, name: str
) -> None:
    database = f"EdFi_Ods_{name.replace(' ', '_')}_Minimal"
    await admin.execute(f'CREATE DATABASE "{database}"')
    failed = await operator.create(name)
    assert await operator.ended(failed) is JobStatus.ERROR
    assert "does not belong" in ((await operator.instance(failed)).error_message or "")
    await operator.temporal("workflow", "signal", "--workflow-id", failed.workflow_id, "--name", "abandon")
    handle = temporal.get_workflow_handle(failed.workflow_id)
    await wait_until(lambda: has_event(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED), 10)

    history = await readable(handle)
    assert "does not belong" not in history
    assert "Encoded failure" in history
    assert_unreadable(history, failed)
    await admin.execute(f'DROP DATABASE "{database}"')


@pytest.mark.usefixtures("workers")
async def test_command_line_shows_what_was_encrypted_when_the_api_decrypts_it_for_a_token(
    operator: Operator, temporal: Client, settings: Settings, name: str
) -> None:
    job = await operator.create(name)
    assert await operator.ended(job) is JobStatus.COMPLETED
    show = ("workflow", "show", "--workflow-id", job.workflow_id, "--output", "json")
    reader = f"Bearer {tokens(settings).issue('a-client', READ_ONLY)}"
    async with serving(settings, ODS_PAYLOAD_KEY=KEY, ODS_CODEC_SERVER="true") as api:
        codec = ("--codec-endpoint", f"{api.url}/codec")
        shown = readable_text(await operator.temporal(*show, *codec, "--codec-auth", reader))
        for words in (job.name, job.database, job.mark, job.job_id):
            assert words in shown
        assert_unreadable(readable_text(await operator.temporal(*show)), job)

        signal = ("workflow", "signal", "--workflow-id", job.workflow_id, "--name", "retry")
        with pytest.raises(AssertionError, match="already completed"):  # as without the codec
            await operator.temporal(*signal, *codec, "--codec-auth", reader)

        for authorization in ((), ("--codec-auth", f"{reader}x")):
            with pytest.raises(AssertionError) as refused:  # it tries again until its time is over
                await operator.temporal(*show, *codec, *authorization, "--command-timeout", "2s")
            assert "failed getting next history event" in str(refused.value)
            for words in (job.name, job.database, job.mark, job.job_id):
                assert words not in str(refused.value)
        assert "401" in await api.stop()


async def test_job_waits_and_nothing_is_told_when_the_worker_has_no_key(
    operator: Operator, temporal: Client, settings: Settings, tenant: Tenant, name: str
) -> None:
    job = await operator.create(name)
    handle = temporal.get_workflow_handle(job.workflow_id)
    keyless = await client.connect(settings.model_copy(update={"payload_key": None}))
    async with registry_worker(keyless, tenant):
        await wait_until(lambda: has_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED), 20)
    history = await readable(handle)
    assert "Traceback" not in history
    assert ".py" not in history
    assert_unreadable(history, job)
    assert (await operator.instance(job)).status == "Pending"

    async with registry_worker(temporal, tenant), ddl_worker(temporal, tenant):
        assert await operator.ended(job) is JobStatus.COMPLETED


async def has_event(handle: WorkflowHandle[Any, Any], kind: EventType.ValueType) -> bool:
    return kind in [event.event_type async for event in handle.fetch_history_events()]


_NOTES_OF_THE_SDK = {"data", "patch-data"}
"""In the details of markers: which patch, which local activity. Never encrypted, they may not tell more."""


async def readable(handle: WorkflowHandle[Any, Any]) -> str:
    """Everything of the history but search attributes, with what base64 hides."""
    return readable_text((await handle.fetch_history()).to_json())


def readable_text(history: str) -> str:
    """The same of a history in JSON."""
    texts: list[str] = []
    _collect(json.loads(history), texts)
    return "\n".join(texts)


def _collect(node: Any, texts: list[str]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in {"searchAttributes", "indexedFields"}:
                texts.append(key)
                if key in _NOTES_OF_THE_SDK and isinstance(value, dict):
                    texts += [_decoded(payload["data"]) for payload in value["payloads"]]
                    continue
                if key == "data":
                    texts.append(_decoded(value))
                _collect(value, texts)
    elif isinstance(node, list):
        for value in node:
            _collect(value, texts)
    else:
        texts.append(str(node))


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")


def assert_unreadable(history: str, job: InstanceJob) -> None:
    encrypted = base64.b64encode(b"binary/encrypted").decode()
    assert encrypted in history
    for words in (job.name, job.database, job.mark, job.job_id, MINIMAL_TEMPLATE, "Minimal", "json/plain"):
        assert words not in history
    assert base64.b64encode(b"json/plain").decode() not in history
