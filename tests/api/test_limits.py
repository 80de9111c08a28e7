"""How often an address may register clients and ask for tokens."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from api.http.addresses import subscriber
from api.security.rate_limit import RateLimiter
from api.security.tokens import FULL_ACCESS
from ods.embedded.polling import wait_until
from ods.embedded.postgres import EmbeddedPostgres
from ods.settings.settings import Settings
from tests.api import server
from tests.api.service import NOBODY, client_of, running
from tests.secret_search import as_secret
from tests.servers import make_settings, make_tenant_settings, session

SECRET = as_secret("A-secret+with%41ll 4 kinds: abcdefgh")
REGISTRATIONS = 30
TOKENS = 60
REGAINED = 10
"""Requests after the burst, more than the pace admits meanwhile."""
GRANT = {"grant_type": "client_credentials", "client_id": "unknown", "client_secret": "x", "scope": "another"}

FAILURES_ARE_LOCKED = """
SELECT FROM adminapi.attemptcounts WHERE digest <> sha256('tokens 127.0.0.1') FOR UPDATE
"""


@pytest.fixture
def settings(postgres: EmbeddedPostgres, registry_dsn: str) -> Settings:
    """Settings as they are by default."""
    return make_settings(postgres, registry_dsn)


@pytest.fixture
async def neighbour(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client at another address."""
    async with client_of(app, address="192.0.2.2") as client:
        yield client


async def statuses(client: httpx.AsyncClient, path: str, times: int, **options: object) -> list[int]:
    return [(await client.post(path, data=GRANT, **options)).status_code for _ in range(times)]  # type: ignore[arg-type] # httpx's own


def assert_too_many(answer: httpx.Response) -> None:
    assert answer.status_code == 429
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["title"] == "Too many requests from this address"
    assert answer.headers["Retry-After"] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "burst"), [("/connect/register", REGISTRATIONS), ("/connect/token", TOKENS)]
)
async def test_address_is_refused_when_it_asks_too_often(
    stranger: httpx.AsyncClient, neighbour: httpx.AsyncClient, path: str, burst: int
) -> None:
    assert await statuses(stranger, path, burst) == [400] * burst
    # What is not read cannot be expensive, either. On a slow machine, time has admitted a few more by now.
    large = {"content": b"x" * 100_000, "headers": {"Content-Type": "text/plain"}}
    answers = [await stranger.post(path, **large) for _ in range(REGAINED)]  # type: ignore[arg-type] # httpx's own
    assert_too_many(answers[-1])
    assert (await stranger.get("/")).status_code == 200
    assert (await stranger.get("/health")).status_code == 200
    assert await statuses(neighbour, path, 1) == [400]


async def test_other_limit_is_untouched_when_one_is_reached(stranger: httpx.AsyncClient) -> None:
    await statuses(stranger, "/connect/register", REGISTRATIONS + 1)
    assert await statuses(stranger, "/connect/token", 1) == [400]


async def test_no_client_is_refused_when_limiting_is_switched_off(idle_settings: Settings) -> None:
    assert not idle_settings.rate_limiting
    async with running(idle_settings, NOBODY) as app, client_of(app) as client:
        assert set(await statuses(client, "/connect/token", 2 * TOKENS)) == {400}


async def test_all_processes_count_together_when_an_address_asks_several(
    settings: Settings, app: FastAPI
) -> None:
    async with (
        running(settings, NOBODY) as other,
        client_of(app, "2001:db8::1") as here,
        client_of(other, "2001:db8::2") as there,
    ):
        half = REGISTRATIONS // 2
        assert set(await statuses(here, "/connect/register", half)) == {400}
        assert set(await statuses(there, "/connect/register", half)) == {400}
        assert 429 in await statuses(there, "/connect/register", REGAINED)
        assert 429 in await statuses(here, "/connect/register", REGAINED)
        wrong = GRANT | {"scope": FULL_ACCESS}
        failed = [(await there.post("/connect/token", data=wrong)).status_code for _ in range(5)]
        assert failed == [401] * 5
        refused = await here.post("/connect/token", data=wrong)
        assert (refused.status_code, 1 <= int(refused.headers["Retry-After"]) <= 10) == (429, True)


