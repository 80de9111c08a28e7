"""`ods demo`: creates, shows and deletes an instance, on the stack that runs or one that it starts."""

import asyncio
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic

import asyncpg

from ods.cli.client import AdminApi
from ods.cli.following import follow
from ods.cli.output import say, show_members
from ods.cli.serving import serving
from ods.embedded.console_link import console_link_of
from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.errors import CommandError
from ods.embedded.ports import Ports
from ods.embedded.stack_server import PostgresChoice
from ods.model.operations import Template


def demonstrate(folder: DataFolder, ports: Ports, postgres: PostgresChoice, *, keep: bool) -> None:
    """Create an instance, show it, delete it; then stop the stack if it was started here, unless `keep`.

    Raises:
        CommandError: something went wrong.
    """
    stays = keep or folder.running_stack() is not None
    with serving(folder, ports, postgres, keep=keep) as stack:
        client = stack["client"]
        with AdminApi(stack["api"]["url"], client["id"], client["secret"]) as api:
            try:
                instance = _create(api)
                _show(api, instance, stack)
                _delete(api, instance)
            except CommandError as error:
                raise CommandError(f"{error} The logs are in {folder.logs}.") from None
    _show_console(stack, stays=stays)


def _create(api: AdminApi) -> int:
    started = monotonic()
    accepted = api.create(f"Demo {datetime.now(UTC):%Y%m%d %H%M%S} {token_hex(2)}", Template.MINIMAL)
    follow(api, accepted)
    say(f"Created {accepted['name']} in {monotonic() - started:.2f} s.")
    return int(accepted["id"])


def _show(api: AdminApi, instance: int, stack: StackFile) -> None:
    row = api.instance(instance)
    say("\nThe instance:")
    show_members(row)
    say("\nIts job:")
    show_members(api.job(row["jobId"]))
    size = asyncio.run(_database_size(stack["postgres"]["master_dsn"], row["databaseName"]))
    say(f"\nIts database {row['databaseName']} has {size}.")
    say(f"Its workflow {row['odsInstanceId']} in the Temporal Web UI: {row['links']['workflow']}\n")


def _delete(api: AdminApi, instance: int) -> None:
    started = monotonic()
    accepted = api.purge(instance)
    follow(api, accepted)
    (row,) = api.instances(id=instance)
    say(f"{row['name']} is {row['status']} after {monotonic() - started:.2f} s.")


def _show_console(stack: StackFile, *, stays: bool) -> None:
    url = stack["api"]["url"]
    if not stays:
        say(f"\n`ods up`, or `make up`, prints a link to the console, {url}/console: there you do the same.")
        return
    link = asyncio.run(console_link_of(stack["postgres"]["admin_dsn"], url, stack["client"]["id"]))
    say(f"\nThe console, where you do the same; this link signs in once, within 5 minutes:\n  {link}")


async def _database_size(dsn: str, database: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("SELECT pg_size_pretty(pg_database_size($1))", database))
    finally:
        await connection.close()
