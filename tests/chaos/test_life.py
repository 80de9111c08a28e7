"""The checker finds what is wrong with the trash, with rows of data and attributes, and nothing else."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from ods.registry.instances.naming import trash_name
from tests.chaos.checker import check, judge
from tests.chaos.conftest import DROPS, KEEPS, Garden
from tests.chaos.evidence import Contents, History, Rows, Target, foreign_databases, read_rows
from tests.chaos.violations import Attributes, Kind, Request, Storm

Plant = Callable[[Garden], Awaitable[object]]

_TIMEOUT = 0.2


@pytest.fixture
async def storm(garden: Garden, target: Target) -> Storm:
    """Nothing was requested, and the garden's own instance is in perfect order."""
    before = Storm(foreign=await foreign_databases(target))
    await garden.plant_completed()
    return before


async def _mark(garden: Garden) -> str:
    mark: str = await garden.registry.fetchval(
        "SELECT mark::text FROM adminapi.dbinstances WHERE id = $1", garden.number
    )
    return mark


async def _set(garden: Garden, values: str) -> None:
    statement = f"UPDATE adminapi.dbinstances SET {values} WHERE id = $1"  # noqa: S608 - of this module
    await garden.registry.execute(statement, garden.number)


async def _trash_name(garden: Garden) -> str:
    row = "SELECT databaseid::text FROM adminapi.dbinstances WHERE id = $1"
    return trash_name(await garden.registry.fetchval(row, garden.number))


async def _put_into_trash(garden: Garden) -> None:
    """By the registry alone."""
    await _set(garden, f"status = 'Deleted', operation = 'Delete', arguments = '{KEEPS}', jobnumber = 2")
    await garden.registry.execute(
        "UPDATE adminapi.databases SET reason = 'deleted', trashedat = now(),"
        " purgeafter = now() + interval '7 days' WHERE instanceid = $1",
        garden.number,
    )


async def _end_routing(garden: Garden) -> None:
    await garden.registry.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", garden.number)


async def _trash(garden: Garden, *, comment: bool = True, close: bool = True) -> str:
    """Put the garden's own instance into the trash; returns the name of its database there."""
    mark, name = await _mark(garden), await _trash_name(garden)
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    await _end_routing(garden)
    await _put_into_trash(garden)
    if comment:
        said = {"mark": mark, "trashedAt": "now", "name": garden.database}
        await garden.server.execute(f"COMMENT ON DATABASE \"{garden.database}\" IS '{json.dumps(said)}'")
    await garden.server.execute(f'ALTER DATABASE "{garden.database}" ALLOW_CONNECTIONS {not close}')
    await garden.server.execute(f'ALTER DATABASE "{garden.database}" RENAME TO "{name}"')
    garden.databases.append(name)
    return name


async def _fail_undelete(garden: Garden) -> None:
    """It could not come back, and is in the trash again."""
    await _trash(garden)
    await garden.plant_job("Undelete", 3, "Error", garden.number)
    await _set(garden, "operation = 'Undelete', arguments = '{}', jobnumber = 3, errormessage = 'Why not.'")


async def _undelete(garden: Garden) -> None:
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    await garden.plant_job("Undelete", 3, "Completed", garden.number)
    await _set(garden, "operation = 'Undelete', arguments = '{}', jobnumber = 3")


async def _purge(garden: Garden) -> None:
    trashed = await _trash(garden)
    await garden.plant_job("Purge", 3, "Completed", garden.number)
    await _set(
        garden,
        "operation = 'Purge', arguments = '{\"backup_first\": false}', jobnumber = 3",
    )
    await garden.registry.execute(
        "UPDATE adminapi.databases SET reason = NULL, trashedat = NULL WHERE instanceid = $1", garden.number
    )
    await garden.server.execute(f'DROP DATABASE "{trashed}"')


async def _delete(garden: Garden) -> None:
    """The database is dropped at once."""
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    await _end_routing(garden)
    await _set(garden, f"status = 'Deleted', operation = 'Delete', arguments = '{DROPS}', jobnumber = 2")
    await garden.server.execute(f'DROP DATABASE "{garden.database}"')


async def _detach(garden: Garden) -> None:
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    await _end_routing(garden)
    await _set(garden, "status = 'Deleted', operation = 'Detach', arguments = '{}', jobnumber = 2")
    await garden.server.execute(f'COMMENT ON DATABASE "{garden.database}" IS NULL')


async def _drop_from_trash(garden: Garden) -> None:
    await garden.server.execute(f'DROP DATABASE "{await _trash(garden)}"')


async def _route_to_trash(garden: Garden) -> None:
    trashed = await _trash(garden)
    await garden.registry.execute(
        "INSERT INTO dbo.odsinstances VALUES ($1, $2, 'Minimal', $3)",
        *(garden.number, garden.name, garden.connection_string(trashed)),
    )


