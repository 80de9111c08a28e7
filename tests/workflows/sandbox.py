"""The SDK's sandbox for workflows, which refuses calls that are not deterministic."""

from typing import Any, ClassVar

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from ods.temporal.client import DATA_CONVERTER
from worker import WORKFLOWS


class Sandbox(SandboxedWorkflowRunner):
    """The sandbox, which loads each workflow once to check it.

    The SDK's checks them all for every worker and every replay: that took a third of the tests' time.
    """

    _checked: ClassVar[set[type[Any]]] = set()

    def prepare_workflow(self, defn: Any) -> None:
        if defn.cls not in self._checked:
            super().prepare_workflow(defn)
            self._checked.add(defn.cls)


async def replay(history: WorkflowHistory) -> None:
    """Replay a history against the workflows as they are.

    Raises:
        temporalio.workflow.NondeterminismError: they would not do again what they did.
    """
    replayer = Replayer(workflows=WORKFLOWS, data_converter=DATA_CONVERTER, workflow_runner=Sandbox())
    await replayer.replay_workflow(history)
