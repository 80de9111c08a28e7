"""The options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ods.embedded.errors import CommandError
from ods.embedded.postgres_binaries import PostgresVersion
from ods.settings.settings import DEFAULT_TENANT

DEFAULT_DATA_DIR = Path(".ods")
DEFAULT_API_PORT = 8000
DEFAULT_TEMPORAL_PORT = 7233
DEFAULT_TEMPORAL_UI_PORT = 8233

_LOWEST_PORT = 1
_HIGHEST_PORT = 65_535


def require_given(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """The value of an option or argument; an empty one would count as none, and something else be meant.

    Raises:
        CommandError: it is empty.
    """
    if value == "":
        raise CommandError(f"{parameter.metavar or parameter.opts[0]} is empty. Is a variable not set?")
    return value


DataDir = Annotated[Path, typer.Option(help="Folder of the stack.", file_okay=False)]
ApiPort = Annotated[int, typer.Option(min=_LOWEST_PORT, max=_HIGHEST_PORT, help="Port of the API.")]
TemporalPort = Annotated[int, typer.Option(min=_LOWEST_PORT, max=_HIGHEST_PORT, help="Port of Temporal.")]
TemporalUiPort = Annotated[
    int, typer.Option(min=_LOWEST_PORT, max=_HIGHEST_PORT, help="Port of Temporal's Web UI.")
]
PostgresPort = Annotated[
    int | None,
    typer.Option(
        min=_LOWEST_PORT,
        max=_HIGHEST_PORT,
        help="Port of PostgreSQL; by default a free one, which the data folder keeps.",
        show_default=False,
    ),
]
ExistingPostgres = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        metavar="DSN",
        envvar="ODS_POSTGRES",
        help="An existing server instead of one of the stack's own, as postgresql://user@host; give its"
        " password in ODS_POSTGRES or PGPASSWORD.",
        show_default=False,
    ),
]
OfVersion = Annotated[
    PostgresVersion | None,
    typer.Option("--postgres-version", help="PostgreSQL to run; by default 18.", show_default=False),
]

ApiUrl = Annotated[
    str | None,
    typer.Option(
        envvar="ODS_API_URL",
        callback=require_given,
        help="Address of the API (credentials: ODS_CLIENT_ID, ODS_CLIENT_SECRET); by default the stack's.",
        show_default=False,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        envvar="ODS_TENANT",
        callback=require_given,
        help="The tenant, where the API serves several.",
        show_default=False,
    ),
]
Ids = Annotated[bool, typer.Option("--ids", help="Print only ids, one in each line, for other commands.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has finished; exit 1 if it failed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
InstanceId = Annotated[int, typer.Argument(metavar="ID", help="Id of the instance.", show_default=False)]
NameOrId = Annotated[
    str, typer.Argument(metavar="NAME|ID", help="The instance; a number is an id.", show_default=False)
]
NamesOrIds = Annotated[
    list[str],
    typer.Argument(metavar="NAME|ID", help="One or several; a number is an id.", show_default=False),
]


def require_no_folder(data_dir: Path, other: str) -> None:
    """Refuse a folder that the command names beside another installation: it would work on one of both.

    Args:
        data_dir: the folder; the default one is not named.
        other: what names the other installation, and which that is.

    Raises:
        CommandError: a folder is named.
    """
    if data_dir != DEFAULT_DATA_DIR:
        raise CommandError(f"--data-dir names the stack in {data_dir}, but {other}. Leave one of both out.")


def require_no_other_tenant(where: str) -> None:
    """Refuse a tenant that the command names where there is one, which needs no name: another is meant.

    Args:
        where: what has one tenant.

    Raises:
        CommandError: --tenant or ODS_TENANT names another one.
    """
    tenant = os.environ.get("ODS_TENANT", "")
    if tenant.lower() not in {"", DEFAULT_TENANT}:
        raise CommandError(
            f"{where} has one tenant, which needs no name, and none with the name {tenant}. Check which"
            " service you mean, or leave out --tenant and ODS_TENANT."
        )
