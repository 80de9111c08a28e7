"""ODS databases are read as they are: what is there, what is missing, and what is wrong with them."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.education_organizations import EducationOrganizationActivities, PageRead, PageToRead
from activities.tenant import Tenant
from cli.postgres import EmbeddedPostgres
from instances.education_organizations import EducationOrganizations
from instances.refreshes import Scope
from tests.ods import ROWS, add_ods_instance, connection_string, ods_database, organizations

Read: TypeAlias = Callable[..., Awaitable[PageRead]]


@pytest.fixture
def read(tenant: Tenant) -> Read:
    """Reads a page, or one ODS instance."""
    activities = EducationOrganizationActivities(
        EducationOrganizations(tenant.reading_engine), tenant.connection_strings, at_once=8
    )

    async def read(only: int | None = None, after: int = 0, size: int = 50) -> PageRead:
        return await ActivityEnvironment().run(activities.read_page, PageToRead(Scope(only), after, size))

    return read


async def test_organizations_are_read_with_their_parents_when_the_database_is_an_ods(
    read: Read, postgres: EmbeddedPostgres, rows: asyncpg.Connection
) -> None:
    async with ods_database(postgres) as database:
        added = await add_ods_instance(rows, "North", connection_string(postgres.port, database))
        assert await read() == PageRead(read=1, unreadable=0, faults=[], last_id=added)
        assert await organizations(rows, added) == ROWS
        names = await rows.fetch(
            "SELECT DISTINCT instancename, odsdatabasename FROM adminapi.educationorganizations"
        )
        assert [tuple(row) for row in names] == [("North", database)]