async def test_clients_behind_a_proxy_have_limits_of_their_own_when_the_proxy_is_trusted(
    settings: Settings,
) -> None:
    async with (
        server.serving(settings, "--forwarded-allow-ips", "127.0.0.1") as serving,
        httpx.AsyncClient(base_url=serving.url) as client,
    ):
        one, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        assert (await statuses(client, "/connect/register", REGISTRATIONS + 1, headers=one))[-1] == 429
        assert await statuses(client, "/connect/register", 1, headers=other) == [400]


async def test_limit_is_not_evaded_when_a_client_forges_the_address(settings: Settings) -> None:
    async with (
        server.serving(settings, "--forwarded-allow-ips", "10.0.0.1") as serving,
        httpx.AsyncClient(base_url=serving.url) as client,
    ):
        forged = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(REGISTRATIONS + 1)]
        told = [await statuses(client, "/connect/register", 1, headers=headers) for headers in forged]
        assert told[-1] == [429]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_key_is_admitted_again_when_it_has_waited_as_told() -> None:
    clock = Clock()
    limiter = RateLimiter(burst=3, interval=2, clock=clock)
    assert [limiter.wait("a") for _ in range(5)] == [0, 0, 0, 2, 2]
    clock.now += 1.5
    assert limiter.wait("a") == 0.5
    assert limiter.wait("b") == 0
    clock.now += 0.5
    assert [limiter.wait("a"), limiter.wait("a")] == [0, 2]
    clock.now += 1000
    assert [limiter.wait("a") for _ in range(4)] == [0, 0, 0, 2]


@given(
    burst=st.integers(1, 20),
    interval=st.integers(1, 20),
    pauses=st.lists(st.integers(0, 40), max_size=100),
)
def test_no_more_are_admitted_than_burst_and_time_allow(burst: int, interval: int, pauses: list[int]) -> None:
    clock = Clock()
    limiter = RateLimiter(burst, interval, clock)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        admitted += limiter.wait("a") == 0
    assert admitted <= burst + sum(pauses) // interval
    assert admitted >= min(burst, len(pauses))


def test_keys_stay_refused_and_memory_is_bounded_when_there_are_many_others() -> None:
    clock = Clock()
    limiter = RateLimiter(burst=2, interval=1000, clock=clock)
    assert [limiter.wait("busy") for _ in range(3)] == [0, 0, 1000]
    told = [limiter.wait(str(number)) for number in range(20_000)]
    assert limiter.wait("busy") == 1000
    assert len(limiter) <= 10_001
    assert told[:9_000] == [0] * 9_000
    assert told[-1] == 1000  # those that are too many are counted together
    clock.now += 2000
    assert limiter.wait("yet another") == 0
    assert len(limiter) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_network_counts_when_the_address_is_of_version_6(address: str, expected: str) -> None:
    assert subscriber(address) == expected


async def test_log_ins_of_other_tenants_do_not_wait_when_a_registry_is_slow(
    settings: Settings, postgres: EmbeddedPostgres, registry_dsn: str, second_registry_dsn: str
) -> None:
    several = make_tenant_settings({"slow": settings, "quick": make_settings(postgres, second_registry_dsn)})
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    form = GRANT | {"scope": FULL_ACCESS}
    async with running(several, NOBODY) as app, client_of(app) as client, session(registry_dsn) as registry:

        async def log_in(tenant: str) -> int:
            return (await client.post("/connect/token", data=form, headers={"tenant": tenant})).status_code

        async def are_stuck() -> bool:
            return bool(await registry.fetchval(waiting) >= 2)

        assert await log_in("slow") == 401
        async with asyncio.TaskGroup() as group, registry.transaction():
            await registry.execute(FAILURES_ARE_LOCKED)
            stuck = [group.create_task(log_in("slow")) for _ in range(2)]
            await wait_until(are_stuck, 10)
            async with asyncio.timeout(5):
                assert await log_in("quick") == 401
        assert [one.result() for one in stuck] == [401, 401]
