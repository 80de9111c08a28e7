"""`ods client …`: API clients, which it changes in the registry, without the API."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ods.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir
from ods.cli.output import say, show_json, show_list, show_members, utc
from ods.embedded.errors import CommandError
from ods.registry.clients.credentials import LONGEST_CLIENT_TEXT, ClientScope, client_id_errors, new_secret
from ods.registry.storage.rules import required_text_errors

if TYPE_CHECKING:
    from ods.registry.clients.administration import Client, ClientAdministration

app = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "clientId": "CLIENT",
    "displayName": "DISPLAY NAME",
    "scope": "SCOPE",
    "backupDownload": "BACKUP DOWNLOAD",
    "enabled": "ENABLED",
    "created": "CREATED",
    "lastUsed": "LAST USED",
    "expires": "EXPIRES",
}
_MAX_DAYS = 36_500
_WITHIN = "within 5 seconds"

ClientId = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="Id of the client.", show_default=False)]
_Result = TypeVar("_Result")


@app.command()
def add(  # noqa: PLR0913 - a command line's options
    client_id: ClientId,
    display_name: Annotated[
        str | None, typer.Option(help="Name of the client for people; by default its id.", show_default=False)
    ] = None,
    scope: Annotated[ClientScope, typer.Option(help="What it may do.")] = ClientScope.FULL_ACCESS,
    expires_in_days: Annotated[
        int | None,
        typer.Option(min=1, max=_MAX_DAYS, help="Days after which it ends.", show_default=False),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="When it ends, in UTC, such as 2031-06-30 or 2031-06-30T12:00:00.",
            show_default=False,
        ),
    ] = None,
    *,
    backup_download: Annotated[
        bool | None,
        typer.Option(
            "--backup-download/--no-backup-download",
            help="Whether it may download backups; by default if it has full access.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Add a client, and show its secret: this once."""
    from ods.registry.clients.administration import NewClient  # noqa: PLC0415 - takes time

    name = client_id if display_name is None else display_name
    faults = [*client_id_errors(client_id), *required_text_errors("Display name", name, LONGEST_CLIENT_TEXT)]
    if faults:
        raise CommandError(" ".join(faults))
    new = NewClient(client_id, name, scope, _end(expires, expires_in_days), backup_download)
    secret = new_secret()
    client = _change(data_dir, client_id, lambda clients: clients.add(new, clients.hash(secret)))
    _show_secret(client, secret, as_json=as_json)


@app.command("list")
def list_all(*, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List all clients, without anything of their secrets."""
    rows = [_row(client) for client in _change(data_dir, "", lambda clients: clients.clients())]
    if as_json:
        show_json(rows)
    else:
        show_list(rows, _COLUMNS)


@app.command()
def change(
    client_id: ClientId,
    *,
    backup_download: Annotated[
        bool,
        typer.Option(
            "--backup-download/--no-backup-download",
            help="Whether it may download backups.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Let a client download backups, or no longer; its tokens are refused, and it asks for others."""
    client = _change(
        data_dir, client_id, lambda clients: clients.change(client_id, backup_download=backup_download)
    )
    may = "may" if client.backup_download else "may not"
    _show_change(client, f"{may} download backups; its tokens are refused {_WITHIN}", as_json=as_json)


@app.command()
def disable(client_id: ClientId, *, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Refuse a client and its tokens, until it is enabled."""
    client = _change(data_dir, client_id, lambda clients: clients.disable(client_id))
    _show_change(client, f"is disabled; its tokens are refused {_WITHIN}", as_json=as_json)


@app.command()
def enable(client_id: ClientId, *, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let a client that was disabled get tokens again."""
    client = _change(data_dir, client_id, lambda clients: clients.enable(client_id))
    _show_change(client, "is enabled", as_json=as_json)


@app.command()
def rotate(client_id: ClientId, *, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a client another secret, and show it: this once. The old one and its tokens are refused."""
    secret = new_secret()
    client = _change(data_dir, client_id, lambda clients: clients.rotate(client_id, clients.hash(secret)))
    _show_secret(client, secret, as_json=as_json)


@app.command()
def remove(client_id: ClientId, *, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Remove a client; its tokens are refused."""
    client = _change(data_dir, client_id, lambda clients: clients.remove(client_id))
    _show_change(client, f"is removed; its tokens are refused {_WITHIN}", as_json=as_json)


def _change(
    data_dir: Path, client_id: str, work: "Callable[[ClientAdministration], Awaitable[_Result]]"
) -> _Result:
    """The result of `work` on the clients of the registry.

    Raises:
        CommandError: the client exists, or does not, or is in use, or the registry cannot be used.
    """
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import RegistryAccess, operator  # noqa: PLC0415
    from ods.registry.clients.administration import (  # noqa: PLC0415
        ClientAdministration,
        ClientInUseError,
        ClientNotFoundError,
    )
    from ods.registry.clients.store import ClientExistsError  # noqa: PLC0415

    async def change() -> _Result:
        access = RegistryAccess.find(data_dir)
        async with access.connected() as engine:
            return await work(ClientAdministration(engine, operator(), shared=access.shares_clients))

    try:
        return asyncio.run(change())
    except ClientExistsError:
        raise CommandError(
            f"A client with the id {client_id} already exists. Choose another id, or give it another secret"
            " with `ods client rotate`."
        ) from None
    except ClientNotFoundError:
        raise CommandError(f"No client has the id {client_id}; `ods client list` shows all.") from None
    except ClientInUseError:
        raise CommandError(
            f"Rows of an Admin API refer to the client {client_id}; disable it instead."
        ) from None


def _end(expires: datetime | None, days: int | None) -> datetime | timedelta | None:
    if expires and days:
        raise CommandError("Give either --expires or --expires-in-days.")
    if expires and expires <= datetime.now(UTC).replace(tzinfo=None):
        raise CommandError("--expires must be in the future.")
    return timedelta(days=days) if days else expires


def _show_secret(client: "Client", secret: str, *, as_json: bool) -> None:
    shown = {"clientId": client.client_id, "clientSecret": secret, **_row(client)}
    if as_json:
        show_json(shown)
        return
    show_members(shown)
    say("Keep the secret now: it is not shown again.")


def _show_change(client: "Client", state: str, *, as_json: bool) -> None:
    if as_json:
        show_json(_row(client))
    else:
        say(f"{client.client_id} {state}.")


def _row(client: "Client") -> dict[str, Any]:
    return {
        "clientId": client.client_id,
        "displayName": client.display_name,
        "scope": client.scope,
        "backupDownload": client.backup_download,
        "enabled": client.enabled,
        "created": utc(client.created),
        "lastUsed": utc(client.last_used),
        "expires": utc(client.expires),
    }
