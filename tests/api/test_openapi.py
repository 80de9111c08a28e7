"""The API against its own description, by requests that schemathesis makes of it."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from ods.settings.settings import Settings
from tests.api import server
from tests.api.server import Server
from tests.api.service import bearer
from tests.servers import scheduled

# Not negative_data_rejection: names of fields match in any case, which a schema cannot say; and not
# positive_data_acceptance: a name that is taken is refused.
CONFIGURATION = """
[checks]
not_a_server_error.enabled = true
status_code_conformance.enabled = true
content_type_conformance.enabled = true
response_headers_conformance.enabled = true
response_schema_conformance.enabled = true
missing_required_header.enabled = true
unsupported_method.enabled = true
allow_header_conformance.enabled = true
use_after_free.enabled = true
ensure_resource_availability.enabled = true
ignored_auth.enabled = true
negative_data_rejection.enabled = false
positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v2/dbInstances/{instance_id}/database"
checks.ensure_resource_availability.enabled = false # no worker makes the database here

[[operations]]
include-path = "/v2/odsInstances/manage/{instance_id}"
checks.use_after_free.enabled = false # a job deletes the instance, which is shown afterwards as well
"""


@pytest.fixture
async def serving(settings: Settings, temporal: Client) -> AsyncIterator[Server]:
    """The API with all that it needs, but no job is started: no worker would do it."""
    address = temporal.service_client.config.target_host
    async with (
        scheduled(temporal, settings.model_copy(update={"spares": 1})),
        server.serving(settings, TEMPORAL_ADDRESS=address, ODS_TRIGGER="scheduled") as started,
    ):
        yield started


@pytest.mark.long
@pytest.mark.timeout(300)  # it takes a minute and a half beside other tests
async def test_every_answer_is_as_described_when_schemathesis_asks(serving: Server, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{serving.url}/openapi.json",
        *("--header", f"Authorization: {bearer(serving.settings, lifetime=600)['Authorization']}"),
        *("--seed", "1", "--max-examples", "12", "--request-timeout", "10", "--no-shrink"),
    ]
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"Operations: +(\d+) selected / \1 total", run.stdout)
    assert re.search(r"^Test cases:\n +\d{3,} generated, \d{3,} passed", run.stdout, re.MULTILINE)
