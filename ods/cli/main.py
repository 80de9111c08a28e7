"""The command `ods`."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any

import typer

from ods.cli import (
    audit,
    backup,
    clients,
    console,
    doctor,
    edorgs,
    grants,
    installation,
    instance,
    job,
    keys,
    recovery,
    registration,
    snapshot,
    spares,
    template,
    trash,
)
from ods.cli.api_access import connect
from ods.cli.options import (
    DEFAULT_API_PORT,
    DEFAULT_DATA_DIR,
    DEFAULT_TEMPORAL_PORT,
    DEFAULT_TEMPORAL_UI_PORT,
    ApiPort,
    ApiUrl,
    AsJson,
    DataDir,
    ExistingPostgres,
    OfVersion,
    PostgresPort,
    TemporalPort,
    TemporalUiPort,
    Tenant,
)
from ods.cli.output import fail, say, show_json, show_list
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError
from ods.embedded.ports import Ports
from ods.observability.logs import fault_name

_commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The headings of the list of commands, as on docs/command-line.md.
_STACK = "The stack on this machine"
_API = "Commands of a client of the API"
_REGISTRY = "Commands on the registry itself"

_GROUPS = (
    (
        instance.app,
        "instance",
        _API,
        "Create, copy, list, protect, reset, delete and bring back instances, and more.",
    ),
    (backup.app, "backup", _API, "Make, list, verify, restore, fetch and delete backups of instances."),
    (snapshot.app, "snapshot", _API, "Create, list and delete read-only copies of instances for readers."),
    (job.app, "job", _API, "List, inspect, cancel and abandon jobs."),
    (template.app, "template", _API, "List and load what instances are made of."),
    (edorgs.app, "edorgs", _API, "Read education organizations from the ODS databases."),
    (clients.app, "client", _REGISTRY, "Add, list, disable, enable, rotate and remove API clients."),
    (registration.app, "registration", _REGISTRY, "Let API clients register themselves."),
    (keys.app, "keys", _REGISTRY, "Change the keys of the service."),
    (
        installation.app,
        "installation",
        _REGISTRY,
        "Show which installation a registry is.",
    ),
)
for _group, _name, _panel, _help in _GROUPS:
    _commands.add_typer(_group, name=_name, help=_help, rich_help_panel=_panel)
_commands.command(rich_help_panel=_API)(spares.spares)
_commands.command(rich_help_panel=_API)(trash.trash)
_commands.command(rich_help_panel=_API)(audit.audit)
_commands.command(rich_help_panel=_API)(recovery.recover)
_commands.command(rich_help_panel=_STACK)(console.console)
_commands.command(rich_help_panel=_REGISTRY)(doctor.doctor)
_commands.command(rich_help_panel=_REGISTRY)(grants.grants)


@_commands.callback()
def choose_tenant(tenant: Tenant = None) -> None:
    """ODS instances: databases that are created and deleted by durable jobs."""
    if tenant is not None:
        os.environ["ODS_TENANT"] = tenant  # `connect` reads it there, beside ODS_CLIENT_ID


def app() -> None:
    """Run the command line; a failure ends as a plain line, without a traceback, and with exit code 1."""
    try:
        _commands()
    except CommandError as error:
        fail(str(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - a traceback may hold secrets
        fail(f"Unexpected {fault_name(error)}.")
        sys.exit(1)


@_commands.command(rich_help_panel=_STACK)
def up(  # noqa: PLR0913, PLR0917 - a command line's options
    data_dir: DataDir = DEFAULT_DATA_DIR,
    api_port: ApiPort = DEFAULT_API_PORT,
    temporal_port: TemporalPort = DEFAULT_TEMPORAL_PORT,
    temporal_ui_port: TemporalUiPort = DEFAULT_TEMPORAL_UI_PORT,
    postgres_port: PostgresPort = None,
    postgres_version: OfVersion = None,
    postgres: ExistingPostgres = None,
) -> None:
    """Run the whole service here, with PostgreSQL and Temporal, until Ctrl-C."""
    from ods.embedded import stack  # noqa: PLC0415 - takes half a second
    from ods.embedded.stack_server import PostgresChoice  # noqa: PLC0415 - takes half a second

    ports = Ports(api_port, temporal_port, temporal_ui_port, postgres_port)
    choice = PostgresChoice(postgres_version, postgres)
    asyncio.run(_until_signalled(stack.run(DataFolder(data_dir), ports, choice, say)))


@_commands.command(rich_help_panel=_STACK)
def demo(  # noqa: PLR0913, PLR0917 - a command line's options
    data_dir: DataDir = DEFAULT_DATA_DIR,
    api_port: ApiPort = DEFAULT_API_PORT,
    temporal_port: TemporalPort = DEFAULT_TEMPORAL_PORT,
    temporal_ui_port: TemporalUiPort = DEFAULT_TEMPORAL_UI_PORT,
    postgres_port: PostgresPort = None,
    postgres_version: OfVersion = None,
    postgres: ExistingPostgres = None,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
) -> None:
    """Create an instance and delete it, on the running stack or on one started for it."""
    from ods.cli.demo import demonstrate  # noqa: PLC0415 - takes half a second
    from ods.embedded.stack_server import PostgresChoice  # noqa: PLC0415 - takes half a second

    ports = Ports(api_port, temporal_port, temporal_ui_port, postgres_port)
    demonstrate(DataFolder(data_dir), ports, PostgresChoice(postgres_version, postgres), keep=keep)


@_commands.command(rich_help_panel=_REGISTRY)
def migrate(
    grant_to: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Give the service's role, which owns no table, what it needs."),
    ] = None,
) -> None:
    """Bring the registry database up to date, or those of all tenants."""
    from ods.cli.registry_maintenance import migrate_all  # noqa: PLC0415 - takes half a second

    asyncio.run(migrate_all(grant_to))
    say("The registry database is up to date.")


@_commands.command(rich_help_panel=_API)
def sweep(api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Start every job that is still pending, now."""
    with connect(api_url, data_dir) as api:
        api.sweep()
    say("The sweep is under way.")


@_commands.command(rich_help_panel=_API)
def drift(*, as_json: AsJson = False, api_url: ApiUrl = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show where registry and server contradict each other; exit 1 if they do anywhere."""
    with connect(api_url, data_dir) as api:
        found = api.drift()
    if as_json:
        show_json(found)
    elif found:
        show_list(found, {"kind": "KIND", "subject": "SUBJECT", "explanation": "EXPLANATION"})
    else:
        say("Registry and server agree.")
    if found:
        raise typer.Exit(1)


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it ends, or until SIGINT or SIGTERM; further signals do not interrupt its clean-up."""
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(signalled.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
