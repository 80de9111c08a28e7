"""How long a recovery takes when the registry has lost all instances."""

import time
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ods.databases.ownership import Owner
from ods.embedded.seeding import SERVICE_ROLE
from ods.recovery.recovery import Recovery
from ods.tenants.tenant import Tenant
from tests.postgres.postgres_inspection import comment_on

pytestmark = pytest.mark.timed

COUNT = 1000
LONGEST_SECONDS = 60


@pytest.fixture
async def lost(tenant: Tenant, admin: asyncpg.Connection, name: str) -> AsyncIterator[list[str]]:
    """Databases of instances that the registry has never known."""
    names = [f"EdFi_Ods_{name}_{number}" for number in range(COUNT)]
    installation = await tenant.installation.id()
    for number, database in enumerate(names, 1):
        await admin.execute(f'CREATE DATABASE "{database}" OWNER {SERVICE_ROLE} STRATEGY file_copy')
        owner = Owner(
            tenant.name,
            number,
            f"CreateInstanceJob-{number}-1",
            str(uuid.uuid4()),
            installation,
            database_id=str(uuid.uuid4()),
            number=1,
            name=f"{name} {number}",
            template="Minimal",
            revision=str(uuid.uuid4()),
        )
        await comment_on(admin, database, owner.comment)
    yield names
    for database in names:
        await admin.execute(f'DROP DATABASE "{database}"')


async def test_all_instances_are_recorded_within_a_minute_when_the_registry_has_lost_a_thousand(
    tenant: Tenant, rows: asyncpg.Connection, lost: list[str]
) -> None:
    recovery = Recovery(tenant)
    begun = time.monotonic()
    while not (outcome := await recovery.apply()).is_over:
        assert outcome.refused == []
    took = time.monotonic() - begun
    assert (outcome.plan.steps, outcome.plan.questions, outcome.refused) == ([], [], [])
    recorded = "SELECT count(*) FROM adminapi.dbinstances WHERE state = 'Completed'"
    assert await rows.fetchval(recorded) == len(lost)
    assert took < LONGEST_SECONDS
