"""pg_dump reads the server that takes writes, whichever other hosts the address names."""

from pathlib import Path

from ods.backups.copying import copy_contents
from ods.backups.monitoring import Monitor
from ods.backups.snapshots import Database
from ods.databases.server import Server
from tests.replication import replicated_pair
from tests.servers import session


async def test_database_is_copied_when_a_former_primary_that_is_named_first_was_made_read_only(
    tmp_path: Path,
) -> None:
    async with replicated_pair() as pair:
        async with session(pair.primary.dsn()) as admin:
            await admin.execute("CREATE DATABASE source")
            await admin.execute("CREATE DATABASE target")
        await pair.demote_in_place()
        server = Server(pair.dsn("postgres"), restores_as_service=True)
        try:
            monitor = Monitor(tmp_path / "log")
            await copy_contents(Database(server, "source"), Database(server, "target"), monitor)
        finally:
            await server.close()
