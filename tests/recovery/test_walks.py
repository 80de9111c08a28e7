"""Whatever was done, and whatever was put back to whenever: one recovery, and registry and server agree.

`ODS_WALKS=2000 .venv/bin/pytest -n0 -m faults tests/recovery/test_walks.py` takes as many, at random, and
with `--hypothesis-seed` the same again.
"""

import asyncpg
import httpx
import pytest
from hypothesis import example, given

from ods.tenants.tenant import Tenant
from tests.end_to_end.conftest import Operator
from tests.recovery.walking import Walk, as_many, take, walks
from tests.recovery.world import World

_LATER_DATABASE_BESIDE_THE_OWN = [
    *(("create", 0, 0), ("reset", 0, 0), ("delete", 0, 0), ("save", 0, 0)),
    *(("undelete", 0, 0), ("undo_reset", 0, 0), ("delete", 0, 0), ("put_server_back", 0, 0)),
]
"""An instance in the trash stays there with its own: nothing is to be asked."""
_LATER_DATABASE_IN_USE = [
    *(("create", 0, 0), ("reset", 0, 0), ("save", 0, 0)),
    *(("undo_reset", 0, 0), ("delete", 0, 0), ("put_server_back", 0, 0)),
]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("workers")]


@pytest.mark.timeout(24 * 3600)
@given(walk=walks())
@example(walk=_LATER_DATABASE_BESIDE_THE_OWN)
@example(walk=_LATER_DATABASE_IN_USE)
@as_many()
async def test_registry_and_server_agree_when_anything_was_put_back(
    operator: Operator,
    tenant: Tenant,
    rows: asyncpg.Connection,
    admin: asyncpg.Connection,
    api: httpx.AsyncClient,
    walk: Walk,
) -> None:
    await take(World(operator, tenant, rows, admin, api), walk)
