"""What the walks share with the other tests of jobs on real servers."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from ods.embedded.postgres import EmbeddedPostgres
from tests.end_to_end.conftest import api, operator
from tests.servers import session

__all__ = ["api", "operator"]


@pytest.fixture
async def rows(postgres: EmbeddedPostgres, registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The registry, for a superuser, who can put it back without its triggers."""
    async with session(postgres.dsn(urlsplit(registry_dsn).path[1:])) as connection:
        yield connection
