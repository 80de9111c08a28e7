"""`ods backup …`: backups from a terminal, through the service's HTTP API."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.client import AdminApi, Json, completed
from ods.cli.fetched_files import file_in_parts, require_new
from ods.cli.following import wait_printer
from ods.cli.options import (
    DEFAULT_DATA_DIR,
    ApiUrl,
    AsJson,
    DataDir,
    Ids,
    NamesOrIds,
    Wait,
    Yes,
    require_given,
)
from ods.cli.output import say, show_ids, show_json, show_list, show_members
from ods.cli.progress_bar import Show, goes_on, progress_bar
from ods.cli.several import for_each
from ods.embedded.errors import CommandError

app = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "id": "ID",
    "instanceId": "INSTANCE",
    "name": "NAME",
    "kind": "KIND",
    "status": "STATUS",
    "sizeBytes": "BYTES",
    "takenAt": "TAKEN",
    "verifiedAt": "VERIFIED",
    "errorMessage": "REASON",
}
_POLL_SECONDS = 0.2

BackupId = Annotated[
    str,
    typer.Argument(
        metavar="BACKUP",
        callback=require_given,
        help="Id of the backup, from `ods backup list`.",
        show_default=False,
    ),
]


@app.command()
def create(
    instances: NamesOrIds,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make backups of instances, which go on being used."""
    with connect(api_url, data_dir) as api:

        def finish(accepted: Json) -> None:
            if wait:
                _follow(api, accepted, f"Backing up {accepted['name']}", quietly=as_json)
            _show(api.backup(accepted["backupId"]), as_json=as_json)

        for_each(instances, lambda instance: api.back_up(api.id_named(instance)), finish)


@app.command("list")
def list_all(  # noqa: PLR0913 - a command line's options
    *,
    instance: Annotated[
        int | None, typer.Option(help="Only those of the instance with this id.", show_default=False)
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only requested, scheduled or final. May be repeated.")
    ] = None,
    ids: Ids = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List the backups, the newest first; those of instances that are gone as well."""
    filters: dict[str, int | list[str]] = {"kind": kind or []}
    if instance is not None:
        filters["instanceId"] = instance
    with connect(api_url, data_dir) as api:
        rows = list(api.backups(**filters))
    if ids:
        show_ids(rows)
    elif as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def show(
    backup: BackupId, *, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show everything about a backup."""
    with connect(api_url, data_dir) as api:
        _show(api.backup(backup), as_json=as_json)


@app.command()
def verify(
    backup: BackupId,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the verdict; exit 1 if the backup is not whole.")
    ] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Restore a backup to a private database, compare it with what it was made of, and drop that again."""
    with connect(api_url, data_dir) as api:
        found = api.verify_backup(backup)
        if wait:
            with goes_on(f"The verification of {backup}", f"ods backup show {backup}"):
                while found["verification"] in {"Pending", "InProgress"}:
                    sleep(_POLL_SECONDS)
                    found = api.backup(backup)
            if found["verification"] == "Error":
                raise CommandError(f"The backup is not whole: {found['verificationError']}")
    _show(found, as_json=as_json)


@app.command()
def delete(
    backup: BackupId,
    *,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also if it is in an earlier store, where nothing is removed.")
    ] = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete a backup, which cannot come back."""
    with connect(api_url, data_dir) as api:
        found = api.backup(backup)
        if not yes:
            consequence = f"The {found['kind']} backup of {found['createdAt']} cannot come back."
            if typer.prompt(f"{consequence} Type the name of its instance", err=True) != found["name"]:
                raise CommandError("The instance has another name. Nothing was done.")
        api.delete_backup(backup, forget=forget)
    say(f"The backup {backup} of {found['name']} is deleted.")


@app.command()
def restore(  # noqa: PLR0913 - a command line's options
    backup: BackupId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new instance.")],
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a new instance of a backup, also of an instance that is gone."""
    with connect(api_url, data_dir) as api:
        accepted = api.create(name, None, {"backupId": backup})
        if wait:
            _follow(api, accepted, f"Restoring {name}", quietly=as_json)
            accepted = api.instance(accepted["id"])
        _show(accepted, as_json=as_json)


@app.command()
def fetch(
    backup: BackupId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.", dir_okay=False)],
    *,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Download the dump of a backup, as `pg_restore` reads it, or `age --decrypt` if it is encrypted."""
    require_new(file)
    with connect(api_url, data_dir) as api:
        found = api.backup(backup)
        with progress_bar(f"Fetching {found['name']}") as show_percent, api.dump(backup) as chunks:
            _write(file, chunks, found, show_percent)
    encrypted = " It is encrypted with age." if found["encrypted"] else ""
    say(f"{file} is whole: its SHA-256 is that of the backup.{encrypted}")


def _write(file: Path, chunks: Iterator[bytes], backup: Json, show_percent: Show) -> None:
    """Write the dump; the file has its name only once all of it is there, and is what was recorded."""
    digest, done = hashlib.sha256(), 0
    with file_in_parts(file) as target:
        for chunk in chunks:
            target.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            show_percent(100 * done // max(1, backup["sizeBytes"]))
        if digest.hexdigest() != backup["sha256"]:
            raise CommandError("What was fetched is damaged: it has not the SHA-256 of the backup.")


def _follow(api: AdminApi, accepted: Json, title: str, *, quietly: bool) -> None:
    """Wait for the job of a backup or restore, showing how far it is.

    Raises:
        CommandError: it failed, or Ctrl-C was pressed.
    """
    job = accepted["jobId"]
    with goes_on(job, f"ods job show {job}", f"ods job cancel {job}"):
        if quietly:
            api.wait_for(job)
            return
        with progress_bar(title) as show_percent:
            show_wait = wait_printer()

            def show_state(state: Json) -> None:
                show_wait(state)
                show_percent(state["percent"])

            ended = api.wait_for_end(job, show_state)
            if ended["status"] == "Completed":
                show_percent(100)
        completed(ended)


def _show(backup: Json, *, as_json: bool) -> None:
    (show_json if as_json else show_members)(backup)
