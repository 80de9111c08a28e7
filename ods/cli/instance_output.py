"""What `ods instance …` prints of instances and of their jobs."""

from collections.abc import Sequence

from ods.cli.client import AdminApi, Json
from ods.cli.following import follow
from ods.cli.output import say, show_json, show_list, show_members
from ods.embedded.errors import CommandError

_COLUMNS = {
    "id": "ID",
    "name": "NAME",
    "databaseTemplate": "TEMPLATE",
    "status": "STATUS",
    "protected": "PROTECTED",
    "odsInstanceId": "ODS INSTANCE",
    "databaseName": "DATABASE",
}
_PLAN_COLUMNS = {
    "line": "LINE",
    "name": "NAME",
    "databaseTemplate": "TEMPLATE",
    "copyOf": "COPY OF",
    "backupId": "BACKUP",
    "databaseName": "DATABASE",
    "sizeBytes": "BYTES",
    "estimatedSeconds": "SECONDS",
    "jobId": "REQUESTED BEFORE",
}
_REQUESTED_COLUMNS = {"line": "LINE", "id": "ID", "name": "NAME", "jobId": "JOB"}
_MADE_COLUMNS = {**_REQUESTED_COLUMNS, "status": "STATUS"}
_RESET_COLUMNS = {key: head for key, head in _PLAN_COLUMNS.items() if key not in {"line", "jobId"}}
_SESSION_COLUMNS = {"applicationName": "SESSIONS OF", "state": "STATE", "count": "COUNT"}
_TABLE_COLUMNS = {"name": "LARGEST TABLES", "bytes": "BYTES", "rowsEstimated": "ROWS"}


def show_instances(rows: Sequence[Json], *, as_json: bool) -> None:
    """Show instances, one in a line."""
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


def show_usage(found: Json, *, as_json: bool) -> None:
    """Show how an instance is used: its figures, then its sessions and its largest tables."""
    if as_json:
        show_json(found)
        return
    show_members({name: value for name, value in found.items() if name not in {"sessions", "largestTables"}})
    show_list(found["sessions"], _SESSION_COLUMNS)
    show_list(found["largestTables"], _TABLE_COLUMNS)


def show_plan(rows: Sequence[Json], *, as_json: bool) -> None:
    """Show what would be made of the lines of a file."""
    if as_json:
        show_json(rows)
        return
    show_list([dict.fromkeys(_PLAN_COLUMNS) | row for row in rows], _PLAN_COLUMNS)
    requested = sum("jobId" in row for row in rows)
    say(f"{len(rows) - requested} instances would be made; {requested} were requested by an earlier run.")


def show_reset_plan(plan: Json, *, as_json: bool) -> None:
    """Show what a reset would do.

    Raises:
        CommandError: it would be refused: everything for which it would be.
    """
    if plan["errors"]:
        raise CommandError("\n".join(reason for reasons in plan["errors"].values() for reason in reasons))
    if as_json:
        show_json(plan)
        return
    show_list(plan["instances"], _RESET_COLUMNS)
    (planned,) = plan["instances"]
    say(what_becomes_of_the_database(drops=planned["dropsDatabase"]))
    if plan["freeBytes"] is not None:
        say(f"{plan['freeBytes']} bytes are free on the server.")


def what_becomes_of_the_database(*, drops: bool) -> str:
    """What a reset or its undo does to the database that it replaces."""
    if drops:
        return "The database that it has now will be dropped, and cannot come back."
    return "The database that it has now goes to the trash, from which `undo-reset` brings it back."


def show_made(made: Sequence[Json], *, as_json: bool) -> None:
    """Show what was requested by a file, with how each job has ended if that was waited for."""
    if as_json:
        show_json(made)
    elif made:
        columns = _MADE_COLUMNS if "status" in made[0] else _REQUESTED_COLUMNS
        show_list([dict.fromkeys(columns) | row for row in made], columns)


def show_noticed(api: AdminApi, accepted: Json, *, wait: bool, as_json: bool) -> None:
    """Show an accepted request, after what becomes of the instance that is copied.

    Raises:
        CommandError: the job failed.
    """
    if accepted.get("notice") and not as_json:
        say(accepted["notice"])
    show_accepted(api, accepted, wait=wait, as_json=as_json)


def show_accepted(api: AdminApi, accepted: Json, *, wait: bool, as_json: bool, briefly: bool = False) -> None:
    """Show the instance of an accepted request: at once, or if `wait`, after its job has finished.

    Raises:
        CommandError: the job failed.
    """
    if not wait:
        show_instance(accepted, as_json=as_json, briefly=briefly)
        return
    follow(api, accepted, quietly=as_json)
    (row,) = api.instances(id=accepted["id"])
    show_instance(row, as_json=as_json, briefly=briefly)


def show_instance(row: Json, *, as_json: bool, briefly: bool = False) -> None:
    """Print an instance: as JSON, in a line (`briefly`), or each member in a line."""
    if as_json:
        show_json(row)
        return
    if briefly:
        say(f"{row['id']} {row['name']}: {row['status']}")
        return
    contexts = {it["contextKey"]: it["contextValue"] for it in row.get("contexts", [])}
    show_members(row | {"contexts": contexts})
