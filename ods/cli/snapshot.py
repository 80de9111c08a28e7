"""`ods snapshot …`: read-only copies of instances, which readers of the ODS/API may use."""

from typing import Annotated

import typer

from ods.cli.api_access import connect
from ods.cli.client import AdminApi, Json
from ods.cli.following import follow
from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, NameOrId, NamesOrIds, Wait, Yes
from ods.cli.output import say, show_json, show_list, show_members
from ods.cli.several import for_each

app = typer.Typer(no_args_is_help=True)

SnapshotId = Annotated[
    int,
    typer.Argument(
        metavar="SNAPSHOT", help="Id of the snapshot, from `ods snapshot list`.", show_default=False
    ),
]
_COLUMNS = {
    "id": "ID",
    "status": "STATUS",
    "current": "CURRENT",
    "beforeReset": "BEFORE RESET",
    "databaseName": "DATABASE",
    "createdAt": "CREATED",
    "createdBy": "BY",
    "removeAfter": "DROPPED AFTER",
}


@app.command()
def create(
    instances: NamesOrIds,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make read-only copies of instances, which the ODS/API reads for requests with `Use-Snapshot`."""
    with connect(api_url, data_dir) as api:

        def finish(accepted: Json) -> None:
            if wait:
                follow(api, accepted, quietly=as_json)
            (show_json if as_json else show_members)(_made(api, accepted) if wait else accepted)

        for_each(instances, lambda instance: api.create_snapshot(_ods_instance(api, instance)), finish)


@app.command("list")
def list_all(
    instance: NameOrId,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List the snapshots of an instance, the newest first."""
    with connect(api_url, data_dir) as api:
        rows = api.snapshots(_ods_instance(api, instance))
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def delete(
    instance: NameOrId,
    snapshot: SnapshotId,
    *,
    yes: Yes = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Drop a snapshot when no session uses it; without the current one, the ODS/API has none to read."""
    with connect(api_url, data_dir) as api:
        ods_instance = _ods_instance(api, instance)
        current = any(row["id"] == snapshot and row["current"] for row in api.snapshots(ods_instance))
        if current and not yes:
            typer.confirm("The ODS/API reads this snapshot. Delete it?", abort=True, err=True)
        say(api.delete_snapshot(ods_instance, snapshot)["title"])


def _made(api: AdminApi, accepted: Json) -> Json:
    """The snapshot of a request whose job is done, and the name of its instance; only that if it is gone."""
    listed = api.snapshots(accepted["odsInstanceId"])
    made = next((row for row in listed if row["id"] == accepted["snapshotId"]), {})
    return {"name": accepted["name"], **made}


def _ods_instance(api: AdminApi, instance: str) -> int:
    """The id of the ODS instance of an instance, by whose name or id it is called."""
    return int(api.instance(api.id_named(instance))["odsInstanceId"])
