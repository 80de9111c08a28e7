"""`ods instance …`: instances from a terminal, through the service's HTTP API."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.client import AdminApi, Json
from cli.jobs import follow
from cli.options import DEFAULT_DATA_DIR, ApiUrl, AsJson, DataDir, InstanceId, Wait, Yes
from cli.output import show_json, show_list, show_members
from embedded.data_folder import DataFolder
from embedded.errors import CommandError
from registry.instances.status import Template
from secret_files import UnreadableSecretError, from_environment

app = typer.Typer(no_args_is_help=True)

_CLIENT_SECRET = "ODS_CLIENT_SECRET"  # noqa: S105 - the name of a variable
_COLUMNS = {
    "id": "ID",
    "name": "NAME",
    "databaseTemplate": "TEMPLATE",
    "status": "STATUS",
    "odsInstanceId": "ODS INSTANCE",
    "databaseName": "DATABASE",
}


@app.command()
def create(  # noqa: PLR0913 - a command line's options
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, blanks, underscores.")],
    template: Annotated[Template, typer.Option(help="What it starts from.")] = Template.MINIMAL,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Create an instance."""
    with connect(api_url, data_dir) as api:
        _show_accepted(api, api.create(name, template), wait=wait, as_json=as_json)


@app.command("list")
def list_all(
    *, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """List all instances, deleted ones as well."""
    with connect(api_url, data_dir) as api:
        rows = list(api.instances())
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def show(
    instance: InstanceId,
    *,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show everything about an instance."""
    with connect(api_url, data_dir) as api:
        _show(api.instance(instance), as_json=as_json)


@app.command()
def rename(  # noqa: PLR0913 - a command line's options
    instance: InstanceId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, blanks, underscores.")],
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Give an instance another name, and its database and its ODS instance with it."""
    with connect(api_url, data_dir) as api:
        _show_accepted(api, api.rename(instance, name), wait=wait, as_json=as_json)


@app.command()
def delete(
    instance: InstanceId,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete an instance and its database."""
    with connect(api_url, data_dir) as api:
        _show_accepted(api, api.delete(instance), wait=wait, as_json=as_json)


@app.command()
def retry(
    instance: InstanceId,
    *,
    wait: Wait = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Do an instance's failed job again."""
    with connect(api_url, data_dir) as api:
        _show_accepted(api, api.retry(instance), wait=wait, as_json=as_json)


@app.command()
def adopt(  # noqa: PLR0913 - a command line's options
    instance: InstanceId,
    database: Annotated[
        str | None,
        typer.Option(
            help="The database, if the registry has lost the instance or calls its database otherwise.",
            show_default=False,
        ),
    ] = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Hand over to an instance the database that another product has made for it, or that it has lost."""
    with connect(api_url, data_dir) as api:
        found = api.database(instance, database)
        if found["obstacle"]:
            raise CommandError(found["obstacle"])
        if not found["adopted"] or database is not None:
            if not yes:
                _ask_whether_to_adopt(found, quietly=as_json)
            found = api.adopt(instance, database)
        _show(found, as_json=as_json)


def connect(api_url: str | None, data_dir: Path) -> AdminApi:
    """The API at `api_url`, or else that of the stack in `data_dir`.

    Raises:
        CommandError: there is nothing to go by.
    """
    stack = DataFolder(data_dir).running_stack()
    url = api_url or (stack["api"]["url"] if stack else None)
    client_id = os.environ.get("ODS_CLIENT_ID") or (stack["client"]["id"] if stack else None)
    client_secret = _client_secret() or (stack["client"]["secret"] if stack else None)
    if url is None:
        raise CommandError(
            f"No stack serves in {data_dir}; `ods up` starts one, --api-url or ODS_API_URL name another API."
        )
    if client_id is None or client_secret is None:
        raise CommandError(f"Set ODS_CLIENT_ID and ODS_CLIENT_SECRET to those of a client of {url}.")
    token_url, tenant = os.environ.get("ODS_TOKEN_URL"), os.environ.get("ODS_TENANT")
    return AdminApi(url.rstrip("/"), client_id, client_secret, token_url, tenant)


def _client_secret() -> str | None:
    """The secret that the environment gives, by itself or by the name of a file.

    Raises:
        CommandError: it gives both, or the file holds none.
    """
    try:
        secret = from_environment(_CLIENT_SECRET)
    except UnreadableSecretError as error:
        raise CommandError(f"{_CLIENT_SECRET}_FILE: {error}.") from None
    return secret.get_secret_value() if secret else os.environ.get(_CLIENT_SECRET)


def _ask_whether_to_adopt(found: Json, *, quietly: bool) -> None:
    if not quietly:
        show_members(found | {"comment": found["comment"] or "none"})
    question = f"Hand the database {found['databaseName']} over to the instance {found['name']}?"
    typer.confirm(f"{question} Deleting the instance will drop it.", abort=True, err=True)


def _show_accepted(api: AdminApi, accepted: Json, *, wait: bool, as_json: bool) -> None:
    if not wait:
        _show(accepted, as_json=as_json)
        return
    follow(api, accepted, quietly=as_json)
    (row,) = api.instances(id=accepted["id"])
    _show(row, as_json=as_json)


def _show(row: Json, *, as_json: bool) -> None:
    if as_json:
        show_json(row)
    else:
        show_members(row)
