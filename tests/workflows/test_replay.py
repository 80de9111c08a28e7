"""Recorded histories of every path replay against the code as it is now.

One run is recorded of each path, that is of each sequence of what a workflow does and meets, in which the
activities of an operation's own count by their order alone, and one of each operation in which nothing goes
wrong (`paths.py`).
"""

from pathlib import Path

import pytest
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from ods.temporal.client import DATA_CONVERTER
from ods.temporal.tracing import JobTracing
from tests.collector import tracing
from tests.workflows.paths import HISTORIES, read_history
from tests.workflows.sandbox import replay
from worker import WORKFLOWS

ALL_HISTORIES = sorted(HISTORIES.glob("*.json"))


@pytest.mark.parametrize("path", ALL_HISTORIES, ids=lambda path: path.stem)
async def test_history_replays_when_it_was_recorded_earlier(path: Path) -> None:
    await replay(read_history(path))


@pytest.mark.long
async def test_histories_replay_and_make_no_spans_when_workflows_are_traced() -> None:
    with tracing() as traces:
        replayer = Replayer(
            workflows=WORKFLOWS,
            data_converter=DATA_CONVERTER,
            workflow_runner=UnsandboxedWorkflowRunner(),
            interceptors=[JobTracing()],
        )
        for path in ALL_HISTORIES:
            await replayer.replay_workflow(read_history(path))
    assert traces.spans == []
