"""Long lists: how much of one may be asked for, and that its answer does not hold up other requests."""

from collections.abc import AsyncIterator

import httpx
import pytest

from settings import Settings
from tests.api import server
from tests.api.probing import probing
from tests.api.server import Server
from tests.api.service import bearer, faults_of
from tests.servers import session

LISTS = [
    "/v2/dbInstances",
    "/v2/odsInstances/manage",
    "/v2/odsInstances",
    "/v2/odsInstanceContexts",
    "/v2/odsInstanceDerivatives",
    "/v2/audit",
]
LONGEST = 10_000
FARTHEST = 1_000_000

_ROWS = """
INSERT INTO adminapi.dbinstances
    (name, odsinstanceid, odsinstancename, status, databasetemplate, databasename, operation)
    SELECT 'Instance ' || n, n, 'Instance ' || n, 'Completed', 'Minimal', 'EdFi_Ods_' || n, 'Create'
    FROM generate_series(1, 10000) n;
INSERT INTO dbo.odsinstances SELECT n, 'Instance ' || n, 'Minimal', 's' FROM generate_series(1, 10000) n;
INSERT INTO dbo.odsinstancecontexts SELECT n, n, 'key', 'value' FROM generate_series(1, 10000) n;
INSERT INTO dbo.odsinstancederivatives SELECT n, n, 'Snapshot', 's' FROM generate_series(1, 10000) n;
INSERT INTO adminapi.audit (at, address, method, path, status, omitted)
    SELECT now(), '192.0.2.1', 'POST', '/v2/dbInstances', 202, 0 FROM generate_series(1, 10000) n
"""


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ({"limit": LONGEST + 1}, "'Limit' must be less than or equal to 10000."),
        ({"limit": 2**31 - 1}, "'Limit' must be less than or equal to 10000."),
        ({"offset": FARTHEST + 1}, "'Offset' must be less than or equal to 1000000."),
    ],
)
async def test_list_is_refused_when_too_much_of_it_is_asked_for(
    idle_api: httpx.AsyncClient, path: str, query: dict[str, int], fault: str
) -> None:
    (name,) = query
    assert faults_of(await idle_api.get(path, params=query)) == {name.title(): [fault]}


@pytest.mark.parametrize("path", LISTS)
async def test_list_is_told_when_as_much_as_possible_is_asked_for(
    idle_api: httpx.AsyncClient, path: str
) -> None:
    assert (await idle_api.get(path, params={"limit": LONGEST, "offset": FARTHEST})).json() == []


@pytest.fixture
async def full(settings: Settings) -> AsyncIterator[Server]:
    """The API in a process of its own, with as many rows of each kind as one answer may have."""
    async with session(settings.admin_dsn.get_secret_value()) as connection:
        await connection.execute(_ROWS)
    async with server.serving(settings) as started:
        yield started


async def test_other_requests_are_answered_meanwhile_when_a_list_is_long(full: Server) -> None:
    token = f"Authorization: {bearer(full.settings, lifetime=3600)['Authorization']}"
    worst = {}
    for path in LISTS:
        delays = []
        for _ in range(3):
            with probing(full.port) as seconds:
                answer = await full.ask(f"GET {path}?limit={LONGEST}", token)
            delays.append(max(seconds))
        assert len(answer.json()) == LONGEST
        worst[path] = min(delays)  # the machine itself can hold up any one of them
    print({path: f"{1000 * delay:.0f} ms" for path, delay in worst.items()})  # noqa: T201 - the figures
    # 0.05 s is what is wanted; the rest is for a machine that does other things besides.
    assert max(worst.values()) < 0.15
