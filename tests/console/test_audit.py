"""*Audit*: what was changed and refused, filtered, and as a file for a spreadsheet."""

import csv

import asyncpg
import pytest
from playwright.async_api import Page, expect

from tests.console.people import CLIENT, READER, Person

ENTRY = (
    "INSERT INTO adminapi.audit"
    " (at, client, address, method, path, instanceid, jobid, status, title, omitted)"
    " SELECT timezone('utc', now()), $1, '10.0.0.' || n % 250, 'POST', $2, $3, null, $4, $5, 0"
    " FROM generate_series(1, $6) AS n"
)


async def record(
    registry: asyncpg.Connection,
    client: str | None,
    path: str,
    instance: int | None = None,
    status: int = 202,
    title: str | None = None,
    number: int = 1,
) -> None:
    await registry.execute(ENTRY, client, path, instance, status, title, number)


@pytest.fixture
async def page(person: Person, registry: asyncpg.Connection) -> Page:
    """The page of a person who is signed in, with a trail of three entries."""
    await registry.execute("DELETE FROM adminapi.audit")
    await record(registry, CLIENT, "/v2/dbInstances", 7)
    await record(registry, READER, "/v2/dbInstances/7", 7, 403, "The token's scope does not allow this")
    await record(registry, None, "/connect/token", None, 401, "=cmd|' /C calc'!A0")
    return person.page


async def test_the_trail_is_shown_with_reasons_when_requests_were_refused(page: Page) -> None:
    await page.goto("/console")
    await page.get_by_role("link", name="Audit").click()
    await Person(page).sees_heading("Audit")
    rows = page.get_by_role("row")
    await expect(rows).to_have_count(4)
    await expect(rows.nth(1)).to_contain_text("refused 401")
    await expect(rows.nth(2)).to_contain_text("The token's scope does not allow this")
    await expect(rows.nth(3)).to_contain_text("done 202")


async def test_only_what_fits_is_shown_when_the_trail_is_filtered(page: Page) -> None:
    await page.goto("/console/audit")
    rows = page.get_by_role("row")
    await page.get_by_label("Instance id").fill("7")
    await page.get_by_role("button", name="Filter").click()
    await expect(rows).to_have_count(3)
    await page.get_by_label("Only refusals").check()
    await page.get_by_role("button", name="Filter").click()
    await expect(rows).to_have_count(2)
    await page.get_by_label("Client", exact=True).fill(CLIENT)
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_text("No request fits this filter.")).to_be_visible()
    await page.get_by_role("main").get_by_role("link", name="Show all").last.click()
    await expect(rows).to_have_count(4)


@pytest.mark.parametrize("query", ["instance=" + "0" * 5000 + "7", "instance=x", "client=%00"])
async def test_nothing_fits_when_the_filter_names_what_cannot_be(page: Page, query: str) -> None:
    answer = await page.goto(f"/console/audit?{query}")
    assert answer is not None
    assert answer.status == 200
    await expect(page.get_by_text("No request fits this filter.")).to_be_visible()


async def test_older_entries_come_page_by_page_when_there_are_many(
    page: Page, registry: asyncpg.Connection
) -> None:
    await record(registry, CLIENT, "/v2/sweeps", number=60)
    await page.goto("/console/audit")
    await expect(page.get_by_role("row")).to_have_count(51)
    await page.get_by_role("link", name="Older").click()
    await expect(page.get_by_role("row")).to_have_count(14)
    await page.get_by_role("link", name="Newest").click()
    await expect(page.get_by_role("row")).to_have_count(51)


async def test_the_file_has_all_that_fits_and_no_formula_when_it_is_downloaded(
    page: Page, registry: asyncpg.Connection
) -> None:
    await record(registry, "@SUM(1)", '/v2/"quoted",\n=1', number=1200)
    await page.goto("/console/audit")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download as CSV").click()
    file = await download.value
    assert file.suggested_filename == "audit.csv"
    path = await file.path()
    with path.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == 1203
    assert rows[0]["client"] == "'@SUM(1)"
    assert rows[0]["path"] == '/v2/"quoted",\n=1'
    assert rows[-3]["title"] == "'=cmd|' /C calc'!A0"
    answer = await page.request.get(f"/console/audit.csv?client={READER}&refused=true")
    assert answer.headers["cache-control"] == "no-store"
    assert len((await answer.text()).splitlines()) == 2
