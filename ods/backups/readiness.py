"""Whether backups can be made and restored here, as is said before a job starts."""

from ods.backups.client_programs import find_program
from ods.backups.errors import RestoreRefusedError, translate_database_faults
from ods.databases.server import Server

_NO_LOGIN = (
    "Nothing is restored, verified by a restore or copied online, and no snapshot is made: ODS_RESTORE_DSN is"
    " not set, so that code in a database would run with all rights of the service. Set it, or accept that"
    " with ODS_RESTORE_AS_SERVICE=true."
)


def require_restores(server: Server) -> None:
    """Check that a login restores, or that the settings accept that the service's role does."""
    if server.restore_login is None and not server.restores_as_service:
        raise RestoreRefusedError(_NO_LOGIN)


async def require_programs(server: Server) -> str:
    """Check that pg_dump and pg_restore are here and suit the server.

    Returns the version of pg_dump.
    """
    with translate_database_faults():
        async with server.session() as session:
            version = session.get_server_version()
    dump, restore = [await find_program(name, version.major) for name in ("pg_dump", "pg_restore")]
    for program in (dump, restore):
        program.require_suits(f"{version.major}.{version.minor}")
    return dump.version
