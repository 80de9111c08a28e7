"""The life cycle's steps against the diagram, which is written out here once more, edge by edge."""

from collections.abc import Iterator

import pytest

from ods.registry.instances import status
from ods.registry.instances.status import AfterFailure, InstanceStatus, JobStatus, Operation, Step, Undo

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
    "refuse": {("Pending", "Error")},
    "cancel_running": {("InProgress", "Error")},
}
DELETION = {
    "retry": {("Delete_Failed", "Pending_Delete")},
    "begin": {("Pending_Delete", "InProgress"), ("Delete_Failed", "InProgress")},
    "finish": {("InProgress", "Deleted")},
    "fail": {("InProgress", "Delete_Failed")},
    "release": {("InProgress", "Pending_Delete"), ("Delete_Failed", "Pending_Delete")},
    "cancel": {("Pending_Delete", "Delete_Failed")},
    "refuse": {("Pending_Delete", "Delete_Failed")},
    "cancel_running": {("InProgress", "Delete_Failed")},
}
# A purge that was cancelled is in the trash as before, and what a DROP had begun by then is finished.
PURGE = DELETION | {
    "release": {*DELETION["release"], ("Deleted", "Pending_Delete")},
    "cancel": {("Pending_Delete", "Deleted")},
    "cancel_running": {("InProgress", "Deleted")},
}
UNDELETE = {
    "retry": set(),  # what is deleted is requested anew
    "begin": {("Pending", "InProgress"), ("Deleted", "InProgress")},
    "finish": {("InProgress", "Completed")},
    "fail": {("InProgress", "Deleted")},
    "release": {("InProgress", "Pending")},
    "cancel": {("Pending", "Deleted")},
    "refuse": {("Pending", "Deleted")},
    "cancel_running": {("InProgress", "Deleted")},
}
BESIDE = {
    "retry": set(),  # the instance works, and the job is requested anew
    "begin": {("Pending", "InProgress"), ("Completed", "InProgress")},
    "finish": {("InProgress", "Completed")},
    "fail": {("InProgress", "Completed")},
    "release": {("InProgress", "Pending")},
    "cancel": {("Pending", "Completed")},
    "refuse": {("Pending", "Completed")},
    "cancel_running": {("InProgress", "Completed")},
}
TABLES = {
    "retry": status.RETRY,
    "begin": status.BEGIN,
    "finish": status.FINISH,
    "fail": status.FAIL,
    "release": status.RELEASE,
    "cancel": status.CANCEL,
    "refuse": status.REFUSE,
    "cancel_running": status.CANCEL_RUNNING,
}


def edges(step: Step) -> set[tuple[str, str]]:
    return {(source, step.target) for source in step.sources}


def steps() -> Iterator[Step]:
    yield status.REQUEST_DELETE
    yield status.REQUEST_RENAME
    yield from status.KEEP.values()
    yield status.REQUEST_UNDELETE
    yield status.REQUEST_PURGE
    yield status.REQUEST_BESIDE
    yield status.FOLLOW_EXCHANGE
    yield status.FOLLOW_DROP
    for table in TABLES.values():
        yield from table.values()


def test_steps_are_the_edges_of_the_diagram_when_an_instance_is_created() -> None:
    assert {name: edges(table[Operation.CREATE]) for name, table in TABLES.items()} == CREATION


@pytest.mark.parametrize(
    ("operation", "diagram"),
    [
        *((it, DELETION) for it in (Operation.DELETE, Operation.TRASH, Operation.DETACH)),
        *((it, PURGE) for it in status.PURGES),
    ],
)
def test_steps_are_the_edges_of_the_diagram_when_an_instance_is_deleted(
    operation: Operation, diagram: dict[str, set[tuple[str, str]]]
) -> None:
    assert {name: edges(table[operation]) for name, table in TABLES.items()} == diagram
    assert edges(status.REQUEST_DELETE) == REQUESTS
    assert edges(status.KEEP[Operation.DELETE]) == {("Pending_Delete", "Completed")}


def test_steps_lead_out_of_the_trash_and_back_when_an_instance_is_undeleted_or_purged() -> None:
    assert {name: edges(table[Operation.UNDELETE]) for name, table in TABLES.items()} == UNDELETE
    assert edges(status.REQUEST_UNDELETE) == {("Deleted", "Pending"), ("Delete_Failed", "Pending")}
    assert edges(status.REQUEST_PURGE) == {
        ("Deleted", "Pending_Delete"),
        ("Delete_Failed", "Pending_Delete"),
    }


