"""`ods instance …`: instances from a terminal, through the service's HTTP API."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.client import AdminApi, Json
from ods.cli.following import wait_printer
from ods.cli.instance_csv import Sheet, plan, read_sheet
from ods.cli.instance_csv import create as create_all
from ods.cli.instance_output import (
    show_accepted,
    show_instance,
    show_instances,
    show_made,
    show_noticed,
    show_plan,
    show_reset_plan,
    show_usage,
    what_becomes_of_the_database,
)
from ods.cli.key_values import key_values, label_changes
from ods.cli.options import (
    DEFAULT_DATA_DIR,
    ApiUrl,
    AsJson,
    DataDir,
    Ids,
    InstanceId,
    NameOrId,
    NamesOrIds,
    Wait,
    Yes,
)
from ods.cli.output import say, show_ids, show_members
from ods.cli.progress_bar import Show, progress_bar
from ods.cli.several import for_each
from ods.embedded.errors import CommandError
from ods.model.operations import InstanceStatus, Template
from ods.model.origins import CopyMode

app = typer.Typer(no_args_is_help=True)

_LIVE = [status.value for status in InstanceStatus if status is not InstanceStatus.DELETED]
_DROPPED = "Its database will be dropped, and cannot come back."
_NOT_DELETED = (
    "The instance {id} ({name}) is not in the trash: it was not deleted, or has come back. Nothing was"
    " dropped. Delete it first (`ods instance delete {id}`), or drop the database that it has now by --live."
    " What a reset has replaced goes by itself, when `ods trash` says."
)
_CHANGED = (
    "Another job of the instance {id} ({name}) has begun since its name was asked for. Nothing was done. Look"
    " at `ods job list --instance {id}`, then ask again."
)
_NOT_WITH_FILE = (
    "With --from-csv, the file says all about each instance. Leave out the options that describe one, or make"
    " them columns of the file."
)
CopyOf = Annotated[
    str | None,
    typer.Option(
        metavar="ID|NAME",
        help="The instance that it shall be a copy of; a number is an id.",
        show_default=False,
    ),
]
Mode = Annotated[
    CopyMode | None,
    typer.Option(
        help="How the instance is copied: while it is used (online, unless another is given), or sooner"
        " done while it cannot be used and sessions on it are ended (closed).",
        show_default=False,
    ),
]
FromBackup = Annotated[
    str | None,
    typer.Option(
        metavar="BACKUP",
        help="The backup that it shall be restored from; `ods backup list` shows the ids.",
        show_default=False,
    ),
]


@app.command()
def create(  # noqa: PLR0913 - a command line's options
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Letters, digits, blanks, underscores.", show_default=False),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="The template that it is a clone of, Minimal unless it is a copy; `ods template list` shows"
            " the names.",
            show_default=False,
        ),
    ] = None,
    *,
    copy_of: CopyOf = None,
    mode: Mode = None,
    from_csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Create an instance for each line of the file, which says all about it, instead of one with"
            " NAME and options.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --from-csv: only show what would be made.")
    ] = False,
    protected: Annotated[
        bool | None,
        typer.Option(
            "--protected/--unprotected",
            help="Protected, it can be neither deleted nor reset; by default as the service is set.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be given several times.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A context of its ODS instance; may be given several times."),
    ] = None,
    description: Annotated[str | None, typer.Option(help="Any text.")] = None,
    backup: FromBackup = None,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Create an instance, or those that a file describes."""
    if from_csv is not None and name is None:
        options = (template, copy_of, mode, protected, label, context, description, backup)
        if any(option is not None for option in options):
            raise CommandError(_NOT_WITH_FILE)
        with connect(api_url, data_dir) as api:
            sheet = read_sheet(from_csv, api.id_named)
            rows = plan(api, sheet)
            if dry_run:
                show_plan(rows, as_json=as_json)
            else:
                _create_all(api, sheet, wait=wait, as_json=as_json)
        return
    if name is None or from_csv is not None or dry_run:
        raise CommandError("Give a NAME, or --from-csv FILE with or without --dry-run.")
    attributes = {
        "protected": protected,
        "description": description,
        "labels": key_values(label or []),
        "contexts": _contexts(key_values(context or [])),
    }
    with connect(api_url, data_dir) as api:
        origin = _origin(api, {"databaseTemplate": template, "backupId": backup, "mode": mode}, copy_of)
        show_noticed(api, api.create(name, None, attributes | origin), wait=wait, as_json=as_json)


