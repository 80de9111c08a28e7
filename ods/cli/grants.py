"""`ods grants`: what the service's role needs on registry and server, and what it lacks of that."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ods.cli.options import Tenant
from ods.cli.output import say
from ods.embedded.errors import CommandError

if TYPE_CHECKING:
    from ods.registry.rights.script import Part
    from ods.settings.settings import Settings

_CONNECT_TIMEOUT = 10

Check = Annotated[bool, typer.Option("--check", help="Ask what is missing; exit 1 if anything is.")]


def grants(*, check: Check = False, tenant: Tenant = None) -> None:
    """Print the SQL that gives the service's role what it needs, for a database administrator."""
    # Imported here: it takes half a second, which other commands need not wait for.
    from ods.cli.registry_access import chosen_tenants  # noqa: PLC0415
    from ods.registry.rights.script import script  # noqa: PLC0415

    settings = chosen_tenants(tenant)
    if not check:
        parts = [part for own in settings.values() for part in parts_of(own)]
        for line in script(parts):
            say(line)
        return
    missing = {name: asyncio.run(_missing(own)) for name, own in settings.items()}
    for name, statements in missing.items():
        for statement in statements:
            say(f"{statement};" if len(settings) == 1 else f"{statement}; -- tenant {name}")
    if any(missing.values()):
        raise typer.Exit(1)
    say("The service's role has all rights that it needs.")


def parts_of(settings: "Settings") -> "list[Part]":
    """What the roles of a tenant's DSNs need, in the registry and on the server of its ODS databases."""
    from ods.registry.rights.needs import registry_needs, server_needs  # noqa: PLC0415 - as above
    from ods.registry.rights.script import Part  # noqa: PLC0415 - as above
    from ods.settings.settings import Address, login_of  # noqa: PLC0415 - as above

    registry = Address.of(settings.admin_dsn).database
    maintenance = Address.of(settings.master_dsn).database
    templates = settings.template_databases.values()
    return [
        Part("The registry", login_of(settings.admin_dsn), registry, registry_needs(registry)),
        Part(
            "The server of the ODS databases",
            login_of(settings.master_dsn),
            maintenance,
            server_needs(maintenance, templates, settings.needed_memberships),
        ),
    ]


async def _missing(settings: "Settings") -> list[str]:
    registry, server = parts_of(settings)
    return [
        *await _missing_of(registry, settings.admin_dsn.get_secret_value(), "ODS_ADMIN_DSN"),
        *await _missing_of(server, settings.master_dsn.get_secret_value(), "ODS_MASTER_DSN"),
    ]


async def _missing_of(part: "Part", dsn: str, variable: str) -> list[str]:
    import asyncpg  # noqa: PLC0415 - as above

    from ods.registry.rights.missing import missing_grants  # noqa: PLC0415 - as above
    from ods.registry.rights.needs import quoted  # noqa: PLC0415 - as above
    from ods.registry.storage.connecting import connect  # noqa: PLC0415 - as above

    try:
        session = await connect(dsn, timeout=_CONNECT_TIMEOUT)
    except asyncpg.InsufficientPrivilegeError:
        return [f"GRANT CONNECT ON DATABASE {quoted(part.database)} TO {quoted(part.role)}"]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(
            f"{part.title} cannot be asked ({type(error).__name__}); check {variable}, and look at the log of"
            " its server."
        ) from None
    try:
        return await missing_grants(session, part.needs)
    finally:
        await session.close()
