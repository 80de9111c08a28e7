"""deploy/temporal: the jobs that prepare the Temporal server, and the server's dynamic configuration."""

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from ods.embedded.temporal_server import DYNAMIC_CONFIG
from tests.deployment import compose
from tests.servers import binary

SERVICES = compose.services(compose.made_dotenv())
FOLDER = compose.ROOT / "deploy" / "temporal"
SCHEMAS = "/etc/temporal/schema/postgresql/v12"
CONNECTION = "--plugin postgres12 --ep postgres -p 5432 -u temporal"
STEPS = [
    f"{CONNECTION} --db temporal setup-schema -v 0.0",
    f"{CONNECTION} --db temporal update-schema -d {SCHEMAS}/temporal/versioned",
    f"{CONNECTION} --db temporal_visibility setup-schema -v 0.0",
    f"{CONNECTION} --db temporal_visibility update-schema -d {SCHEMAS}/visibility/versioned",
]


def run(service: str, programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command of `service` as its container does, with the programs of the folder `programs`."""
    words = [word.replace("/deploy/", f"{FOLDER}/") for word in SERVICES[service]["command"]]
    return subprocess.run(  # noqa: S603 - our own scripts
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=SERVICES[service]["environment"] | variables | {"PATH": f"{programs}:{os.defpath}"},
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A folder with a stand-in for temporal-sql-tool, which only its image has: it notes its arguments."""
    program = tmp_path / "temporal-sql-tool"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ntest -n "$SQL_PASSWORD" && test "$*" != "$FAILING"\n'
    )
    program.chmod(0o755)
    return tmp_path


def calls(recorder: Path) -> list[str]:
    return (recorder / "calls").read_text().splitlines()


def test_both_stores_are_set_up_and_updated_when_the_schema_job_runs(recorder: Path) -> None:
    assert run("temporal-schema", recorder, FAILING="").returncode == 0
    assert calls(recorder) == STEPS


@pytest.mark.parametrize("number", range(4))
def test_schema_job_fails_at_once_when_a_step_fails(recorder: Path, number: int) -> None:
    assert run("temporal-schema", recorder, FAILING=STEPS[number]).returncode != 0
    assert calls(recorder) == STEPS[: number + 1]


async def test_namespace_is_there_when_its_job_has_run_twice(temporal: Client) -> None:
    programs = Path(binary("temporal")).parent
    address = temporal.service_client.config.target_host
    for _ in range(2):
        done = run("temporal-namespace", programs, TEMPORAL_ADDRESS=address, TEMPORAL_NAMESPACE="deployed")
        assert done.returncode == 0, done.stderr
    described = await temporal.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace="deployed")
    )
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=30)


def test_namespace_job_fails_when_no_namespace_can_be_made(temporal: Client) -> None:
    programs = Path(binary("temporal")).parent
    address = temporal.service_client.config.target_host
    done = run("temporal-namespace", programs, TEMPORAL_ADDRESS=address, TEMPORAL_NAMESPACE="-" * 2000)
    assert done.returncode != 0


def test_server_polls_as_fast_as_the_embedded_one_when_configured() -> None:
    path = SERVICES["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"]
    settings = yaml.safe_load((FOLDER / Path(path).name).read_text())
    # Its timers keep the default shift, which is a margin for clocks that differ from host to host.
    embedded = DYNAMIC_CONFIG.items() - {("history.timerProcessorMaxTimeShift", '"1ms"')}
    assert {(name, json.dumps(entry["value"])) for name, (entry,) in settings.items()} == embedded
