"""`ods installation show`: which installation a registry and a server belong to, without the API."""

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from ods.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir
from ods.cli.output import show_json, show_members

if TYPE_CHECKING:
    from ods.cli.registry_access import RegistryAccess
    from ods.recovery.standing import Standing

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(*, as_json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show which installation this is, and what must be confirmed before anything is changed."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import RegistryAccess  # noqa: PLC0415

    found = _row(asyncio.run(_read(RegistryAccess.find(data_dir))))
    if as_json:
        show_json(found)
    else:
        show_members(found)


def _row(found: "Standing") -> dict[str, Any]:
    return {
        "installation": found.id,
        "registry": found.registry,
        "confirmedRegistry": found.confirmed_registry,
        "server": found.server,
        "confirmedServer": found.confirmed_server,
        "databases": found.databases,
        "otherInstallations": ", ".join(other.id for other in found.other_installations) or "none",
        "confirmedInstallations": ", ".join(found.confirmed_installations) or "none",
        "obstacle": found.obstacle or "none",
    }


async def _read(access: "RegistryAccess") -> "Standing":
    from ods.databases.server import Server  # noqa: PLC0415 - as above
    from ods.recovery.standing import read_standing  # noqa: PLC0415 - as above
    from ods.registry.installation import InstallationStore  # noqa: PLC0415 - as above
    from ods.tenants.installation_check import InstallationCheck, opened_siblings  # noqa: PLC0415 - as above

    server = Server(access.master_dsn)
    async with access.connected() as engine, opened_siblings(access.siblings) as siblings:
        store = InstallationStore(engine)
        try:
            check = InstallationCheck(store, access.tenant, siblings, shares_server=False)
            return await read_standing(store, check, server)
        finally:
            await server.close()
