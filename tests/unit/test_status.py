"""The life cycle's steps against the diagram, which is written out here once more, edge by edge."""

from collections.abc import Iterator

from registry.instances import status
from registry.instances.status import AfterFailure, InstanceStatus, JobStatus, Operation, Step, Undo

REQUESTS = {
    ("Completed", "Pending_Delete"),
    ("Error", "Pending_Delete"),
    ("Delete_Failed", "Pending_Delete"),
}
CREATION = {
    "retry": {("Error", "Pending")},
    # An operator's `retry` signal goes through `Pending` without a stop.
    "begin": {("Pending", "InProgress"), ("Error", "InProgress")},
    "finish": {("InProgress", "Completed")},
    "fail": {("InProgress", "Error")},
    # What a lost workflow left in `InProgress`, the reconcile pass puts back.
    "release": {("InProgress", "Pending")},
    "cancel": {("Pending", "Error")},
}
DELETION = {
    "retry": {("Delete_Failed", "Pending_Delete")},
    "begin": {("Pending_Delete", "InProgress"), ("Delete_Failed", "InProgress")},
    "finish": {("InProgress", "Deleted")},
    "fail": {("InProgress", "Delete_Failed")},
    "release": {("InProgress", "Pending_Delete"), ("Delete_Failed", "Pending_Delete")},
    "cancel": {("Pending_Delete", "Delete_Failed")},
}
TABLES = {
    "retry": status.RETRY,
    "begin": status.BEGIN,
    "finish": status.FINISH,
    "fail": status.FAIL,
    "release": status.RELEASE,
    "cancel": status.CANCEL,
}


def edges(step: Step) -> set[tuple[str, str]]:
    return {(source, step.target) for source in step.sources}


def steps() -> Iterator[Step]:
    yield status.REQUEST_DELETE
    yield status.REQUEST_RENAME
    yield from status.KEEP.values()
    for table in TABLES.values():
        yield from table.values()


def test_steps_are_the_edges_of_the_diagram_when_an_instance_is_created() -> None:
    assert {name: edges(table[Operation.CREATE]) for name, table in TABLES.items()} == CREATION


def test_steps_are_the_edges_of_the_diagram_when_an_instance_is_deleted() -> None:
    assert {name: edges(table[Operation.DELETE]) for name, table in TABLES.items()} == DELETION
    assert edges(status.REQUEST_DELETE) == REQUESTS
    assert edges(status.KEEP[Operation.DELETE]) == {("Pending_Delete", "Completed")}


def test_instance_moves_as_at_its_creation_when_it_is_renamed() -> None:
    assert {name: edges(table[Operation.RENAME]) for name, table in TABLES.items()} == CREATION
    assert edges(status.REQUEST_RENAME) == {("Completed", "Pending"), ("Error", "Pending")}
    assert edges(status.KEEP[Operation.RENAME]) == {("Pending", "Completed")}


def test_every_operation_has_every_step_when_it_is_looked_up() -> None:
    assert all(set(table) == set(Operation) for table in TABLES.values())


def test_published_database_is_never_dropped_when_a_job_has_failed() -> None:
    undone = {operation: status.after_failure(operation) for operation in Operation}
    assert undone == {
        Operation.CREATE: AfterFailure(Undo.REMOVE_STAGING, usable=False),
        Operation.RENAME: AfterFailure(Undo.RENAME_BACK, usable=True),
        Operation.DELETE: AfterFailure(Undo.NOTHING, usable=False),
    }


def test_nothing_follows_when_an_instance_is_deleted() -> None:
    assert all(InstanceStatus.DELETED not in step.sources for step in steps())


def test_job_tells_how_far_it_is_when_its_instance_takes_a_step() -> None:
    jobs = {name: {step.job for step in table.values()} for name, table in TABLES.items()}
    assert jobs == {
        "retry": {JobStatus.PENDING},
        "begin": {JobStatus.IN_PROGRESS},
        "finish": {JobStatus.COMPLETED},
        "fail": {JobStatus.ERROR},
        "release": {JobStatus.PENDING},
        "cancel": {JobStatus.ERROR},
    }
    assert {step.job for step in status.KEEP.values()} == {JobStatus.ERROR}
    assert status.REQUEST_DELETE.job is status.REQUEST_RENAME.job is JobStatus.PENDING


def test_words_are_those_of_the_contract_when_they_are_written() -> None:
    instance = "Pending InProgress Completed Error Pending_Delete Deleted Delete_Failed"
    assert set(InstanceStatus) == set(instance.split())
    assert set(JobStatus) == {"Pending", "InProgress", "Completed", "Error"}