@pytest.mark.parametrize(
    "operation",
    [Operation.BACKUP, Operation.SNAPSHOT, Operation.RESET, Operation.REPLACE, Operation.UNDO_RESET],
)
def test_instance_is_as_before_when_a_job_beside_it_ends_in_whatever_way(operation: Operation) -> None:
    assert {name: edges(table[operation]) for name, table in TABLES.items()} == BESIDE
    assert edges(status.REQUEST_BESIDE) == {("Completed", "Pending")}


@pytest.mark.parametrize("operation", [Operation.COPY, Operation.RESTORE])
def test_it_is_a_create_to_clients_and_moves_as_one_when_a_database_is_not_of_a_template(
    operation: Operation,
) -> None:
    assert {name: edges(table[operation]) for name, table in TABLES.items()} == CREATION
    traits, create = status.traits(operation), status.traits(Operation.CREATE)
    assert (traits.word, traits.publishes, traits.keeps_instance) == (create.word, True, False)


def test_it_is_a_reset_to_clients_when_a_database_is_replaced_by_one_that_is_not_of_a_template() -> None:
    assert status.traits(Operation.REPLACE).word == status.traits(Operation.RESET).word == "Reset"
    assert Operation.REPLACE in status.NOT_OF_TEMPLATE


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
        Operation.DELETE: AfterFailure(Undo.OPEN_AGAIN, usable=False),
        Operation.TRASH: AfterFailure(Undo.RENAME_BACK, usable=False),
        Operation.DETACH: AfterFailure(Undo.RENAME_BACK, usable=False),
        Operation.UNDELETE: AfterFailure(Undo.BACK_TO_TRASH, usable=False),
        Operation.PURGE: AfterFailure(Undo.NOTHING, usable=False),
        Operation.PURGE_AFTER_BACKUP: AfterFailure(Undo.CLOSE_TRASH, usable=False),
        Operation.BACKUP: AfterFailure(Undo.END_BACKUP, usable=True),
        Operation.SNAPSHOT: AfterFailure(Undo.REMOVE_SNAPSHOT, usable=True),
        Operation.COPY: AfterFailure(Undo.REMOVE_STAGING, usable=False),
        Operation.RESTORE: AfterFailure(Undo.REMOVE_STAGING, usable=False),
        Operation.RESET: AfterFailure(Undo.END_REPLACEMENT, usable=True),
        Operation.REPLACE: AfterFailure(Undo.END_REPLACEMENT, usable=True),
        Operation.UNDO_RESET: AfterFailure(Undo.END_REPLACEMENT, usable=True),
    }


def test_a_delete_is_called_by_one_word_when_clients_read_of_it() -> None:
    deletes = (Operation.DELETE, Operation.TRASH, Operation.DETACH)
    assert {status.traits(operation).word for operation in deletes} == {"Delete"}


def test_a_purge_is_called_by_one_word_when_a_backup_is_made_first() -> None:
    assert {(status.traits(it).word, status.traits(it).is_live) for it in status.PURGES} == {("Purge", False)}
    assert set(status.PURGES) == set(status.NOT_LIVE)


def test_only_the_trash_is_left_when_an_instance_is_deleted() -> None:
    leaving = [step for step in steps() if InstanceStatus.DELETED in step.sources]
    assert leaving == [
        *(status.REQUEST_UNDELETE, status.REQUEST_PURGE, status.FOLLOW_DROP),
        status.BEGIN[Operation.UNDELETE],
        *(status.RELEASE[purge] for purge in status.PURGES),
    ]


def test_job_tells_how_far_it_is_when_its_instance_takes_a_step() -> None:
    jobs = {name: {step.job for step in table.values()} for name, table in TABLES.items()}
    assert jobs == {
        "retry": {JobStatus.PENDING},
        "begin": {JobStatus.IN_PROGRESS},
        "finish": {JobStatus.COMPLETED},
        "fail": {JobStatus.ERROR},
        "release": {JobStatus.PENDING},
        "cancel": {JobStatus.ERROR},
        "refuse": {JobStatus.ERROR},
        "cancel_running": {JobStatus.ERROR},
    }
    assert {step.job for step in status.KEEP.values()} == {JobStatus.ERROR}
    assert status.REQUEST_DELETE.job is status.REQUEST_RENAME.job is JobStatus.PENDING


def test_words_are_those_of_the_contract_when_they_are_written() -> None:
    instance = "Pending InProgress Completed Error Pending_Delete Deleted Delete_Failed"
    assert set(InstanceStatus) == set(instance.split())
    assert set(JobStatus) == {"Pending", "InProgress", "Completed", "Error"}
