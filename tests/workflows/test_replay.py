"""Recorded histories of every path replay against the code as it is now.

`pytest tests/workflows --record` writes them anew; those that a patch has overtaken are kept in a folder of
its name. A change of workflow code that makes one fail would break jobs that run while it is deployed, and
needs `workflow.patched`.
"""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from ods.temporal.client import DATA_CONVERTER
from ods.temporal.tracing import JobTracing
from tests.collector import tracing
from tests.workflows.sandbox import replay
from worker import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("**/*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_history_replays_when_it_was_recorded_earlier(path: Path) -> None:
    history = WorkflowHistory.from_json(path.stem, path.read_text())  # noqa: ASYNC240 - a small file
    await replay(history)


@pytest.mark.long
async def test_histories_replay_and_make_no_spans_when_workflows_are_traced() -> None:
    with tracing() as traces:
        replayer = Replayer(
            workflows=WORKFLOWS,
            data_converter=DATA_CONVERTER,
            workflow_runner=UnsandboxedWorkflowRunner(),
            interceptors=[JobTracing()],
        )
        for path in HISTORIES:
            await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
    assert traces.spans == []
