"""Recorded histories: one of each path that runs have taken, and which other runs took the same path."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from worker import WORKFLOWS
from workflows.job_workflow import JobWorkflow

HISTORIES = Path(__file__).parent / "histories"
_SAME_PATHS = Path(__file__).parent / "same_paths.json"

PathTaken: TypeAlias = tuple[str, ...]

_TYPES: dict[str, type] = {workflow.__name__: workflow for workflow in WORKFLOWS}
_OF_EVERY_JOB = {"fail", "compensate", "is_due", "next_attempt", "record_wait"}
"""Activities that jobs of all operations run; the others are an operation's own."""
_LEFT_OUT = (
    *("workflow_task", "activity_task_started", "timer_fired"),
    *("workflow_execution_started", "upsert_workflow_search_attributes"),
)
"""Events that say nothing about the path."""


def read_history(path: Path) -> WorkflowHistory:
    """A recorded history."""
    return WorkflowHistory.from_json(path.stem, path.read_text())


class RecordedPaths:
    """The recorded histories, by name and by path."""

    def __init__(self) -> None:
        self._same: dict[str, str] = json.loads(_SAME_PATHS.read_text())
        self._by_path: dict[PathTaken, str] = {}

    def has(self, name: str) -> bool:
        """Whether the run of this name, or another one that took the same path, is recorded."""
        return (HISTORIES / f"{self._same.get(name, name)}.json").exists()

    def record(self, name: str, history: WorkflowHistory) -> None:
        """Write down a run, or if its path is recorded already: which run took it."""
        if not self._by_path:
            for path in HISTORIES.glob("*.json"):
                self._by_path |= dict.fromkeys(paths_of(read_history(path)), path.stem)
        paths = paths_of(history)
        if new := [path for path in paths if path not in self._by_path]:
            (HISTORIES / f"{name}.json").write_text(history.to_json())
            self._by_path |= dict.fromkeys(new, name)
        else:
            self._same[name] = self._by_path[paths[0]]
            _SAME_PATHS.write_text(json.dumps(self._same, indent=2, sort_keys=True) + "\n")


def paths_of(history: WorkflowHistory) -> list[PathTaken]:
    """The paths that a run took: what the workflow did, and what it met.

    Jobs share the code that begins, repeats, records, cleans up and waits: there, the activities of an
    operation's own count by their order alone. Unless something went wrong, the operation is a path as well.
    """
    workflow = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
    steps = list(_steps(history.events))
    if not issubclass(_TYPES[workflow], JobWorkflow):
        return [(workflow, *steps)]
    shared = (JobWorkflow.__name__, *_numbered(steps))
    is_plain = all(step.endswith(("scheduled", "recorded", "completed")) for step in steps)
    return [shared, (workflow, "completed")] if is_plain else [shared]


def _steps(events: Iterable[HistoryEvent]) -> Iterator[str]:
    """What the workflow did, in order, then what it met, which comes earlier or later by chance."""
    activities: dict[int, str] = {}
    met = []
    for event in events:
        attributes = event.WhichOneof("attributes") or ""
        kind, details = attributes.removesuffix("_event_attributes"), getattr(event, attributes)
        if kind == "activity_task_scheduled":
            activities[event.event_id] = details.activity_type.name
            yield f"{details.activity_type.name} {kind}"
        elif kind.startswith("activity_task") and kind not in _LEFT_OUT:
            met.append(f"{activities[details.scheduled_event_id]} {kind}")
        elif kind == "workflow_execution_signaled":
            met.append(f"{details.signal_name} {kind}")
        elif kind == "marker_recorded" and details.HasField("failure"):
            yield "marker_recorded failed"
        elif not kind.startswith(_LEFT_OUT):
            yield kind
    yield from sorted(met)


def _numbered(steps: Iterable[str]) -> Iterator[str]:
    """The same, with numbers for the activities of an operation's own, in the order of their first runs."""
    numbers: dict[str, str] = {}
    for step in steps:
        name, _, kind = step.partition(" ")
        if kind.startswith("activity_task") and name not in _OF_EVERY_JOB:
            yield f"{numbers.setdefault(name, str(len(numbers)))} {kind}"
        else:
            yield step
