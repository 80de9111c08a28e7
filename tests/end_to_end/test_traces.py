"""From the request through the workflow and its activities to each statement: one trace.

`pytest -s tests/end_to_end/test_traces.py` prints the traces.
"""

import uuid
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from temporalio.client import Client

from ods.cli.output import say
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings, Trigger
from tests.api.service import bearer, served
from tests.collector import Collector, attributes, tracing, tree
from tests.servers import make_settings
from tests.workflows.sandbox import replay
from workflows.passes import PendingSweep

INSTANCES = "/v2/dbInstances"


@pytest.fixture
def traces() -> Iterator[Collector]:
    """The traces of this process; complete when the test has stopped API and worker, and the provider."""
    with tracing(OTEL_BSP_SCHEDULE_DELAY="50") as collector:
        yield collector


async def created(client: httpx.AsyncClient, settings: Settings, name: str) -> int:
    """Request an instance; returns its id."""
    answer = await client.post(
        INSTANCES, json={"name": name, "databaseTemplate": "Minimal"}, headers=bearer(settings)
    )
    assert answer.status_code == 202
    return int(answer.headers["Location"].rpartition("/")[2])


async def has_status(client: httpx.AsyncClient, settings: Settings, instance: int, status: str) -> None:
    """Wait until the instance has this status."""

    async def reached() -> bool:
        answer = await client.get(f"{INSTANCES}/{instance}", headers=bearer(settings))
        return answer.status_code == 200 and answer.json()["status"] == status

    await wait_until(reached, 30)


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


async def _complete(traces: Collector, name: str, times: int = 1) -> None:
    """Wait until as many spans of this name have arrived."""

    async def arrived() -> bool:
        return len(traces.named(name)) >= times

    await wait_until(arrived, 10)


async def test_create_is_one_trace_from_the_request_to_the_last_statement(
    traces: Collector, settings: Settings, temporal: Client, name: str
) -> None:
    async with served(settings, temporal) as client:
        instance = await created(client, settings, name)
        await has_status(client, settings, instance, "Completed")
        await _complete(traces, "CompleteWorkflow:CreateInstance")

    (request,) = traces.named(f"POST {INSTANCES}")
    trace = traces.trace(request.trace_id)
    say(f"\n{tree(trace)}")
    found = names(trace)
    for expected in (
        *("INSERT", "StartWorkflow:CreateInstance", "RunWorkflow:CreateInstance", "RunActivity:begin"),
        *("RunActivity:provision", "CREATE DATABASE", "COMMENT ON DATABASE", "COMMIT"),
    ):
        assert expected in found, expected
    below = {span.span_id for span in trace}
    assert [span.name for span in trace if span.parent_span_id not in {*below, b""}] == []
    (provision,) = traces.named("RunActivity:provision")
    assert attributes(provision)["ods.job_id"] == attributes(request)["ods.job_id"]
    (create,) = traces.named("CREATE DATABASE")
    assert create.parent_span_id == provision.span_id
    assert name.replace(" ", "_") not in tree(trace)
    workflow = temporal.get_workflow_handle(str(attributes(request)["ods.ods_instance_id"]))
    await replay(await workflow.fetch_history())  # as a worker without traces does it
    assert b"a-client" not in b"".join(traces.received)


async def test_delete_that_the_sweep_picks_up_is_linked_with_its_request_and_with_the_sweep(
    traces: Collector, postgres: EmbeddedPostgres, registry_dsn: str, temporal: Client, name: str
) -> None:
    settings = make_settings(postgres, registry_dsn, trigger=Trigger.SCHEDULED)

    async def sweep() -> None:
        await temporal.execute_workflow(
            PendingSweep.run, id=f"sweep-{uuid.uuid4()}", task_queue=settings.registry_queue
        )

    async with served(settings, temporal) as client:
        instance = await created(client, settings, name)
        await sweep()
        await has_status(client, settings, instance, "Completed")
        answer = await client.delete(f"{INSTANCES}/{instance}", headers=bearer(settings))
        assert answer.status_code in {202, 204}
        await sweep()
        await _complete(traces, "CompleteWorkflow:DeleteInstance")

    (request,) = traces.named(f"DELETE {INSTANCES}/{{instance_id}}")
    (link,) = request.links
    job = traces.trace(link.trace_id)
    say(f"\n{tree(traces.trace(request.trace_id))}\n\n{tree(job)}")
    waits, start, *_ = job
    assert (waits.name, start.name) == ("Job waits", "Start job")
    assert link.span_id == waits.span_id
    assert [it.trace_id for it in waits.links] == [request.trace_id]
    sweeping = [span for span in traces.named("RunActivity:dispatch_page") if span.links]
    assert {it.trace_id for it in start.links} <= {span.trace_id for span in sweeping}
    for expected in (
        "StartWorkflow:DeleteInstance",
        "RunWorkflow:DeleteInstance",
        "RunActivity:trash",
        "ALTER DATABASE",
    ):
        assert expected in names(job), expected


async def test_job_that_is_handed_over_is_in_the_trace_of_its_own_request(
    traces: Collector, postgres: EmbeddedPostgres, registry_dsn: str, temporal: Client, name: str
) -> None:
    settings = make_settings(postgres, registry_dsn, ddl_attempts=1, minimal_template="Nowhere")
    async with served(settings, temporal) as client:
        instance = await created(client, settings, name)
        await has_status(client, settings, instance, "Error")  # its workflow waits for a decision
        await client.delete(f"{INSTANCES}/{instance}", headers=bearer(settings))
        await _complete(traces, "CompleteWorkflow:DeleteInstance")

    (request,) = traces.named(f"DELETE {INSTANCES}/{{instance_id}}")
    # The sweep of the worker's start may have sent one as well, before this or afterwards.
    signals = traces.named("SignalWorkflow:hand_over")
    (signal,) = [one for one in signals if one.trace_id == request.trace_id]
    handled = traces.named("HandleSignal:hand_over")
    sent = (signal.trace_id, signal.span_id)
    (its,) = [one for one in handled if sent in [(link.trace_id, link.span_id) for link in one.links]]
    assert its.trace_id != signal.trace_id
    (run,) = traces.named("RunWorkflow:DeleteInstance")
    assert (run.trace_id, run.parent_span_id) == (signal.trace_id, signal.span_id)
