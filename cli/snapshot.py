"""`ods snapshot …`: read-only copies of instances, which readers of the ODS/API may use."""

from typing import Annotated

import typer

from cli.api_access import connect
from cli.following import follow
from cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, Wait, Yes
from cli.output import say, show_json, show_list, show_members

app = typer.Typer(no_args_is_help=True)

OdsInstanceId = Annotated[
    int, typer.Argument(metavar="ID", help="Id of the ODS instance.", show_default=False)
]
SnapshotId = Annotated[
    int, typer.Argument(metavar="SNAPSHOT", help="Id of the snapshot.", show_default=False)
]
_COLUMNS = {
    "id": "ID",
    "status": "STATUS",
    "current": "CURRENT",
    "databaseName": "DATABASE",
    "createdAt": "CREATED",
    "createdBy": "BY",
    "removeAfter": "DROPPED AFTER",
}


@app.command()
def create(
    instance: OdsInstanceId,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Copy an instance as it is now, for readers: the ODS/API reads the copy from then on."""
    with connect(api_url, data_dir) as api:
        accepted = api.create_snapshot(instance)
        if wait:
            follow(api, accepted, quietly=as_json)
    if as_json:
        show_json(accepted)
    else:
        show_members(accepted)


@app.command("list")
def list_all(
    instance: OdsInstanceId,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List the snapshots of an instance, the newest first."""
    with connect(api_url, data_dir) as api:
        rows = api.snapshots(instance)
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def delete(
    instance: OdsInstanceId,
    snapshot: SnapshotId,
    *,
    yes: Yes = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Drop a snapshot when no session uses it; without the current one, the ODS/API has none to read."""
    with connect(api_url, data_dir) as api:
        current = any(row["id"] == snapshot and row["current"] for row in api.snapshots(instance))
        if current and not yes:
            typer.confirm("The ODS/API reads this snapshot. Delete it?", abort=True, err=True)
        say(api.delete_snapshot(instance, snapshot)["title"])
