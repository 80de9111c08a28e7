"""What distinguishes the jobs of one operation, and how rows hold it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from ods.model.arguments import (
    DROP_AT_ONCE,
    KEEP,
    NO_ARGUMENTS,
    Arguments,
    DeleteArguments,
    MakeArguments,
    PurgeArguments,
    Way,
    arguments_in,
    drops_database,
    job_kind,
    rules_of,
    rules_of_way,
)
from ods.model.operations import Operation
from ods.model.origins import FROM_TEMPLATE, BackupOrigin, CopyMode, CopyOrigin, EarlierDatabase
from tests.job_kinds import JOB_KINDS

COPY, BACKUP = CopyOrigin(7), BackupOrigin("c54a6ca6-2c0b-4b87-9a4e-2f1f1f2f9f7c")
EARLIER = EarlierDatabase("0f6b1f6e-1111-4222-8333-444444444444")
BACKED_UP = DeleteArguments(keep=True, backup_first=True)


@pytest.mark.parametrize(
    ("operation", "arguments", "name", "is_of_template"),
    [
        (Operation.CREATE, MakeArguments(FROM_TEMPLATE), "Create", True),
        (Operation.CREATE, MakeArguments(COPY), "Copy", False),
        (Operation.CREATE, MakeArguments(BACKUP), "Restore", False),
        (Operation.RESET, MakeArguments(FROM_TEMPLATE), "Reset", True),
        (Operation.RESET, MakeArguments(COPY), "Replace", False),
        (Operation.RESET, MakeArguments(BACKUP), "Replace", False),
        (Operation.RESET, MakeArguments(EARLIER), "UndoReset", True),
        (Operation.PURGE, PurgeArguments(backup_first=False), "Purge", True),
        (Operation.PURGE, PurgeArguments(backup_first=True), "PurgeAfterBackup", False),
        (Operation.DELETE, DROP_AT_ONCE, "Delete", True),
        (Operation.DELETE, KEEP, "Trash", True),
        (Operation.DELETE, BACKED_UP, "Trash", True),
        (Operation.DETACH, NO_ARGUMENTS, "Detach", True),
    ],
)
def test_kind_is_told_by_the_arguments_when_jobs_of_an_operation_differ(
    operation: Operation, arguments: Arguments, name: str, *, is_of_template: bool
) -> None:
    kind = job_kind(operation, arguments)
    assert (kind.name, kind.is_of_template) == (name, is_of_template)


@pytest.mark.parametrize("way", Way)
def test_way_of_a_delete_is_called_as_its_jobs_are_when_it_is_planned(way: Way) -> None:
    assert rules_of_way(way) == rules_of(*JOB_KINDS[way])
    assert rules_of_way(way).name == way


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        *JOB_KINDS.values(),
        (Operation.DELETE, BACKED_UP),
        (Operation.CREATE, MakeArguments(COPY)),
        (Operation.RESET, MakeArguments(CopyOrigin(7, CopyMode.CLOSED, "its mark"))),
        (Operation.RESET, MakeArguments(BACKUP)),
    ],
)
def test_arguments_are_as_they_were_when_a_row_has_held_them(
    operation: Operation, arguments: Arguments
) -> None:
    assert arguments_in(operation, asdict(arguments)) == arguments


@pytest.mark.parametrize(
    ("operation", "column"),
    [
        (Operation.CREATE, {}),
        (Operation.CREATE, {"origin": {"database_id": "an earlier one"}}),
        (Operation.DELETE, {}),
        (Operation.DELETE, {"keep": True}),
        (Operation.DELETE, {"backup_first": False}),
        (Operation.DELETE, {"keep": 1, "backup_first": False}),
        (Operation.DELETE, {"keep": True, "backup_first": False, "until": None}),
        (Operation.PURGE, {}),
        (Operation.PURGE, {"backup_first": None}),
        (Operation.PURGE, {"keep": False, "backup_first": False}),
        (Operation.RESET, {}),
        (Operation.RESET, {"origin": {"database_id": 7}}),
        (Operation.RESET, {"origin": {"instance_id": 7, "mode": "half open", "mark": None}}),
        (Operation.RESET, {"origin": "template"}),
        (Operation.RENAME, {"name": "another"}),
        (Operation.DETACH, {"keep": True, "backup_first": False}),
    ],
)
def test_row_is_refused_when_it_leaves_open_what_is_to_be_done(
    operation: Operation, column: Mapping[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"no arguments|other fields|another type|not a valid"):
        arguments_in(operation, column)


@pytest.mark.parametrize("backup_first", [True, False])
def test_database_is_lost_by_a_delete_to_the_trash_when_a_purge_follows(*, backup_first: bool) -> None:
    assert drops_database(Operation.PURGE, PurgeArguments(backup_first))
    assert drops_database(Operation.DELETE, DeleteArguments(False, backup_first))
    assert drops_database(Operation.DELETE, DeleteArguments(True, backup_first)) is backup_first