LIVES: dict[str, tuple[Plant, set[Kind]]] = {
    "in the trash": (_trash, set()),
    "undelete failed": (_fail_undelete, set()),
    "undeleted": (_undelete, set()),
    "detached": (_detach, set()),
    "purged": (_purge, {Kind.PURGED_EARLY}),
    "dropped by its delete": (_delete, {Kind.PURGED_EARLY}),
    "dropped from the trash": (_drop_from_trash, {Kind.NO_DATABASE}),
    "open in the trash": (lambda garden: _trash(garden, close=False), {Kind.OPEN_TRASH}),
    "in the trash without a comment that says so": (
        lambda garden: _trash(garden, comment=False),
        {Kind.OPEN_TRASH},
    ),
    "routed to the trash": (_route_to_trash, {Kind.SURPLUS_ODS_INSTANCE}),
}


def _kinds(violations: object) -> set[Kind]:
    assert isinstance(violations, list)
    return {violation.kind for violation in violations}


@pytest.mark.parametrize("case", LIVES)
async def test_instance_is_judged_when_it_was_deleted_or_undeleted(
    garden: Garden, target: Target, storm: Storm, case: str
) -> None:
    plant, kinds = LIVES[case]
    await plant(garden)
    assert _kinds(await check(target, storm, _TIMEOUT)) == kinds


@pytest.mark.parametrize("plant", [_purge, _delete])
async def test_database_may_be_gone_when_that_was_requested_or_due(
    garden: Garden, target: Target, storm: Storm, plant: Plant
) -> None:
    due = replace(storm, history=History(due={await _mark(garden)}))
    await plant(garden)
    assert await check(target, due, _TIMEOUT) == []
    numbers = range(1, 1 + await garden.registry.fetchval("SELECT max(jobnumber) FROM adminapi.dbinstances"))
    create, *deletes = (await garden.registry.fetch("SELECT jobid FROM adminapi.jobstatuses ORDER BY id"))[
        : len(numbers)
    ]
    asked = [Request("Trash", garden.name, row["jobid"]) for row in deletes]
    requests = [Request("Create", garden.name, create["jobid"]), *asked]
    assert _kinds(await check(target, replace(storm, requests=requests), _TIMEOUT)) == {Kind.PURGED_EARLY}
    requests[-1] = replace(requests[-1], operation="Drop")
    assert await check(target, replace(storm, requests=requests), _TIMEOUT) == []


async def test_purge_is_unrequested_when_it_was_not_due(garden: Garden, target: Target, storm: Storm) -> None:
    mark = await _mark(garden)
    await _purge(garden)
    delete = Request("Trash", garden.name, f"DeleteInstanceJob-{garden.number}-2")
    asked = replace(storm, requests=[garden.request, delete])
    assert _kinds(await check(target, asked, _TIMEOUT)) == {Kind.UNREQUESTED, Kind.PURGED_EARLY}
    assert await check(target, replace(asked, history=History(due={mark})), _TIMEOUT) == []
    perhaps = [*asked.requests, Request("Drop", garden.name)]
    assert await check(target, replace(asked, requests=perhaps), _TIMEOUT) == []


async def test_lost_answer_of_a_delete_to_the_trash_explains_no_purge(
    garden: Garden, target: Target, storm: Storm
) -> None:
    await _purge(garden)
    delete = Request("Trash", garden.name, f"DeleteInstanceJob-{garden.number}-2")
    asked = replace(storm, requests=[garden.request, delete, Request("Trash", garden.name)])
    assert Kind.UNREQUESTED in _kinds(await check(target, asked, _TIMEOUT))


@pytest.mark.parametrize("plant", [_undelete, _trash, _detach])
async def test_rows_are_lost_when_one_of_them_is_in_no_database_of_the_instance(
    garden: Garden, target: Target, storm: Storm, plant: Plant
) -> None:
    mark = await _mark(garden)
    await garden.plant_rows(1, 2, mark=mark)
    await plant(garden)
    written = replace(storm, history=History(rows={mark: {1, 2}}))
    assert await check(target, written, _TIMEOUT) == []
    written.history.rows[mark].add(3)
    (found,) = await check(target, written, _TIMEOUT)
    assert (found.kind, "1 of 3 rows, such as 3" in found.words) == (Kind.LOST_ROWS, True)


async def test_trash_stays_closed_when_its_rows_were_read(
    garden: Garden, target: Target, storm: Storm
) -> None:
    await garden.plant_rows(1, mark=await _mark(garden))
    trashed = await _trash(garden)
    await check(target, storm, _TIMEOUT)
    allowed = "SELECT datallowconn FROM pg_database WHERE datname = $1"
    assert await garden.server.fetchval(allowed, trashed) is False


