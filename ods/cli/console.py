"""`ods console`: opens the console in the browser, signed in."""

import asyncio
import webbrowser
from typing import Annotated

import typer

from ods.cli.options import DEFAULT_DATA_DIR, ApiUrl, DataDir, require_given
from ods.cli.output import say
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError


def console(
    client: Annotated[
        str | None,
        typer.Option(
            envvar="ODS_CLIENT_ID",
            callback=require_given,
            help="Id of the client to sign in; by default the stack's own.",
            show_default=False,
        ),
    ] = None,
    *,
    api_url: ApiUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Open the console in the browser, with a link that signs in once, on this machine."""
    from ods.cli.registry_access import RegistryAccess, has_settings  # noqa: PLC0415 - takes half a second
    from ods.embedded.console_link import console_link  # noqa: PLC0415 - takes half a second
    from ods.registry.clients.administration import ClientNotFoundError  # noqa: PLC0415 - takes half a second

    access = RegistryAccess.find(data_dir)
    stack = None if has_settings() else DataFolder(data_dir).running_stack()
    url = (api_url or (stack["api"]["url"] if stack else "")).rstrip("/")
    chosen = client or (stack["client"]["id"] if stack else None)
    if stack and url != stack["api"]["url"]:
        raise CommandError(
            f"The stack in {data_dir} serves at {stack['api']['url']}; another API shall not see a link that"
            f" signs in there. Unset ODS_API_URL, or set the settings of the installation at {url}."
        )
    if not url or chosen is None:
        raise CommandError("Say with --api-url where the API is, and with --client which client signs in.")

    async def make() -> str:
        async with access.connected() as engine:
            return await console_link(engine, url, chosen, access.tenant)

    try:
        link = asyncio.run(make())
    except ClientNotFoundError:
        raise CommandError(
            f"No client has the id {chosen}, or it is disabled; `ods client list` shows all."
        ) from None
    say(f"This link signs {chosen} in once, within 5 minutes, on this machine:\n  {link}")
    if not webbrowser.open(link):
        say("No browser could be opened here; open the link in one.")
