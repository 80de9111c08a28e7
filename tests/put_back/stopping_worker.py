"""`python -m tests.put_back.stopping_worker`: the worker, which dies at a step of the first job it meets.

The environment says when, by the place of the step among those of its workflow: no activity is named here, so
that this holds for whatever a job consists of. What was counted is written to a file, a line for each.
"""

import itertools
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Worker

STOP = "PUT_BACK_STOP"
"""The variable that says when it dies: `before 2`, `after 2`, or empty: never."""
SCHEDULES = "PUT_BACK_SCHEDULES"
"""The variable with the ids of all schedules, with commas between them: their workflows are no jobs."""
WITHOUT_PASSES = "PUT_BACK_WITHOUT_PASSES"
"""The variable that has passes fail at once, unless it is empty: they meet no step of a job by chance."""
LOG = "PUT_BACK_LOG"
"""The variable with the path of the file that is written."""
STOPPED = 86
"""The exit code of a worker that died when it was told to."""


class _Stopping(Interceptor):
    """Ends the process before or after a step of the first workflow that is counted."""

    def __init__(self) -> None:
        self._moment = os.environ.get(STOP, "")
        self._schedules = tuple(f"{name}-" for name in os.environ.get(SCHEDULES, "").split(",") if name)
        self._has_passes = not os.environ.get(WITHOUT_PASSES)
        self._log = Path(os.environ[LOG])
        self._numbers: Iterator[int] = itertools.count(1)
        self._workflow: str | None = None

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """What counts one."""
        return _Counted(next, self)

    def begins(self) -> int | None:
        """The number of the step that begins; None if it is not counted.

        Raises:
            ApplicationError: it is one of a pass, and there shall be none.
        """
        info = activity.info()
        if (info.workflow_id or "").startswith(self._schedules):
            if self._has_passes:
                return None
            raise ApplicationError("There are no passes now.", non_retryable=True)
        self._workflow = self._workflow or info.workflow_id
        if info.workflow_id != self._workflow:
            return None
        number = next(self._numbers)
        with self._log.open("a") as log:
            log.write(f"{number} {info.activity_type}\n")
        self._stop_at(f"before {number}")
        return number

    def ended(self, number: int | None) -> None:
        """A step has ended, and Temporal does not know it yet."""
        self._stop_at(f"after {number}")

    def _stop_at(self, moment: str) -> None:
        if moment == self._moment:
            os._exit(STOPPED)


class _Counted(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, stopping: _Stopping) -> None:  # noqa: A002
        super().__init__(next)
        self._stopping = stopping

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        """Run the activity, unless the process dies."""
        number = self._stopping.begins()
        try:
            return await super().execute_activity(input)
        finally:
            self._stopping.ended(number)


def _have_workers_stop() -> None:
    """Have each worker that the program makes use the interceptor, outside of its own."""
    stopping, make = _Stopping(), Worker.__init__

    def made(self: Worker, *arguments: Any, interceptors: Any = (), **options: Any) -> None:
        make(self, *arguments, interceptors=[stopping, *interceptors], **options)

    Worker.__init__ = made  # type: ignore[method-assign]


if __name__ == "__main__":
    _have_workers_stop()
    runpy.run_module("worker", run_name="__main__", alter_sys=True)