async def test_rows_are_lost_when_the_database_is_gone_too_early(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark = await _mark(garden)
    written = replace(storm, history=History(rows={mark: {1}}))
    await _drop_from_trash(garden)
    assert _kinds(await check(target, written, _TIMEOUT)) == {Kind.NO_DATABASE, Kind.LOST_ROWS}
    may_go = replace(storm, history=History(rows={mark: {1}}, due={mark}))
    assert _kinds(await check(target, may_go, _TIMEOUT)) == {Kind.NO_DATABASE}
    forgotten = replace(storm, history=History(rows={mark: {1}}, deleted={mark}))
    assert _kinds(await check(target, forgotten, _TIMEOUT)) == {Kind.NO_DATABASE}


async def test_rows_may_be_gone_when_what_an_instance_had_before_a_reset_outlives_it(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark = await _mark(garden)
    await garden.plant_rows(1, mark=mark)
    await _trash(garden)
    dropped = replace(storm, history=History(rows={mark: {1, 2}}, deleted={mark}))
    assert _kinds(await check(target, dropped, _TIMEOUT)) == {Kind.LOST_ROWS}
    dropped.history.see_reset(mark, Contents())
    assert await check(target, dropped, _TIMEOUT) == []


async def test_database_is_gone_when_it_was_published_and_its_delete_was_one_to_the_trash(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark = await _mark(garden)
    oid = await garden.server.fetchval("SELECT oid FROM pg_database WHERE datname = $1", garden.database)
    await _drop_from_trash(garden)
    seen = replace(storm, history=History(published={(mark, oid): garden.database}))
    assert _kinds(await check(target, seen, _TIMEOUT)) == {Kind.NO_DATABASE, Kind.PUBLISHED_GONE}


async def test_instance_is_crossed_when_its_database_has_the_rows_of_another(
    garden: Garden, target: Target, storm: Storm
) -> None:
    await garden.plant_rows(1, mark="00000000-0000-0000-0000-000000000001")
    assert _kinds(await check(target, storm, _TIMEOUT)) == {Kind.CROSSED}


async def test_rows_are_there_when_a_reset_has_put_their_database_into_the_trash(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark = await _mark(garden)
    await garden.plant_rows(1, mark=mark)
    version = await _trash_name(garden)
    said = {"mark": mark, "trashedAt": "now", "name": garden.database}
    await garden.server.execute(f'ALTER DATABASE "{garden.database}" RENAME TO "{version}"')
    await garden.server.execute(f"COMMENT ON DATABASE \"{version}\" IS '{json.dumps(said)}'")
    await garden.server.execute(f'ALTER DATABASE "{version}" ALLOW_CONNECTIONS false')
    garden.databases.append(version)
    await garden.plant_database(garden.database, mark)
    await garden.plant_rows(2, mark=mark)
    await garden.plant_job("Reset", 2, "Completed", garden.number)
    await _set(garden, "operation = 'Reset', arguments = '{\"origin\": {}}', jobnumber = 2")
    await garden.registry.execute(
        "UPDATE adminapi.databases SET reason = 'replaced', trashedat = now(), purgeafter = now();"
        " UPDATE adminapi.dbinstances SET databaseid = gen_random_uuid();"
        " UPDATE adminapi.databases SET publishedat = now() WHERE publishedat IS NULL"
    )
    written = replace(storm, history=History(rows={mark: {1, 2}}))
    assert await check(target, written, _TIMEOUT) == []
    await garden.registry.execute("DELETE FROM adminapi.databases WHERE reason = 'replaced'")
    assert _kinds(await check(target, written, _TIMEOUT)) == {Kind.SURPLUS_DATABASE}
    await garden.server.execute(f'DROP DATABASE "{version}"')
    assert _kinds(await check(target, written, _TIMEOUT)) == {Kind.LOST_ROWS}


async def test_rows_come_from_another_instance_when_its_backup_was_restored(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark, source = await _mark(garden), "00000000-0000-0000-0000-000000000001"
    await garden.plant_rows(1, mark=source)
    await garden.plant_rows(2, mark=mark)
    origins = {mark: Contents(frozenset({1}), frozenset({source}))}
    restored = replace(storm, history=History(origins=origins, rows={mark: {2}}))
    assert await check(target, restored, _TIMEOUT) == []
    origins[mark] = Contents(frozenset({1, 3}), frozenset({source}))
    assert _kinds(await check(target, restored, _TIMEOUT)) == {Kind.LOST_ROWS}


async def test_rows_come_from_another_instance_when_the_instance_may_have_been_reset_to_that(
    garden: Garden, target: Target, storm: Storm
) -> None:
    mark, source = await _mark(garden), "00000000-0000-0000-0000-000000000001"
    await garden.plant_rows(1, mark=source)
    await garden.plant_rows(2, mark=mark)
    history = History(rows={mark: {2}})
    after = replace(storm, history=history)
    assert _kinds(await check(target, after, _TIMEOUT)) == {Kind.CROSSED}
    history.see_reset(mark, Contents(frozenset({1}), frozenset({source})))
    assert await check(target, after, _TIMEOUT) == []
    history.rows[mark].add(3)
    assert _kinds(await check(target, after, _TIMEOUT)) == {Kind.LOST_ROWS}
    for _ in range(3):  # the database that had the row may be the oldest, which is dropped then
        history.see_reset(mark, Contents())
    assert await check(target, after, _TIMEOUT) == []


def test_copy_of_an_instance_need_not_have_its_rows_when_that_may_have_been_reset() -> None:
    history = History(rows={"mark": {1}})
    assert history.holds("mark") == Contents(frozenset({1}), frozenset({"mark"}))
    history.see_reset("mark", Contents(frozenset({2}), frozenset({"source"})))
    assert history.holds("mark") == Contents(frozenset(), frozenset({"mark", "source"}))


async def test_nothing_is_lost_when_a_backup_could_not_be_restored(
    garden: Garden, target: Target, storm: Storm
) -> None:
    origins = {"mark of an instance without a database": Contents(frozenset({1}), frozenset({"source"}))}
    assert await check(target, replace(storm, history=History(origins=origins)), _TIMEOUT) == []


@pytest.mark.parametrize("plant", [_undelete, _trash])
async def test_attributes_are_wrong_when_they_are_not_what_the_client_was_told(
    garden: Garden, target: Target, storm: Storm, plant: Plant
) -> None:
    await _set(garden, """labels = '{"storm": "1"}'""")
    await garden.registry.execute(
        "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
        " VALUES ($1, 'year', '2027')",
        garden.number,
    )
    kept = {"contexts": [{"id": 1, "key": "year", "value": "2027"}], "derivatives": []}
    if plant is _trash:
        await garden.registry.execute("DELETE FROM dbo.odsinstancecontexts")
        await _set(garden, f"setaside = '{json.dumps(kept)}'")
    await plant(garden)
    told = Attributes(labels={"storm": "1"}, contexts={"year": "2027"})
    others = [
        replace(told, labels={}),
        replace(told, contexts={"year": "2028"}),
        replace(told, protected=True, contexts={}),
    ]
    key = (garden.number, garden.name)
    assert await check(target, replace(storm, attributes={key: told}), _TIMEOUT) == []
    for other in others[: 3 if plant is _undelete else 2]:
        wrong = replace(storm, attributes={key: other})
        assert _kinds(await check(target, wrong, _TIMEOUT)) == {Kind.WRONG_ATTRIBUTES}
    restored = replace(storm, attributes={key: others[0]}, history=History(changed={await _mark(garden)}))
    assert await check(target, restored, _TIMEOUT) == []


async def test_protected_instance_is_gone_when_it_was_deleted(
    garden: Garden, target: Target, storm: Storm
) -> None:
    protected = {(garden.number, garden.name): Attributes(protected=True)}
    await _trash(garden)
    found = await check(target, replace(storm, attributes=protected), _TIMEOUT)
    assert _kinds(found) == {Kind.PROTECTED_GONE}


async def test_routing_to_the_trash_is_found_when_it_was_seen_once(
    garden: Garden, target: Target, storm: Storm
) -> None:
    seen = replace(storm, history=History(routed={await _trash_name(garden)}))
    assert _kinds(await check(target, seen, _TIMEOUT)) == {Kind.ROUTED_TO_TRASH}


async def test_detached_database_is_no_drift_when_the_verdict_names_it(
    garden: Garden, target: Target, storm: Storm
) -> None:
    await _detach(garden)
    assert (await judge(target, storm, _TIMEOUT)).detached == {garden.database}


@pytest.mark.parametrize("plant", [_purge, _undelete])
async def test_trash_is_left_over_when_a_restore_has_forgotten_what_became_of_it(
    garden: Garden, target: Target, storm: Storm, plant: Plant
) -> None:
    """The registry is put back to when the instance was in the trash."""
    await plant(garden)
    lost = await read_rows(garden.registry)
    await garden.registry.execute("DELETE FROM adminapi.jobstatuses WHERE jobid NOT LIKE 'Create%'")
    await _end_routing(garden)
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    await _put_into_trash(garden)
    storm.history.see_restore(lost, Rows([], []))
    verdict = await judge(target, storm, _TIMEOUT)
    assert verdict.violations == []
    assert Kind.NO_DATABASE in {leftover.kind for leftover in verdict.leftovers}
