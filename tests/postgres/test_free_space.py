"""The room that the server has left, as far as it can be known from here."""

import shutil

import asyncpg
import pytest

from ods.databases.inspection.listing import free_space
from ods.databases.server import Server


async def test_free_space_is_that_of_the_data_directory_when_it_can_be_seen(
    admin: asyncpg.Connection,
) -> None:
    directory = await admin.fetchval("SELECT current_setting('data_directory')")

    found = await free_space(admin)

    assert found == pytest.approx(shutil.disk_usage(directory).free, rel=0.05)


async def test_free_space_is_not_told_when_the_role_may_not_see_the_data_directory(server: Server) -> None:
    async with server.session() as service:
        assert await free_space(service) is None


async def test_free_space_is_not_told_when_the_directory_is_that_of_another_server(
    admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ods.databases.inspection.listing._CLOCKS_DIFFER", -1
    )  # as if it was started at another time
    assert await free_space(admin) is None
