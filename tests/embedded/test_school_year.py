"""The commands of docs/school-year.md, run as they are written, with 3 districts."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ods.embedded.data_folder import DataFolder
from tests.embedded.conftest import ods_environment

PAGE = Path(__file__).parents[2] / "docs" / "school-year.md"
DISTRICTS = 3
BLOCK_SECONDS = 60
END = b"The block has ended.\n"

Ods = Callable[..., subprocess.CompletedProcess[str]]
Run = Callable[[str], Awaitable[str]]


def sections() -> dict[str, list[str]]:
    """The blocks of commands below each heading of the page; the first is the title."""
    text = PAGE.read_text()
    assert text.count("DISTRICTS=40\n") == 1
    text = text.replace("DISTRICTS=40\n", f"DISTRICTS={DISTRICTS}\n")
    found: dict[str, list[str]] = {}
    for section in re.split(r"^##? ", text, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        found[heading] = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return found


@asynccontextmanager
async def shell(stack: DataFolder, folder: Path) -> AsyncIterator[Run]:
    """Runs blocks in one session of bash, which ends with the first command that fails; tells the output."""
    running = stack.running_stack()
    assert running is not None
    environment = ods_environment(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        ODS_API_URL=running["api"]["url"],
        ODS_CLIENT_ID=running["client"]["id"],
        ODS_CLIENT_SECRET=running["client"]["secret"],
    )
    bash = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env=environment,
    )
    assert bash.stdin
    assert bash.stdout
    commands, output = bash.stdin, bash.stdout

    async def run(block: str) -> str:
        commands.write(f"{{\n{block}}} < /dev/null\necho {END.decode().strip()!r}\n".encode())
        try:
            printed = await asyncio.wait_for(output.readuntil(END), BLOCK_SECONDS)
        except asyncio.IncompleteReadError as ended:
            raise AssertionError(f"{block}\n{ended.partial.decode()}") from None
        return printed.removesuffix(END).decode()

    try:
        yield run
    finally:
        commands.close()
        await bash.wait()


@pytest.mark.long
async def test_school_year_begins_and_the_last_one_is_cleared_away_when_the_commands_of_the_page_are_run(
    ods: Ods, stack: DataFolder, tmp_path: Path
) -> None:
    page = sections()

    def rows(*command: object) -> Any:
        listed = ods(*command, "--json", "--data-dir", stack.path)
        assert listed.returncode == 0, listed.stderr
        return json.loads(listed.stdout)

    def of_year(year: int, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = rows("instance", "list", "--label", f"schoolYear={year}", *options)
        return found

    async with shell(stack, tmp_path) as run:

        async def run_section(heading: str) -> str:
            return "".join([await run(block) for block in page.pop(heading)])

        await run_section("The turn of the school year")
        await run_section("Last year")
        last = of_year(2026)
        assert [row["status"] for row in last] == ["Completed"] * DISTRICTS

        told = await run_section("One file for the new year")
        assert f"{DISTRICTS} instances would be made" in told
        assert of_year(2027) == []

        await run_section("Create them")
        made = sorted(of_year(2027), key=lambda row: row["name"])
        assert [(row["name"], row["status"], row["databaseTemplate"], row["copyOf"]) for row in made] == [
            ("District 1 2027", "Completed", "Sample", id_of(last, "District 1 2026")),
            ("District 2 2027", "Completed", "Sample", id_of(last, "District 2 2026")),
            ("District 3 2027", "Completed", "Minimal", None),
        ]
        assert made[2]["labels"] == {"district": "3", "schoolYear": "2027"}
        assert {it["contextKey"]: it["contextValue"] for it in made[2]["contexts"]} == {
            "districtId": "3",
            "schoolYear": "2027",
        }

        assert "Completed" in await run_section("Education organizations")

        await run_section("Snapshots for vendors")
        for row in last:
            (snapshot,) = rows("snapshot", "list", row["name"])
            assert (snapshot["status"], snapshot["current"]) == ("Completed", True)

        await run_section("Protect last year")
        assert [row["protected"] for row in of_year(2026)] == [True] * DISTRICTS

        await run_section("Back up last year")
        backups = {row["id"]: rows("backup", "list", "--instance", row["id"]) for row in last}
        assert [[backup["status"] for backup in found] for found in backups.values()] == [
            ["Completed"]
        ] * DISTRICTS

        unprotect, delete, undelete, purge, restore = page.pop("Clear away in spring")
        first = id_of(last, "District 1 2026")
        kept = {row["id"] for row in last} - {first}
        listed = await run(unprotect)
        assert "District 1 2026" in listed
        assert "District 2 2026" not in listed
        assert "District 1 2026" in await run(delete)
        assert {row["id"] for row in of_year(2026, "--status", "Completed")} == kept
        await run(undelete)
        assert {row["id"] for row in of_year(2026, "--status", "Completed")} == {*kept, first}
        await run(purge)
        assert {row["id"] for row in of_year(2026, "--status", "Completed")} == kept
        assert all(one["id"] != first for one in rows("trash"))
        await run(restore)
        (restored,) = of_year(2026, "--unprotected", "--status", "Completed")
        final, requested = rows("backup", "list", "--instance", first)
        assert (final["kind"], requested["id"]) == ("final", backups[first][0]["id"])
        assert (restored["name"], restored["backupId"]) == ("District 1 2026", final["id"])
    assert page == {}, "no command of the page is left out"


def id_of(found: list[dict[str, Any]], name: str) -> int:
    (number,) = [row["id"] for row in found if row["name"] == name]
    return int(number)
