"""No span that is sent holds a secret, whatever has failed: each kind of failure holds one of its own."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta

import asyncpg
import httpx
import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.context import ActivityContext
from ods.databases.errors import DatabaseFaultError
from ods.observability.tracing import provider
from ods.registry.storage.connecting import connect
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from ods.temporal import client as temporal_client
from tests.api.service import NOBODY, bearer, client_of, running
from tests.collector import tracing

PERSON = "Jane-Roe"
"""Part of each secret, so that one search finds them all."""


class Strict(BaseModel):
    """Refuses with what was given in its message."""

    number: int


def fail(error: BaseException) -> Callable[[str], None]:
    def raise_it(secret: str) -> None:
        error.args = (secret, *error.args[1:])
        raise error

    return raise_it


def chained(secret: str) -> None:
    try:
        int(secret)
    except ValueError as error:
        raise RuntimeError(f"outer {secret}") from error


def grouped(secret: str) -> None:
    raise ExceptionGroup(secret, [ValueError(secret)])


def noted(secret: str) -> None:
    error = ValueError("see the note")
    error.add_note(secret)
    raise error


def invalid(secret: str) -> None:
    Strict.model_validate({"number": secret})


def of_program(secret: str) -> None:
    raise subprocess.CalledProcessError(1, ["pg_dump", secret], secret, secret)


def of_json(secret: str) -> None:
    json.loads(f"{{{secret}")


def of_encoding(secret: str) -> None:
    secret.encode().decode("utf-16-be", errors="strict").encode("ascii")


def of_import(secret: str) -> None:
    raise ModuleNotFoundError(secret, name=secret, path=secret)


def application(secret: str) -> None:
    raise ApplicationError(secret, secret, type="Fault", non_retryable=True)


def application_type(secret: str) -> None:
    raise ApplicationError("no", type=secret, non_retryable=True)


def database_fault(secret: str) -> None:
    raise DatabaseFaultError(secret)


ACTIVITY_FAULTS: dict[str, Callable[[str], None]] = {
    "value": fail(ValueError()),
    "key": fail(KeyError()),
    "os": fail(OSError()),
    "timeout": fail(TimeoutError()),
    "connection": fail(ConnectionRefusedError()),
    "attribute": fail(AttributeError()),
    "chained": chained,
    "grouped": grouped,
    "noted": noted,
    "invalid": invalid,
    "program": of_program,
    "json": of_json,
    "encoding": of_encoding,
    "import": of_import,
    "application": application,
    "application type": application_type,
    "database fault": database_fault,
}


@activity.defn(name="fail")
async def failing_activity(kind: str, secret: str) -> None:
    ACTIVITY_FAULTS[kind](secret)


@workflow.defn(name="Failing")
class Failing:
    """Lets an activity fail, or fails by itself."""

    def __init__(self) -> None:
        self._told = False

    @workflow.signal(dynamic=True)
    def note(self, _name: str, _arguments: Sequence[RawValue]) -> None:
        self._told = True

    @workflow.run
    async def run(self, kind: str, secret: str) -> None:
        if kind == "workflow":
            raise ApplicationError(secret, type="Fault", non_retryable=True)
        if kind == "signal":
            await workflow.wait_condition(lambda: self._told)
            raise ApplicationError("told", non_retryable=True)
        await workflow.execute_activity(
            failing_activity,
            args=[kind, secret],
            start_to_close_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


STATEMENTS = {
    "syntax": "SELEKT '{0}'",
    "unfinished": "SELECT '{0}",
    "value": "SELECT '{0}'::int",
    "escaped": "SELECT E'\\'{0}'::int",
    "backslash": "SELECT 'a\\', '{0}'::int",
    "dollars": "SELECT $tag$ '{0} $tag$::int",
    "comment": "SELECT 1/0 -- {0}",
    "block comment": "SELECT 1/0 /* {0} */",
    "name": 'SELECT "{0}"',
    "password": "CREATE ROLE r1 PASSWORD '{0}' NOTHING",
    "role": 'GRANT nothing TO "{0}"',
    "plain name": "DROP DATABASE db_{1}",
    "two statements": "SELECT 1/0; DROP DATABASE db_{1}",
    "lower case": "drop database db_{1}",
    "constraint": "COMMENT ON TABLE t_{1} IS '{0}'",
}

REQUESTS: dict[str, Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]] = {
    "path": lambda client, secret: client.get(f"/v2/dbInstances/{secret}"),
    "no path": lambda client, secret: client.get(f"/{secret}"),
    "query": lambda client, secret: client.get("/v2/dbInstances", params={"name": secret, secret: "x"}),
    "header": lambda client, secret: client.get("/v2/dbInstances", headers={secret: secret}),
    "agent": lambda client, secret: client.get("/v2/dbInstances", headers={"User-Agent": secret}),
    "token": lambda client, secret: client.get(
        "/v2/dbInstances", headers={"Authorization": f"Bearer {secret}"}
    ),
    "tenant": lambda client, secret: client.get("/v2/dbInstances", headers={"Tenant": secret}),
    "method": lambda client, secret: client.request(secret.upper().replace("-", ""), "/v2/dbInstances"),
    "body": lambda client, secret: client.post("/v2/dbInstances", content=f'{{"name": {secret}'),
    "name": lambda client, secret: client.post(
        "/v2/dbInstances", json={"name": secret, "databaseTemplate": secret}
    ),
    "login": lambda client, secret: client.post(
        "/connect/token",
        data={"client_id": secret, "client_secret": secret, "grant_type": "client_credentials"},
    ),
    "baggage": lambda client, secret: client.get(
        "/v2/dbInstances",
        headers={
            "baggage": f"person={secret}",
            "tracestate": f"vendor={secret}",
            "traceparent": f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01",
        },
    ),
}


def secrets(kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each kind with a secret of its own."""
    for kind in kinds:
        yield kind, f"{PERSON}-{uuid.uuid4().hex[:12]}"


