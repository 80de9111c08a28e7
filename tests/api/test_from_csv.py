"""`ods instance create --from-csv`, against an API in a process of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from typer.testing import CliRunner, Result

from ods.cli import instance
from ods.cli.client import AdminApi, Json
from ods.embedded.errors import CommandError
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests.api import server
from tests.api.server import Server
from tests.postgres.instance_states import bring_to
from tests.secret_search import as_secret
from tests.servers import session

SECRET = as_secret("A-secret-of-32-characters-or-more-1!")


@pytest.fixture
async def serving(settings: Settings) -> AsyncIterator[Server]:
    async with server.serving(settings.model_copy(update={"registration": True})) as started:
        async with httpx.AsyncClient(base_url=started.url) as client:
            form = {"ClientId": "csv", "ClientSecret": SECRET, "DisplayName": "CSV"}
            assert (await client.post("/connect/register", data=form)).is_success
        yield started


@pytest.fixture
async def rows(registry_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with session(registry_dsn) as connection:
        yield connection


class _CutApi(AdminApi):
    """A client whose process dies with a request of its own."""

    left = 1000

    def create_all(self, entries: list[Json], key: str) -> list[Json]:  # type: ignore[override]
        if self.left == 0:
            raise KeyboardInterrupt
        type(self).left -= 1
        return super().create_all(entries, key)


@pytest.fixture
def api(serving: Server, monkeypatch: pytest.MonkeyPatch) -> type[_CutApi]:
    """The client that commands have; a test may cut it."""
    monkeypatch.setattr(_CutApi, "left", 1000)

    @contextmanager
    def connect(*_: object) -> Iterator[AdminApi]:
        with _CutApi(serving.url, "csv", SECRET) as client:
            yield client

    monkeypatch.setattr(instance, "connect", connect)
    return _CutApi


async def ran(path: Path, *options: str) -> Result:
    arguments = ["create", "--from-csv", str(path), *options]
    return await asyncio.to_thread(CliRunner().invoke, instance.app, arguments)


def sheet(folder: Path, *lines: str) -> Path:
    path = folder / "instances.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


async def _names(rows: asyncpg.Connection) -> list[str]:
    return [
        row["name"] for row in await rows.fetch("SELECT name FROM adminapi.managed_instances ORDER BY id")
    ]


@pytest.mark.usefixtures("api")
async def test_instances_are_made_as_the_lines_say(rows: asyncpg.Connection, tmp_path: Path) -> None:
    path = sheet(
        tmp_path,
        "name,labels,contexts,description,protected,template",
        '"Grand Bend",district=255901;pilot=yes,year=2027,"Two,',
        'lines",true,Sample',
        "",
        "Ridge,,,,,",
    )
    answer = await ran(path)

    assert answer.exit_code == 0, answer.output
    made = await rows.fetch("SELECT * FROM adminapi.managed_instances ORDER BY id")
    assert [(row["name"], row["databasetemplate"]) for row in made] == [
        ("Grand Bend", "Sample"),
        ("Ridge", "Minimal"),
    ]
    assert json.loads(made[0]["labels"]) == {"district": "255901", "pilot": "yes"}
    assert json.loads(made[0]["owncontexts"]) == {"year": "2027"}
    assert (made[0]["description"], made[0]["isprotected"]) == ("Two,\nlines", True)
    table = [line.split() for line in answer.output.splitlines()]
    assert ["LINE", "ID", "NAME", "JOB"] in table
    assert ["2", str(made[0]["id"]), "Grand", "Bend", f"CreateInstanceJob-{made[0]['id']}-1"] in table
    assert ["5", str(made[1]["id"]), "Ridge", f"CreateInstanceJob-{made[1]['id']}-1"] in table


@pytest.mark.usefixtures("api")
async def test_copies_are_made_of_instances_that_lines_name_or_number(
    rows: asyncpg.Connection, instances: InstanceStore, job_store: JobStore, tmp_path: Path
) -> None:
    sources = [
        await bring_to(instances, job_store, "Completed", name) for name in ("Ridge 2026", "Bend 2026")
    ]
    lines = [
        "Ridge 2027,,Ridge 2026,",
        f"Bend 2027,,{sources[1].instance_id},closed",
        "New 2027,Sample,,",
        "Else,,,",
    ]
    path = sheet(tmp_path, "name,template,copyOf,mode", *lines)
    dry = await ran(path, "--dry-run", "--json")
    assert [row["copyOf"] for row in json.loads(dry.output)] == [
        *(source.instance_id for source in sources),
        None,
        None,
    ]
    answer = await ran(path)

    assert answer.exit_code == 0, answer.output
    made = await rows.fetch("SELECT * FROM adminapi.managed_instances ORDER BY id OFFSET 2")
    assert [(row["name"], *_source(row), row["databasetemplate"]) for row in made] == [
        ("Ridge 2027", sources[0].instance_id, "online", "Minimal"),
        ("Bend 2027", sources[1].instance_id, "closed", "Minimal"),
        ("New 2027", None, None, "Sample"),
        ("Else", None, None, "Minimal"),
    ]


@pytest.mark.usefixtures("api")
async def test_origins_that_are_not_there_or_too_many_are_told_with_their_lines(
    rows: asyncpg.Connection, tmp_path: Path
) -> None:
    lines = [
        "a,,Nowhere,,",
        "b,,,,7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f12",
        "c,Minimal,99,,",
        "d,,,closed,",
        "e,,98,,",
    ]
    answer = await ran(sheet(tmp_path, "name,template,copyOf,mode,backupId", *lines))

    assert str(answer.exception).splitlines()[1:] == [
        "line 2: In the column copyOf: There is no instance with the name 'Nowhere'.",
        "line 3: There is no backup 7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f12.",
        "line 4: 'Database Template' and 'Copy Of' exclude each other: an instance has one origin.",
        "line 5: 'Mode' says how an instance is copied: it needs 'Copy Of'.",
        "line 6: There is no instance 98.",
    ]
    assert await _names(rows) == []


@pytest.mark.usefixtures("api")
async def test_everything_that_is_wrong_is_told_with_its_line_and_nothing_made(
    rows: asyncpg.Connection, tmp_path: Path
) -> None:
    assert (await ran(sheet(tmp_path, "name", "Taken"))).exit_code == 0
    lines = [
        "Fine,,",
        "a!,,",
        "Taken,,",
        "b,oops,",
        "c",
        "d,,perhaps",
        "e,a=1;b=;a=2,",
        *(f"n {it},," for it in range(20)),
    ]
    answer = await ran(sheet(tmp_path, "name,labels,protected", *lines, "Fine,,", "Template,,"))

    assert isinstance(answer.exception, CommandError)
    told = str(answer.exception).splitlines()[1:]
    assert [line.partition(":")[0] for line in told] == [
        "line 3",
        "line 4",
        "line 5",
        "line 6",
        "line 7",
        "line 8",
        "line 29",
    ]
    assert told[0] == "line 3: 'Name' must contain only letters, numbers, spaces and underscores."
    assert told[1] == "line 4: An instance named 'Taken' already exists. Choose another name."
    assert told[5] == "line 8: In the column labels: The key 'a' is there twice. Give it once."
    assert told[6] == "line 29: The name 'Fine' is that of line 2 as well."
    assert await _names(rows) == ["Taken"]


@pytest.mark.usefixtures("api")
async def test_nothing_is_made_when_the_run_is_dry(rows: asyncpg.Connection, tmp_path: Path) -> None:
    answer = await ran(sheet(tmp_path, "name", *(f"n {it}" for it in range(45))), "--dry-run")

    assert answer.exit_code == 0, answer.output
    assert "EdFi_Ods_n_44_Minimal" in answer.output
    assert "45 instances would be made; 0 were requested by an earlier run." in answer.output
    assert await _names(rows) == []


async def test_nothing_is_made_twice_when_a_run_is_repeated_after_a_cut(
    api: type[_CutApi], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    names = [f"n {it}" for it in range(45)]
    path = sheet(tmp_path, "name", *names)
    api.left = 2
    cut = await ran(path)
    assert cut.exit_code != 0
    assert "n 39" in cut.output  # what was requested is shown
    assert await _names(rows) == names[:40]
    api.left = 1000
    dry = await ran(path, "--dry-run")
    assert "5 instances would be made; 40 were requested by an earlier run." in dry.output
    assert (await ran(path)).exit_code == 0
    assert (await ran(path)).exit_code == 0

    assert await _names(rows) == names


@pytest.mark.usefixtures("api")
async def test_run_is_refused_when_what_an_earlier_one_has_made_was_deleted(
    rows: asyncpg.Connection, tmp_path: Path
) -> None:
    assert (await ran(sheet(tmp_path, "name", "a", "b"))).exit_code == 0
    await rows.execute("UPDATE adminapi.managed_instances SET state = 'Deleted' WHERE name = 'b'")
    again = await ran(sheet(tmp_path, "name", "a", "b"))
    assert isinstance(again.exception, CommandError)
    assert "line 3: An earlier run of this file has requested 'b'" in str(again.exception)
    assert "line 2" not in str(again.exception)
    assert (await ran(sheet(tmp_path, "name", "b"))).exit_code == 0
    assert await _names(rows) == ["a", "b", "b"]


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["nome", "a"], "line 1: It must name the columns"),
        (["name,name", "a,b"], "line 1: It must name the columns"),
        (["name"], "The file describes no instance."),
        (["name", 'a"b"', '"c'], "It is not CSV"),
    ],
    ids=["unknown", "twice", "none", "quote"],
)
async def test_file_is_refused_when_it_cannot_be_read(tmp_path: Path, lines: list[str], reason: str) -> None:
    answer = await ran(sheet(tmp_path, *lines))

    assert isinstance(answer.exception, CommandError)
    assert reason in str(answer.exception)


@pytest.mark.parametrize(
    "arguments", [["create"], ["create", "a", "--from-csv", "f"], ["create", "a", "--dry-run"]], ids=str
)
def test_command_is_refused_when_it_does_not_say_what_to_make(arguments: list[str]) -> None:
    assert isinstance(CliRunner().invoke(instance.app, arguments).exception, CommandError)


def _source(row: asyncpg.Record) -> tuple[int | None, str | None]:
    """What the instance in the row is a copy of, and how it was copied."""
    origin = json.loads(row["arguments"])["origin"]
    return origin.get("instance_id"), origin.get("mode")
