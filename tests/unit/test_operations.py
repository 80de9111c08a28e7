"""The table of operations against the diagram, which is written out here once more, edge by edge."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_type_hints

import pytest

from ods.model import operations
from ods.model.arguments import Way, rules_of
from ods.model.operations import (
    NOT_LIVE,
    ROWS,
    InstanceStatus,
    JobStatus,
    Operation,
    Rules,
    Step,
    Undo,
    operations_that,
)
from ods.model.revisions import RevisionState, Role
from ods.registry.migrations import own_tables
from tests.job_kinds import JOB_KINDS
from workflows.job_workflow import WORKFLOW_TYPES
from workflows.jobs import JOB_WORKFLOWS

CODE = ("activities", "api", "ods", "workflows")
TABLE = Path(operations.__file__)

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
    "follow": {("Error", "Completed")},
}
RENAME = CREATION | {
    "request": {("Completed", "Pending"), ("Error", "Pending")},
    "keep": {("Pending", "Completed")},
    "follow": set(),
}
DELETION = {
    "request": {
        ("Completed", "Pending_Delete"),
        ("Error", "Pending_Delete"),
        ("Delete_Failed", "Pending_Delete"),
    },
    "retry": {("Delete_Failed", "Pending_Delete")},
    "begin": {("Pending_Delete", "InProgress"), ("Delete_Failed", "InProgress")},
    "finish": {("InProgress", "Deleted")},
    "fail": {("InProgress", "Delete_Failed")},
    "release": {("InProgress", "Pending_Delete"), ("Delete_Failed", "Pending_Delete")},
    "cancel": {("Pending_Delete", "Delete_Failed")},
    "refuse": {("Pending_Delete", "Delete_Failed")},
    "cancel_running": {("InProgress", "Delete_Failed")},
    "keep": {("Pending_Delete", "Completed")},
    "keep_later": {("Delete_Failed", "Completed")},
}
# A purge that was cancelled is in the trash as before, and what a DROP had begun by then is finished.
PURGE = DELETION | {
    "request": {("Deleted", "Pending_Delete"), ("Delete_Failed", "Pending_Delete")},
    "release": {*DELETION["release"], ("Deleted", "Pending_Delete")},
    "cancel": {("Pending_Delete", "Deleted")},
    "cancel_running": {("InProgress", "Deleted")},
    "keep": set(),
    "keep_later": set(),
    "follow": {("Deleted", "Deleted")},
}
UNDELETE = {
    "request": {("Deleted", "Pending"), ("Delete_Failed", "Pending")},
    "begin": {("Pending", "InProgress"), ("Deleted", "InProgress")},
    "finish": {("InProgress", "Completed")},
    "fail": {("InProgress", "Deleted")},
    "release": {("InProgress", "Pending")},
    "cancel": {("Pending", "Deleted")},
    "refuse": {("Pending", "Deleted")},
    "cancel_running": {("InProgress", "Deleted")},
}
BESIDE = {
    "request": {("Completed", "Pending")},
    "begin": {("Pending", "InProgress"), ("Completed", "InProgress")},
    "finish": {("InProgress", "Completed")},
    "fail": {("InProgress", "Completed")},
    "release": {("InProgress", "Pending")},
    "cancel": {("Pending", "Completed")},
    "refuse": {("Pending", "Completed")},
    "cancel_running": {("InProgress", "Completed")},
}
RESET = BESIDE | {"follow": {("Completed", "Completed")}}
DIAGRAMS = {
    "Create": CREATION,
    "Rename": RENAME,
    "Delete": DELETION,
    "Trash": DELETION,
    "Detach": DELETION,
    "Undelete": UNDELETE,
    "Purge": PURGE,
    "Backup": BESIDE,
    "Snapshot": BESIDE,
    "Reset": RESET,
    "UndoReset": RESET,
}
NAMED = {rules.name: rules for _, rules in ROWS}
PAGE = Path("docs/architecture.md")
STEPS = {
    "request": "request",
    "begin": "begin",
    "finish": "finish",
    "fail": "give up",
    "cancel_running": "cancel the running",
    "cancel": "cancel",
    "refuse": "refuse",
    "keep": "cancel or refuse, and it works",
    "keep_later": "undo an earlier job",
    "retry": "retry",
    "release": "put back",
    "follow": "find it done",
}
JOBS = {
    "request": JobStatus.PENDING,
    "retry": JobStatus.PENDING,
    "begin": JobStatus.IN_PROGRESS,
    "finish": JobStatus.COMPLETED,
    "fail": JobStatus.ERROR,
    "release": JobStatus.PENDING,
    "cancel": JobStatus.ERROR,
    "refuse": JobStatus.ERROR,
    "cancel_running": JobStatus.ERROR,
    "keep": JobStatus.ERROR,
    "keep_later": JobStatus.ERROR,
    "follow": JobStatus.COMPLETED,
}


@pytest.mark.parametrize("rules", NAMED.values(), ids=NAMED)
def test_steps_are_the_edges_of_the_diagram_when_an_operation_has_them(rules: Rules) -> None:
    steps: dict[str, Step] = {name: getattr(rules, name) for name in JOBS}
    edges = {name: {(source, step.target) for source in step.sources} for name, step in steps.items()}
    assert {name: some for name, some in edges.items() if some} == {
        name: some for name, some in DIAGRAMS[rules.name].items() if some
    }
    assert {name: step.job for name, step in steps.items()} == JOBS
    assert set(steps) == {name for name, it in vars(Rules).items() if _is_step(it)}


def _is_step(attribute: object) -> bool:
    return isinstance(attribute, property) and get_type_hints(attribute.fget)["return"] is Step


def test_page_has_the_diagram_and_the_table_when_a_rule_changes() -> None:
    """If this fails: put what it expects into the page."""
    page = PAGE.read_text()
    assert "\n".join(_diagram()) in page
    assert "\n".join(_rows()) in page


def _diagram() -> Iterator[str]:
    """Every edge with its steps; with the operations as well where these part at the same step."""
    edges: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (name, label), source in product(STEPS.items(), InstanceStatus):
        targets: dict[str, dict[str, None]] = defaultdict(dict)
        for rules in NAMED.values():
            step: Step = getattr(rules, name)
            if source in step.sources:
                targets[step.target][rules.word] = None
        for target, words in targets.items():
            edges[source, target][", ".join(words) if len(targets) > 1 else ""].append(label)
    yield "stateDiagram-v2\n    [*] --> Pending: request Create"
    for (start, end), labels in sorted(edges.items()):
        steps = " / ".join(f"{', '.join(steps)} {words}".rstrip() for words, steps in labels.items())
        yield f"    {start} --> {end}: {steps}"


def _rows() -> Iterator[str]:
    yield "| operation | requested when | waits | done | failed | cancelled | used | takes data | undone |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for operation, rules in ROWS:
        name = operation if operation == rules.name else f"{operation} ({rules.name})"
        requested = ", ".join(it for it in InstanceStatus if it in rules.requested) or "new"
        cancelled = rules.cancelled or rules.failed
        words = ("yes" if rules.keeps_instance else "", "yes" if rules.takes_data else "", rules.undo)
        row = (name, requested, rules.waits, rules.done, rules.failed, cancelled, *words)
        yield f"| {' | '.join(row)} |".replace("  ", " ")


def test_published_database_is_never_dropped_when_a_job_has_failed() -> None:
    undone = {name: (rules.undo, rules.keeps_instance) for name, rules in NAMED.items()}
    assert undone == {
        "Create": (Undo.REMOVE_STAGING, False),
        "Rename": (Undo.RENAME_BACK, True),
        "Delete": (Undo.OPEN_AGAIN, False),
        "Trash": (Undo.RENAME_BACK, False),
        "Detach": (Undo.RENAME_BACK, False),
        "Undelete": (Undo.BACK_TO_TRASH, False),
        "Purge": (Undo.CLOSE_TRASH, False),
        "Backup": (Undo.END_BACKUP, True),
        "Snapshot": (Undo.REMOVE_SNAPSHOT, True),
        "Reset": (Undo.END_REPLACEMENT, True),
        "UndoReset": (Undo.END_REPLACEMENT, True),
    }


def test_every_operation_has_a_workflow_when_its_job_is_started() -> None:
    assert {workflow.__name__ for workflow in JOB_WORKFLOWS} == set(WORKFLOW_TYPES.values())


def test_revisions_have_the_roles_and_states_that_their_table_allows() -> None:
    table = own_tables.CREATE.split("CREATE TABLE adminapi.databaserevisions (")[1].split(";")[0]
    for column, values in (("role", {*Role} - {Role.STAGING}), ("state", set(RevisionState))):
        allowed = re.search(rf"CHECK \({column} IN \(([^)]*)\)\)", table)
        assert allowed is not None
        assert set(re.findall(r"'(\w+)'", allowed[1])) == values


def test_a_delete_is_called_by_one_word_when_clients_read_of_it() -> None:
    assert {NAMED[way].word for way in Way} == {"Delete"}


def test_every_kind_of_job_has_a_row_of_its_own_when_arguments_distinguish_it() -> None:
    assert [(operation, rules_of(operation, arguments)) for operation, arguments in JOB_KINDS.values()] == [
        next(row for row in ROWS if row[1].name == name) for name in JOB_KINDS
    ]
    assert len(JOB_KINDS) == len(ROWS) == len(NAMED)
    assert len(Operation) == 9


def test_operations_are_not_asked_for_what_the_arguments_of_a_job_say() -> None:
    for depends_on_arguments in (
        lambda rules: rules.to_trash,
        lambda rules: rules.drops,
        lambda rules: rules.makes is not None,
    ):
        with pytest.raises(ValueError, match="depends on the arguments"):
            operations_that(depends_on_arguments)


def test_instance_is_not_live_when_it_is_purged() -> None:
    assert NOT_LIVE == (Operation.PURGE,)


def test_data_is_taken_away_when_it_is_deleted_or_replaced_or_its_users_lose_it() -> None:
    assert operations_that(lambda rules: not rules.takes_data) == (
        *(Operation.CREATE, Operation.RENAME, Operation.UNDELETE),
        *(Operation.BACKUP, Operation.SNAPSHOT),
    )


def test_only_the_trash_is_left_when_an_instance_is_deleted() -> None:
    leaving = [
        (operation, name)
        for operation, rules in ROWS
        for name in JOBS
        if InstanceStatus.DELETED in getattr(rules, name).sources
    ]
    assert leaving == [
        *((Operation.UNDELETE, "request"), (Operation.UNDELETE, "begin")),
        *((Operation.PURGE, "request"), (Operation.PURGE, "release"), (Operation.PURGE, "follow")),
    ]


def test_no_step_is_made_outside_the_table_when_code_takes_one() -> None:
    """Steps are made in the table's module; what writes a status by itself writes a target of a step."""
    found = {
        f"{path}: {ast.unparse(node)}"
        for top in CODE
        for path in Path(top).rglob("*.py")
        if path.resolve() != TABLE
        for node in ast.walk(ast.parse(path.read_text()))
        if _makes_step(node)
    }
    assert found == set()