async def fail_in_workflows(client: Client, kinds: dict[str, str]) -> None:
    queue = f"failing-{uuid.uuid4()}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[Failing],
        activities=[failing_activity],
        interceptors=[ActivityContext("default")],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):

        async def run(kind: str, secret: str) -> None:
            handle = await client.start_workflow(
                Failing.run, args=[kind, secret], id=str(uuid.uuid4()), task_queue=queue
            )
            if kind == "signal":
                await handle.signal(secret)
            with pytest.raises(WorkflowFailureError):
                await handle.result()

        await asyncio.gather(*(run(kind, secret) for kind, secret in kinds.items()))


async def fail_in_statements(dsn: str, kinds: dict[str, str]) -> None:
    """Each statement by asyncpg's own session, and by SQLAlchemy's."""
    session = await connect(dsn, timeout=5)
    engine = create_registry_engine(dsn)
    for kind, secret in kinds.items():
        statement = STATEMENTS[kind].format(secret, secret.lower().replace("-", "_"))
        with pytest.raises(asyncpg.PostgresError):
            await session.execute(statement)
        with suppress(SQLAlchemyError):
            async with engine.connect() as connection:
                await connection.execute(text(statement.replace(":", r"\:")))
                pytest.fail("PostgreSQL has taken the statement")
    await session.close()
    await engine.dispose()


async def test_no_span_holds_a_secret_whatever_has_failed(
    settings: Settings, temporal: Client, registry_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_workflows = dict(secrets([*ACTIVITY_FAULTS, "workflow", "signal"]))
    in_statements = dict(secrets(STATEMENTS))
    in_requests = dict(secrets(REQUESTS))
    password = f"{PERSON}-{uuid.uuid4().hex[:12]}"
    away = settings.model_copy(
        update={"admin_dsn": SecretStr(f"postgresql://service:{password}@127.0.0.1:1/{PERSON}")}
    )
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    with tracing() as traces, provider.tracer().start_as_current_span("all failures"):
        await fail_in_workflows(await temporal_client.connect(settings), in_workflows)
        await fail_in_statements(registry_dsn, in_statements)
        for served in (settings, away):
            async with running(served, NOBODY) as app, client_of(app, headers=bearer(served)) as client:
                for kind, secret in in_requests.items():
                    await REQUESTS[kind](client, secret)

    everything = [*in_workflows.values(), *in_statements.values(), *in_requests.values(), password]
    assert len(everything) >= 30
    sent = b"".join(traces.received).lower()
    names = {span.name for span in traces.spans}
    assert {"RunActivity:fail", "CompleteWorkflow:Failing", "DROP DATABASE", "CREATE ROLE"} <= names
    assert len([span for span in traces.spans if span.status.code == 2]) >= len(everything)
    assert len(traces.named("RunActivity:fail")) == len(ACTIVITY_FAULTS)
    spellings = [PERSON, PERSON.replace("-", "_"), PERSON.replace("-", "")]
    assert [it for it in spellings if it.lower().encode() in sent] == []


async def test_spans_hold_secrets_when_nothing_filters_them(
    settings: Settings, temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ods.observability.tracing.redaction.RedactingExporter", lambda exporter: exporter)
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    kinds = dict(secrets(["value", "chained", "signal"]))
    with tracing() as traces, provider.tracer().start_as_current_span("all failures"):
        await fail_in_workflows(await temporal_client.connect(settings), kinds)
    sent = b"".join(traces.received)
    assert [kind for kind, secret in kinds.items() if secret.encode() not in sent] == []
