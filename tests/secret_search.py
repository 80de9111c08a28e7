"""No secret is told: what the tests leave is searched for the secrets that they use.

What is searched: the output of the tests and of every process that they start (`tests/conftest.py`), log
files of servers and stacks and all histories of workflows (`servers.py`), what was sent as spans
(`collector.py`), the metrics of the tests' own process, and what the codec server has answered strangers
(`api/test_codec.py`).
"""

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import generate_latest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client

from ods.observability.metrics.catalog import INSTRUMENTS

_SHORTEST = 12
"""Shorter ones would be found by chance."""
_AT_ONCE = 20
_NOT_SECRET = {"postgres_port", "client_id"}
"""What `secrets.json` of a stack has beside secrets."""
_BEFORE, _AFTER = 60, 20
"""Bytes around a secret that are shown with it."""


class SecretSearch:
    """Knows secrets, and collects where they were found."""

    def __init__(self) -> None:
        self._secrets: set[bytes] = set()
        self._found: set[str] = set()

    @property
    def findings(self) -> list[str]:
        """Where a secret was found."""
        return sorted(self._found)

    def add(self, text: str) -> str:
        """Returns `text`, which is a secret from now on."""
        assert len(text) >= _SHORTEST, text
        self._secrets.add(text.encode())
        return text

    def add_findings(self, more: Iterable[str]) -> None:
        """Add what other processes have found."""
        self._found.update(more)

    def search(self, content: str | bytes, place: str) -> None:
        """Search what was written to `place`."""
        data = content.encode() if isinstance(content, str) else content
        for match in re.finditer(b"|".join(map(re.escape, self._secrets)) or b"(?!)", data):
            around = data[max(0, match.start() - _BEFORE) : match.end() + _AFTER]
            self._found.add(f"{place}: {around!r}")

    def search_folder(self, folder: Path) -> None:
        """Search the log files below a folder, also for the secrets of a stack that has its data there."""
        for stored in folder.rglob("secrets.json"):
            for name, value in json.loads(stored.read_text()).items():
                if name not in _NOT_SECRET:
                    self.add(value)
        for log in folder.rglob("*.log"):
            self.search(log.read_bytes(), str(log.relative_to(folder)))

    async def search_histories(self, client: Client) -> None:
        """Search the histories of all workflows that a server has, as it stores them."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def search_history(workflow_id: str, run_id: str) -> None:
            request = GetWorkflowExecutionHistoryRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            )
            async with slots:
                answer = await client.workflow_service.get_workflow_execution_history(request)
            self.search(answer.SerializeToString(), f"history of the workflow {workflow_id}")

        async with asyncio.TaskGroup() as tasks:
            async for one in client.list_workflows():
                tasks.create_task(search_history(one.id, one.run_id))

    def search_metrics(self) -> None:
        """Search the metrics of this process."""
        self.search(generate_latest(INSTRUMENTS), "metrics")


SEARCH = SecretSearch()
"""Of this process of the tests."""
as_secret = SEARCH.add