def _makes_step(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Step") | ast.Attribute(attr="Step")):
            return True
        case ast.Assign(targets=[ast.Attribute(attr="status", value=ast.Name(id="instance"))], value=value):
            return not ast.unparse(value).endswith(".target")
        case ast.keyword(arg="status", value=value):
            return ast.unparse(value).startswith("InstanceStatus.")
        case ast.Dict(keys=keys, values=values):
            return any(
                isinstance(key, ast.Constant)
                and key.value == "status"
                and ast.unparse(value).startswith("InstanceStatus.")
                for key, value in zip(keys, values, strict=True)
            )
        case _:
            return False


def test_model_imports_only_the_standard_library_when_it_is_read() -> None:
    code = "\n".join(path.read_text() for path in TABLE.parent.glob("*.py"))
    imported = {name.removeprefix("ods.model.") for name in re.findall(r"(?m)^(?:from|import) (\S+)", code)}
    own = {path.stem for path in TABLE.parent.glob("*.py")}
    assert {name.partition(".")[0] for name in imported - own} <= sys.stdlib_module_names


def test_words_are_those_of_the_contract_when_they_are_written() -> None:
    instance = "Pending InProgress Completed Error Pending_Delete Deleted Delete_Failed"
    assert set(InstanceStatus) == set(instance.split())
    assert set(JobStatus) == {"Pending", "InProgress", "Completed", "Error"}