@app.command("list")
def list_all(  # noqa: PLR0913 - a command line's options
    *,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only those with the label; of several, with all of them."),
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only of this status, such as Completed. May be repeated.")
    ] = None,
    protected: Annotated[
        bool | None,
        typer.Option("--protected/--unprotected", help="Only those that are protected, or that are not."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="All but deleted ones, also those on which a job waits or works.")
    ] = False,
    ids: Ids = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List instances, deleted ones as well."""
    if live and status:
        raise CommandError("Give --live or --status, not both.")
    labels = [text.replace("=", ":", 1) for text in label or []]
    with connect(api_url, data_dir) as api:
        found = api.instances(label=labels, status=_LIVE if live else status or [])
        rows = [row for row in found if protected in {None, row["protected"]}]
    if ids:
        show_ids(rows)
    else:
        show_instances(rows, as_json=as_json)


@app.command()
def show(
    instance: NameOrId,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show everything about an instance."""
    with connect(api_url, data_dir) as api:
        show_instance(api.instance(api.id_named(instance)), as_json=as_json)


@app.command()
def usage(
    instance: NameOrId,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show how an instance is used: size, sessions, last activity, tables, applications."""
    with connect(api_url, data_dir) as api:
        found = api.usage(api.id_named(instance))
    show_usage(found, as_json=as_json)


@app.command()
def rename(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, blanks, underscores.")],
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Give an instance another name, and its database and its ODS instance with it."""
    with connect(api_url, data_dir) as api:
        show_accepted(api, api.rename(api.id_named(instance), name), wait=wait, as_json=as_json)


@app.command()
def protect(
    instances: NamesOrIds,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Protect instances: their data can be neither deleted nor replaced."""
    with connect(api_url, data_dir) as api:
        _change_each(api, instances, {"protected": True}, as_json=as_json)


@app.command()
def unprotect(
    instances: NamesOrIds,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """End the protection of instances."""
    with connect(api_url, data_dir) as api:
        _change_each(api, instances, {"protected": False}, as_json=as_json)


@app.command()
def label(
    instance: NameOrId,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE|KEY-", help="Labels to set, and with a dash to remove."),
    ],
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Set labels of an instance, or remove them; the others stay."""
    labels = label_changes(changes)
    with connect(api_url, data_dir) as api:
        show_instance(api.change(api.id_named(instance), {"labels": labels}), as_json=as_json)


@app.command()
def contexts(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="All that the instance shall have.")
    ] = None,
    *,
    none: Annotated[bool, typer.Option("--none", help="Remove all of them.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Replace the contexts of an instance; while it has any, `detach` is refused."""
    if none == bool(wanted):
        raise CommandError("Give the contexts that the instance shall have, or --none, which removes them.")
    replaced = _contexts(key_values(wanted or []))
    with connect(api_url, data_dir) as api:
        show_instance(api.change(api.id_named(instance), {"contexts": replaced}), as_json=as_json)


@app.command()
def delete(  # noqa: PLR0913 - a command line's options
    instances: NamesOrIds,
    *,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete instances: their databases go to the trash, from which `undelete` brings them back."""
    with connect(api_url, data_dir) as api:

        def request(instance: str) -> Json:
            number = api.id_named(instance)
            if not yes and api.instance(number)["deleteDropsDatabase"]:
                _require_name_to_drop(api, _row(api, number))
            return api.delete(number)

        def finish(accepted: Json) -> None:
            show_accepted(api, accepted, wait=wait, as_json=as_json, briefly=len(instances) > 1)
            if accepted["purgeAfter"] and not as_json:
                undelete_it = f"`ods instance undelete {accepted['id']}`"
                say(f"It can come back until {accepted['purgeAfter']}: {undelete_it}.")

        for_each(instances, request, finish)


@app.command()
def undelete(  # noqa: PLR0913 - a command line's options
    instances: Annotated[
        list[int],
        typer.Argument(metavar="ID", help="Ids of deleted instances, from `ods trash`.", show_default=False),
    ],
    name: Annotated[
        str | None, typer.Option(help="Another name, if its own was taken since.", show_default=False)
    ] = None,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Bring deleted instances back from the trash, with their databases and all that belongs to them."""
    if name is not None and len(instances) > 1:
        raise CommandError("--name is for one instance.")
    with connect(api_url, data_dir) as api:
        for_each(
            instances,
            lambda instance: api.undelete(instance, name),
            partial(show_accepted, api, wait=wait, as_json=as_json, briefly=len(instances) > 1),
        )


@app.command()
def reset(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    template: Annotated[
        str | None,
        typer.Option(help="Another template than the one it was made from.", show_default=False),
    ] = None,
    *,
    copy_of: CopyOf = None,
    mode: Mode = None,
    backup: FromBackup = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Replace the database of an instance: by a fresh clone, a copy of another one, or a backup.

    `undo-reset` brings back what it replaces, unless ODS_TRASH_DAYS is 0.
    """
    with connect(api_url, data_dir) as api:
        number = api.id_named(instance)
        origin = _named_origin(api, {"databaseTemplate": template, "backupId": backup, "mode": mode}, copy_of)
        if dry_run:
            show_reset_plan(api.plan_reset(number, origin), as_json=as_json)
            return
        if not yes:
            _require_name_to_replace(api, number, "All that was written into the instance is replaced.")
        show_noticed(api, api.reset(number, origin), wait=wait, as_json=as_json)


@app.command("undo-reset")
def undo_reset(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    *,
    database: Annotated[
        str | None,
        typer.Option(
            help="The name in the trash of the database that comes back, as `ods trash` tells it; unless"
            " given, the one that was replaced last.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Bring back a database that a reset has replaced, by default the last, in place of the one of now.

    A further `undo-reset` brings that back, unless ODS_TRASH_DAYS is 0.
    """
    with connect(api_url, data_dir) as api:
        number = api.id_named(instance)
        if not yes:
            _require_name_to_replace(api, number, "All that was written since the reset is replaced.")
        show_accepted(api, api.undo_reset(number, database), wait=wait, as_json=as_json)


@app.command()
def purge(  # noqa: PLR0913 - a command line's options
    instances: NamesOrIds,
    *,
    final_backup: Annotated[
        bool,
        typer.Option(
            "--final-backup",
            help="Back the database up first, and drop it only if the backup is complete and verified.",
        ),
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Also of instances that were not deleted, past the trash.")
    ] = False,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Drop the databases of deleted instances for good, named by their ids from `ods trash`.

    With `--live`, also those of instances that were not deleted.
    """
    with connect(api_url, data_dir) as api:

        def request(instance: str) -> Json:
            row = _row(api, api.id_named(instance))
            # If another client brings it back meanwhile, this is refused.
            is_deleted = row["status"] == "Deleted" or row["operation"] == "Purge"
            if not (is_deleted or live):
                raise CommandError(_NOT_DELETED.format(**row))
            if not yes:
                _require_name_to_drop(api, row)
            purge_it = api.purge_trash if is_deleted else api.purge
            return purge_it(row["id"], final_backup=final_backup)

        for_each(
            instances,
            request,
            partial(show_accepted, api, wait=wait, as_json=as_json, briefly=len(instances) > 1),
        )


@app.command()
def detach(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    *,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete an instance, but leave its database, which this service forgets."""
    with connect(api_url, data_dir) as api:
        number = api.id_named(instance)
        if not yes:
            row = _row(api, number)
            go = _versions_go(api, number, " when its time is over")
            _require_name(api, row, f"The instance cannot come back; its database stays.{go}")
        show_accepted(api, api.detach(number), wait=wait, as_json=as_json)


@app.command()
def retry(  # noqa: PLR0913 - a command line's options
    instance: NameOrId,
    *,
    yes: Yes = False,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Do an instance's failed job again; asks for the name if that drops its database."""
    with connect(api_url, data_dir) as api:
        number = api.id_named(instance)
        if not yes and (row := _row(api, number))["retryDropsDatabase"]:
            _require_name_to_drop(api, row)
        show_accepted(api, api.retry(number), wait=wait, as_json=as_json)


@app.command()
def adopt(  # noqa: PLR0913 - a command line's options
    instance: InstanceId,
    database: Annotated[
        str | None,
        typer.Option(
            help="The database, if it has another name than the registry says.",
            show_default=False,
        ),
    ] = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Hand over to an instance a database that another product has made, or that has lost its comment."""
    with connect(api_url, data_dir) as api:
        found = api.database(instance, database)
        if found["obstacle"]:
            raise CommandError(found["obstacle"])
        if not found["adopted"] or database is not None:
            if not yes:
                _ask_whether_to_adopt(found, quietly=as_json)
            found = api.adopt(instance, database)
        show_instance(found, as_json=as_json)


def _origin(api: AdminApi, given: Json, copy_of: str | None) -> Json:
    """The members of a request that say where the instance comes from: `Minimal` unless one does.

    Raises:
        CommandError: there is no instance of the name that shall be copied.
    """
    named = _named_origin(api, given, copy_of)
    return named if named.keys() - {"mode"} else named | {"databaseTemplate": Template.MINIMAL}


def _named_origin(api: AdminApi, given: Json, copy_of: str | None) -> Json:
    """The members of a request that say where a database comes from, those that were given.

    Raises:
        CommandError: there is no instance of the name that shall be copied.
    """
    named = {name: value for name, value in given.items() if value is not None}
    return named if copy_of is None else named | {"copyOf": api.id_named(copy_of)}


def _row(api: AdminApi, instance: int) -> Json:
    """The instance, be it deleted.

    Raises:
        CommandError: there is none.
    """
    row = next(api.instances(id=instance), None)
    if row is None:
        raise CommandError(f"There is no instance {instance}.")
    return row


def _require_name(api: AdminApi, row: Json, consequence: str) -> None:
    """Ask for the instance's name, as a proof that this one is meant.

    Raises:
        CommandError: another name was given; or a job has begun while it was asked for, as of another client
            that has brought the instance back, or deleted it once more.
    """
    question = f"{consequence} Type the name of the instance {row['id']}"
    if typer.prompt(question, err=True) != row["name"]:
        raise CommandError(f"The instance {row['id']} has another name. Nothing was done.")
    if _row(api, row["id"])["jobId"] != row["jobId"]:
        raise CommandError(_CHANGED.format(**row))


def _require_name_to_drop(api: AdminApi, row: Json) -> None:
    """As `_require_name`, saying what is dropped."""
    _require_name(api, row, _DROPPED + _versions_go(api, row["id"]))


def _versions_go(api: AdminApi, instance: int, when: str = "") -> str:
    """What the client is told of databases that the instance had before resets; empty if it has none."""
    (planned,) = api.plan_purge(instance)["instances"]
    names = planned["dropsVersions"]
    return f" What it had before resets is dropped as well{when}: {', '.join(names)}." if names else ""


def _require_name_to_replace(api: AdminApi, instance: int, consequence: str) -> None:
    """As `_require_name`, saying what becomes of the database that is replaced: the same as at a delete."""
    row = _row(api, instance)
    becomes = what_becomes_of_the_database(drops=row["deleteDropsDatabase"])
    _require_name(api, row, f"{consequence} {becomes}")


def _ask_whether_to_adopt(found: Json, *, quietly: bool) -> None:
    if not quietly:
        show_members(found | {"comment": found["comment"] or "none"})
    question = f"Hand the database {found['databaseName']} over to the instance {found['name']}?"
    typer.confirm(f"{question} Deleting the instance will drop it.", abort=True, err=True)


def _create_all(api: AdminApi, sheet: Sheet, *, wait: bool, as_json: bool) -> None:
    """Request the instances of a file, and show them, also those that were requested before a failure."""
    made: list[Json] = []
    try:
        with _counted(sheet.count, "Requested", quietly=as_json) as show:
            for some in create_all(api, sheet):
                made += some
                show(len(made))
        if wait:
            _wait_for_all(api, made, quietly=as_json)
    finally:
        show_made(made, as_json=as_json)
    if failed := [row for row in made if row.get("status") == "Error"]:
        raise CommandError(f"{len(failed)} of {len(made)} jobs ended in an error; `ods job show` says why.")


def _wait_for_all(api: AdminApi, made: Sequence[Json], *, quietly: bool) -> None:
    """Wait for the jobs, and note in each row how its job has ended."""
    show_wait = (lambda _: None) if quietly else wait_printer()
    with _counted(len(made), "Finished", quietly=quietly) as show:
        for number, row in enumerate(made, 1):
            row["status"] = api.wait_for_end(row["jobId"], show_wait)["status"]
            show(number)


def _counted(total: int, what: str, *, quietly: bool) -> AbstractContextManager[Show]:
    return nullcontext(lambda _: None) if quietly else progress_bar(what, total)


def _change_each(api: AdminApi, instances: Sequence[str], attributes: Json, *, as_json: bool) -> None:
    """Change attributes of each instance, and show it."""
    for_each(
        instances,
        lambda instance: api.change(api.id_named(instance), attributes),
        lambda row: show_instance(row, as_json=as_json, briefly=len(instances) > 1),
    )


def _contexts(values: Mapping[str, str]) -> list[Json]:
    """Contexts as the API takes them."""
    return [{"contextKey": key, "contextValue": value} for key, value in values.items()]
