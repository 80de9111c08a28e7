"""The checker finds each kind of violation, and nothing where there is none."""

import ast
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client

from ods.model.operations import JobStatus
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from ods.temporal.job_starter import JobStarter
from ods.tenants.tenant import Tenant
from tests.chaos import backups, checker, evidence, life, snapshots, violations
from tests.chaos.checker import check, check_drift, judge
from tests.chaos.conftest import DROPS, KEEPS, Garden
from tests.chaos.evidence import (
    Database,
    Evidence,
    History,
    Rows,
    Target,
    connected,
    foreign_databases,
    gather,
    read_rows,
)
from tests.chaos.violations import Kind, Request, Storm, Together, Verdict, Violation
from tests.end_to_end.conftest import Operator
from tests.servers import MINIMAL_TEMPLATE
from worker import ddl_worker, registry_worker

Plant = Callable[[Garden], Awaitable[object]]

_OTHER_KEY = bytes(32)
_TIMEOUT = 0.2


def _sql(statement: str) -> Plant:
    """Run `statement` in the registry, with the instance's id as $1."""
    return lambda garden: garden.registry.execute(statement, garden.number)


def _ddl(statement: str) -> Plant:
    """Run `statement` on the server, {} being the database's name."""
    return lambda garden: garden.server.execute(statement.format(f'"{garden.database}"'))


def _connection_string(make: Callable[[Garden], str | None]) -> Plant:
    return lambda garden: garden.registry.execute(
        "UPDATE dbo.odsinstances SET connectionstring = $2 WHERE odsinstanceid = $1",
        *(garden.number, make(garden)),
    )


async def _plant_waiting(garden: Garden) -> None:
    await garden.plant_instance(garden.number + 500, "Waiting", "Pending", "Create", 1)
    await garden.plant_job("Create", 1, "Pending", garden.number + 500)


async def _plant_interrupted(garden: Garden) -> None:
    await _plant_waiting(garden)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET state = 'InProgress' WHERE id > $1", garden.number
    )


async def _plant_forgotten_job(garden: Garden) -> None:
    await garden.plant_instance(garden.number + 500, "Forgotten", "Deleted", "Delete", 2)
    await garden.plant_job("Create", 1, "InProgress", garden.number + 500)
    await garden.plant_job("Delete", 2, "Completed", garden.number + 500)


async def _plant_failed(garden: Garden) -> None:
    await garden.plant_instance(garden.number + 500, "Failed", "Error", "Create", 1)
    await garden.plant_job("Create", 1, "Error", garden.number + 500)


async def _plant_failed_with_workflow(garden: Garden) -> None:
    await _plant_failed(garden)
    await garden.plant_workflow("busy", garden.number + 500)


async def _plant_failed_rename(garden: Garden) -> None:
    """The garden's own instance could not be renamed, and is as it was."""
    await garden.plant_job("Rename", 2, "Error", garden.number)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET status = 'Error', operation = 'Rename', arguments = '{}',"
        " jobnumber = 2, errormessage = 'Why not.', newname = 'Other', newdatabasename = 'Other'"
        " WHERE id = $1",
        garden.number,
    )


async def _plant_failed_rename_without_database(garden: Garden) -> None:
    await _plant_failed_rename(garden)
    await garden.server.execute(f'ALTER DATABASE "{garden.database}" RENAME TO "EdFi_Ods_Renamed_Minimal"')
    garden.databases.append("EdFi_Ods_Renamed_Minimal")


async def _plant_two_workflows(garden: Garden) -> None:
    await _plant_failed_with_workflow(garden)
    await garden.plant_workflow("busy-as-well", garden.number + 500)


async def _plant_left_database(garden: Garden) -> None:
    mark = str(uuid.uuid4())
    await garden.plant_instance(garden.number + 500, "Left", "Deleted", "Delete", 2, mark)
    await garden.plant_job("Create", 1, "Completed", garden.number + 500)
    await garden.plant_job("Delete", 2, "Completed", garden.number + 500)
    await garden.plant_database("EdFi_Ods_Left_Minimal", mark)


async def _plant_failed_delete(garden: Garden) -> None:
    """The garden's own instance could not be deleted: its DROP was interrupted."""
    await garden.plant_job("Delete", 2, "Error", garden.number)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET status = 'Delete_Failed', operation = 'Delete', jobnumber = 2,"
        " arguments = $2, errormessage = 'Why not.' WHERE id = $1",
        *(garden.number, KEEPS),
    )
    await garden.registry.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", garden.number)
    await garden.server.execute(
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", garden.database
    )


async def _plant_failed_delete_after_a_failed_rename(garden: Garden) -> None:
    await _plant_failed_delete(garden)
    await garden.registry.execute("UPDATE adminapi.dbinstances SET newname = 'Other'")


async def _plant_crossed_marks(garden: Garden) -> None:
    """Another instance's database carries the mark of the garden's own instance."""
    other = garden.number + 500
    await garden.plant_completed(other)
    mark = await garden.registry.fetchval("SELECT mark::text FROM adminapi.dbinstances WHERE id < $1", other)
    await garden.server.execute(
        f"COMMENT ON DATABASE \"EdFi_Ods_Garden_{other}_Minimal\" IS '{json.dumps({'mark': mark})}'"
    )


async def _plant_crossed_routing(garden: Garden) -> None:
    """The ODS/API is led to another instance's database."""
    other = garden.number + 500
    await garden.plant_completed(other)
    await garden.registry.execute(
        "UPDATE dbo.odsinstances SET connectionstring = $2 WHERE odsinstanceid = $1",
        *(garden.number, garden.connection_string(f"EdFi_Ods_Garden_{other}_Minimal")),
    )


async def _plant_invalid(garden: Garden) -> None:
    await garden.plant_database("left_over")
    await garden.server.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'left_over'")


_DROPS = (
    "UPDATE adminapi.dbinstances SET operation = 'Delete',"
    ' arguments = \'{"keep": false, "backup_first": false}\' WHERE id = $1'
)
SPOILED: dict[str, tuple[Plant, set[Kind]]] = {
    "failed rename": (_plant_failed_rename, set()),
    "failed rename that was not undone": (
        _plant_failed_rename_without_database,
        {Kind.NO_DATABASE, Kind.SURPLUS_DATABASE},
    ),
    "new name of an instance that is not being renamed": (
        _sql("UPDATE adminapi.dbinstances SET newname = 'Other' WHERE id = $1"),
        {Kind.DISAGREEMENT},
    ),
    "waiting": (_plant_waiting, {Kind.UNFINISHED, Kind.UNFINISHED_JOB}),
    "interrupted": (_plant_interrupted, {Kind.UNFINISHED, Kind.UNFINISHED_JOB}),
    "forgotten job": (_plant_forgotten_job, {Kind.UNFINISHED_JOB}),
    "job is Error": (
        _sql(
            "UPDATE adminapi.jobstatuses SET status = 'Error', errormessage = 'No.' WHERE dbinstanceid = $1"
        ),
        {Kind.DISAGREEMENT},
    ),
    "job has an error message": (
        _sql("UPDATE adminapi.jobstatuses SET errormessage = 'No.' WHERE dbinstanceid = $1"),
        {Kind.DISAGREEMENT},
    ),
    "job has no end": (
        _sql("UPDATE adminapi.jobstatuses SET finishedat = NULL WHERE dbinstanceid = $1"),
        {Kind.DISAGREEMENT},
    ),
    "job of another operation": (
        _sql(_DROPS),
        {Kind.DISAGREEMENT},
    ),
    "job is missing": (
        _sql("DELETE FROM adminapi.jobstatuses WHERE dbinstanceid = $1"),
        {Kind.DISAGREEMENT},
    ),
    "job too many": (
        lambda garden: garden.plant_job("Delete", 2, "Completed", garden.number),
        {Kind.DISAGREEMENT},
    ),
    "job of no instance": (
        lambda garden: garden.plant_job("Create", 1, "Completed", 999_999),
        {Kind.DISAGREEMENT},
    ),
    "instance has an error message": (
        _sql("UPDATE adminapi.dbinstances SET errormessage = 'No.' WHERE id = $1"),
        {Kind.DISAGREEMENT},
    ),
    "instance was not published": (
        _sql("UPDATE adminapi.databases SET publishedat = NULL WHERE instanceid = $1"),
        {Kind.DISAGREEMENT},
    ),
    "database is missing": (_ddl("DROP DATABASE {}"), {Kind.NO_DATABASE}),
    "database is closed": (_ddl("ALTER DATABASE {} ALLOW_CONNECTIONS false"), {Kind.NO_DATABASE}),
    "database of another mark": (
        _ddl('COMMENT ON DATABASE {} IS \'{{"mark": "another"}}\''),
        {Kind.WRONG_MARK, Kind.SURPLUS_DATABASE},
    ),
    "database without mark": (
        _ddl("COMMENT ON DATABASE {} IS NULL"),
        {Kind.WRONG_MARK, Kind.UNMARKED_DATABASE},
    ),
    "database of a deleted instance": (_plant_left_database, {Kind.SURPLUS_DATABASE}),
    "database of no instance": (
        lambda garden: garden.plant_database("EdFi_Ods_Foreign_Minimal", "mark"),
        {Kind.SURPLUS_DATABASE},
    ),
    "unmarked database": (
        lambda garden: garden.plant_database("EdFi_Ods_Foreign_Minimal"),
        {Kind.UNMARKED_DATABASE},
    ),
    "staging database": (
        lambda garden: garden.plant_database(f"ods_staging_{uuid.uuid4().hex[:16]}_{uuid.uuid4().hex}"),
        {Kind.STAGING_DATABASE},
    ),
    "database that takes no place": (
        lambda garden: garden.plant_database(f"ods_reset_{uuid.uuid4().hex}"),
        {Kind.STAGING_DATABASE},
    ),
    "invalid database": (_plant_invalid, {Kind.INVALID_DATABASE}),
    "invalid database of a delete that failed": (_plant_failed_delete, {Kind.INVALID_DATABASE}),
    "the same after a failed rename": (
        _plant_failed_delete_after_a_failed_rename,
        {Kind.INVALID_DATABASE},
    ),
    "database with the mark of another instance": (
        _plant_crossed_marks,
        {Kind.CROSSED, Kind.WRONG_MARK, Kind.SURPLUS_DATABASE},
    ),
    "routing to the database of another instance": (
        _plant_crossed_routing,
        {Kind.CROSSED, Kind.WRONG_CONNECTION_STRING},
    ),
    "ODS instance is missing": (
        _sql("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1"),
        {Kind.NO_ODS_INSTANCE},
    ),
    "ODS instance of no instance": (
        _sql("INSERT INTO dbo.odsinstances VALUES ($1 + 500, 'Of no instance', 'Minimal', NULL)"),
        {Kind.SURPLUS_ODS_INSTANCE},
    ),
    "ODS instance of another name": (
        _sql("UPDATE dbo.odsinstances SET name = 'Another' WHERE odsinstanceid = $1"),
        {Kind.WRONG_ODS_INSTANCE},
    ),
    "ODS instance of another template": (
        _sql("UPDATE dbo.odsinstances SET instancetype = 'Sample' WHERE odsinstanceid = $1"),
        {Kind.WRONG_ODS_INSTANCE},
    ),
    "connection string of another database": (
        _connection_string(lambda garden: garden.connection_string("EdFi_Admin")),
        {Kind.WRONG_CONNECTION_STRING},
    ),
    "connection string of another key": (
        _connection_string(lambda garden: garden.connection_string(garden.database, _OTHER_KEY)),
        {Kind.WRONG_CONNECTION_STRING},
    ),
    "connection string in the clear": (
        _connection_string(lambda garden: f"host=127.0.0.1;port={garden.port};database={garden.database}"),
        {Kind.WRONG_CONNECTION_STRING},
    ),
    "connection string is missing": (_connection_string(lambda _: None), {Kind.WRONG_CONNECTION_STRING}),
    "workflow of a completed instance": (
        lambda garden: garden.plant_workflow(str(garden.number), garden.number),
        {Kind.OPEN_WORKFLOW},
    ),
    "workflow of no instance": (lambda garden: garden.plant_workflow("stray", 999_999), {Kind.OPEN_WORKFLOW}),
    "workflow of a failed instance does not wait": (_plant_failed_with_workflow, {Kind.OPEN_WORKFLOW}),
    "two workflows": (_plant_two_workflows, {Kind.OPEN_WORKFLOW, Kind.DUPLICATE_WORKFLOW}),
}


async def _before(target: Target) -> Storm:
    """Other tests' databases are none of ours."""
    return Storm(foreign=await foreign_databases(target))


def _kinds(violations: object) -> set[Kind]:
    assert isinstance(violations, list)
    return {violation.kind for violation in violations if isinstance(violation, Violation)}


async def test_nothing_is_found_when_all_is_in_order(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await garden.plant_completed()
    await _plant_failed(garden)
    storm = Storm(
        [garden.request, Request("Create", "Failed", f"CreateInstanceJob-{garden.number + 500}-1")],
        before.foreign,
    )
    assert await check(target, storm, _TIMEOUT) == []


@pytest.mark.parametrize("case", SPOILED)
async def test_violation_is_found_when_it_was_planted(garden: Garden, target: Target, case: str) -> None:
    plant, kinds = SPOILED[case]
    before = await _before(target)
    await garden.plant_completed()
    await plant(garden)
    assert _kinds(await check(target, before, _TIMEOUT)) == kinds


async def test_request_is_lost_when_its_job_does_not_exist(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await garden.plant_completed()
    lost = Request("Delete", garden.name, f"DeleteInstanceJob-{garden.number}-2")
    found = await check(target, Storm([garden.request, lost], before.foreign), _TIMEOUT)
    assert _kinds(found) == {Kind.LOST_REQUEST}


async def test_request_is_carried_out_in_part_when_one_of_its_instances_has_no_job(
    garden: Garden, target: Target
) -> None:
    before = await _before(target)
    await garden.plant_completed()
    create = Together("Create", frozenset({garden.name, "Other"}))
    never = Together("Delete", frozenset({garden.name, "Other"}))
    asked = replace(before, together=[create, never])
    assert _kinds(await check(target, asked, _TIMEOUT)) == {Kind.IN_PART}
    restored = replace(asked, history=History(removed={(garden.number + 500, "Other")}))
    assert await check(target, restored, _TIMEOUT) == []
    await garden.plant_instance(garden.number + 500, "Other", "Error", "Create", 1)
    await garden.plant_job("Create", 1, "Error", garden.number + 500)
    assert await check(target, asked, _TIMEOUT) == []


async def test_job_is_retracted_when_it_had_been_completed(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await _plant_failed(garden)
    told = Request("Create", "Failed", f"CreateInstanceJob-{garden.number + 500}-1", "Completed")
    assert _kinds(await check(target, Storm([told], before.foreign), _TIMEOUT)) == {Kind.RETRACTED}


async def test_job_is_unrequested_when_no_request_is_left_for_it(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await garden.plant_completed()
    await _plant_failed(garden)
    unknown = Request("Create", "Failed")
    for requests, kinds in (([garden.request], {Kind.UNREQUESTED}), ([garden.request, unknown], set())):
        assert _kinds(await check(target, Storm(requests, before.foreign), _TIMEOUT)) == kinds


async def test_contents_are_found_wrong_when_most_copies_have_others(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await garden.plant_completed()
    for number in (garden.number + 500, garden.number + 501):
        await garden.plant_completed(number)
    assert await check(target, before, _TIMEOUT) == []
    async with connected(target.master_dsn, garden.database) as database:
        await database.execute("CREATE TABLE half AS SELECT 1 AS id")
    (found,) = await check(target, before, _TIMEOUT)
    assert found.kind is Kind.WRONG_CONTENTS
    assert garden.name in found.words


async def test_invalid_database_is_waited_for_when_it_may_still_be_dropped(
    garden: Garden, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await _before(target)
    await _plant_invalid(garden)

    async def looked_at(target: Target, temporal: Client) -> Evidence:
        """The server drops it as soon as the checker has looked for the first time."""
        found = await gather(target, temporal)
        await garden.server.execute("DROP DATABASE IF EXISTS left_over")
        return found

    monkeypatch.setattr(checker, "gather", looked_at)
    assert await check(target, before, 20) == []


async def test_instance_is_crossed_when_its_create_was_requested_for_another_name(
    garden: Garden, target: Target
) -> None:
    before = await _before(target)
    await garden.plant_completed()
    other = replace(garden.request, name="Another")
    assert _kinds(await check(target, replace(before, requests=[other]), _TIMEOUT)) == {Kind.CROSSED}
    forgotten = History(forgotten={(str(other.job), other.name)})
    both = replace(before, requests=[other, garden.request], history=forgotten)
    assert await check(target, both, _TIMEOUT) == []


async def _dropped(garden: Garden) -> History:
    """The history of an instance whose create failed, and whose database was open once and is gone."""
    mark = str(uuid.uuid4())
    await garden.plant_instance(garden.number, garden.name, "Error", "Create", 1, mark)
    await garden.plant_job("Create", 1, "Error", garden.number)
    await garden.plant_database(garden.database, mark)
    history = History()
    history.see((await _seen(garden)), [])
    await garden.server.execute(f'DROP DATABASE "{garden.database}"')
    return history


async def _seen(garden: Garden) -> list[Database]:
    row = await garden.server.fetchrow(
        "SELECT datname AS name, oid::int8, 'any' AS owner, datallowconn AS open, false AS invalid,"
        " shobj_description(oid, 'pg_database') AS comment, 1 AS xmin FROM pg_database WHERE datname = $1",
        garden.database,
    )
    assert row is not None
    return [Database(**row)]


async def test_published_database_is_gone_when_no_delete_was_requested(
    garden: Garden, target: Target
) -> None:
    before = await _before(target)
    history = await _dropped(garden)
    gone = replace(before, history=history)
    assert _kinds(await check(target, gone, _TIMEOUT)) == {Kind.PUBLISHED_GONE}
    # Another database of the mark does not replace it: its contents are lost.
    ((mark, _),) = history.published
    await garden.plant_database(garden.database, mark)
    assert Kind.PUBLISHED_GONE in _kinds(await check(target, gone, _TIMEOUT))


async def test_published_database_may_go_when_a_delete_was_recorded(garden: Garden, target: Target) -> None:
    before = await _before(target)
    history = await _dropped(garden)
    ((mark, _),) = history.published
    lost = replace(history, deleted={mark})
    due = replace(history, due={mark})
    assert await check(target, replace(before, history=lost), _TIMEOUT) == []
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET status = 'Deleted', operation = 'Delete', arguments = $1", DROPS
    )
    await garden.registry.execute("UPDATE adminapi.dbinstances SET errormessage = NULL, jobnumber = 2")
    await garden.plant_job("Delete", 2, "Completed", garden.number)
    assert await check(target, replace(before, history=due), _TIMEOUT) == []


@pytest.mark.parametrize(
    "reason",
    [
        "Unexpected fault (DBAPIError); the worker's log tells more.",
        "Unexpected fault (ConnectionRefusedError); the worker's log tells more.",
        "The PostgreSQL server of the ODS databases cannot be reached.",
        "The PostgreSQL server ended the connection: it is starting, stopping, or closed it.",
        "The PostgreSQL server is a standby. Wait until it has taken over, or correct ODS_MASTER_DSN.",
        "No worker could finish the step in time. Check the workers, then retry.",
        "PostgreSQL refused the step with SQLSTATE 55P03. Its log tells more.",
    ],
)
async def test_job_may_not_fail_when_something_was_away(garden: Garden, target: Target, reason: str) -> None:
    before = await _before(target)
    await _plant_failed(garden)
    await garden.registry.execute("UPDATE adminapi.jobstatuses SET errormessage = $1", reason)
    assert _kinds(await check(target, before, _TIMEOUT)) == {Kind.AWAY}


async def test_job_may_fail_when_the_reason_is_its_own(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await _plant_failed(garden)
    reason = "A database named 'EdFi_Ods_Away_Minimal' exists that does not belong to this instance."
    await garden.registry.execute("UPDATE adminapi.jobstatuses SET errormessage = $1", reason)
    assert await check(target, before, _TIMEOUT) == []


async def test_failure_is_found_when_the_job_was_retried_afterwards(garden: Garden, target: Target) -> None:
    before = await _before(target)
    await garden.plant_completed()
    history = History(errors={(str(garden.request.job), "Unexpected fault (DBAPIError)")})
    assert _kinds(await check(target, replace(before, history=history), _TIMEOUT)) == {Kind.AWAY}


async def _forget(garden: Garden) -> None:
    """The instance was requested after the moment to which the registry was put back."""
    for table in ("dbo.odsinstances", "adminapi.jobstatuses", "adminapi.dbinstances"):
        await garden.registry.execute(f"DELETE FROM {table}")  # noqa: S608 - of the names above


async def _rename_database(garden: Garden) -> None:
    """The instance was renamed after the moment to which the registry was put back."""
    await garden.server.execute(f'ALTER DATABASE "{garden.database}" RENAME TO "EdFi_Ods_Renamed_Minimal"')
    garden.databases.append("EdFi_Ods_Renamed_Minimal")


async def _interrupt_drop(garden: Garden) -> None:
    await _forget(garden)
    await garden.server.execute(
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", garden.database
    )


async def _refuse_delete(garden: Garden) -> None:
    """The rename was forgotten, and a delete refused before it had ended the routing."""
    await _rename_database(garden)
    await garden.plant_job("Delete", 2, "Error", garden.number)
    await garden.registry.execute(
        "UPDATE adminapi.dbinstances SET status = 'Delete_Failed', operation = 'Delete', jobnumber = 2,"
        " arguments = $1, errormessage = 'Why not.'",
        KEEPS,
    )


LEFT_BY_RESTORES: dict[str, tuple[Plant, set[Kind]]] = {
    "request was forgotten": (_forget, {Kind.SURPLUS_DATABASE}),
    "rename was forgotten": (_rename_database, {Kind.NO_DATABASE, Kind.SURPLUS_DATABASE}),
    "rename was forgotten, and a delete refused": (
        _refuse_delete,
        {Kind.SURPLUS_DATABASE, Kind.SURPLUS_ODS_INSTANCE},
    ),
    "delete was forgotten": (_ddl("DROP DATABASE {}"), {Kind.NO_DATABASE}),
    "delete was forgotten and interrupted": (_interrupt_drop, {Kind.SURPLUS_DATABASE, Kind.INVALID_DATABASE}),
}


@pytest.mark.parametrize("case", LEFT_BY_RESTORES)
async def test_leftover_is_allowed_when_a_restore_is_the_cause(
    garden: Garden, target: Target, case: str
) -> None:
    plant, kinds = LEFT_BY_RESTORES[case]
    before = await _before(target)
    await garden.plant_completed()
    lost = await read_rows(garden.registry)
    await plant(garden)
    requests = [garden.request, Request("Trash", garden.name)]
    restored = replace(before, requests=requests, history=History())
    assert kinds <= _kinds(await check(target, restored, _TIMEOUT))
    # All that the restore replaced, it has changed: there was nothing before.
    restored.history.see_restore(lost, Rows([], []))
    verdict = await judge(target, restored, _TIMEOUT)
    assert (verdict.violations, {it.kind for it in verdict.leftovers}) == ([], kinds)


def _reporting(*findings: dict[str, str]) -> list[str]:
    """A command that reports `findings`, as `ods drift --json` does."""
    return [sys.executable, "-c", f"print({json.dumps(findings)!r})"]


_LEFT = Verdict(
    leftovers=[
        Violation(Kind.SURPLUS_DATABASE, "EdFi_Ods_A_Minimal is left", "mark", ("EdFi_Ods_A_Minimal",))
    ],
    touched=["Client 1"],
)


async def test_leftover_is_a_violation_when_no_finding_names_it() -> None:
    other = {"kind": "DatabaseWithoutInstance", "subject": "EdFi_Ods_A_Minimal_2", "explanation": "Why."}
    named = {**other, "subject": "EdFi_Ods_A_Minimal"}
    final = {**other, "subject": "7 Client 1"}
    assert await check_drift(_reporting(named, final), Storm(), _LEFT) == []
    found = await check_drift(_reporting(named, other), Storm(), _LEFT)
    assert _kinds(found) == {Kind.DRIFT}
    assert _kinds(await check_drift(_reporting(other), Storm(), _LEFT)) == {Kind.DRIFT, Kind.UNREPORTED}
    planned = [{"name": "A", "database": "EdFi_Ods_A_Minimal"}]
    assert _kinds(await check_drift(_reporting(other), Storm(), _LEFT, planned)) == {Kind.DRIFT}


async def test_job_that_has_failed_is_a_leftover_when_its_instance_was_put_back(
    garden: Garden, target: Target
) -> None:
    before = await _before(target)
    await garden.plant_completed()
    await garden.registry.execute("UPDATE adminapi.jobstatuses SET status = 'Error', errormessage = 'No.'")
    mark = await garden.registry.fetchval("SELECT mark::text FROM adminapi.dbinstances")
    restored = replace(before, requests=[garden.request], history=History(changed={mark}))
    verdict = await judge(target, restored, _TIMEOUT)
    assert (verdict.violations, {it.kind for it in verdict.leftovers}) == ([], {Kind.DISAGREEMENT})


async def test_finding_about_the_registry_is_expected_when_it_was_put_back() -> None:
    finding = {"kind": "RegistryPutBack", "subject": "registry", "explanation": "By an hour."}
    restored = Storm(history=History(changed={"mark"}))
    assert await check_drift(_reporting(finding), restored) == []
    assert _kinds(await check_drift(_reporting(finding), Storm())) == {Kind.DRIFT}


async def _open_spare(garden: Garden) -> None:
    await garden.server.execute(f"ALTER DATABASE {await garden.plant_spare()} ALLOW_CONNECTIONS true")


async def _invalid_spare(garden: Garden) -> None:
    spare = await garden.plant_spare()
    await garden.server.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1", spare)


async def _spare_of_another_state(garden: Garden) -> None:
    await garden.plant_spare()
    await garden.server.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS true')
    await garden.server.execute(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" ALLOW_CONNECTIONS false')


async def _spare_of_no_template(garden: Garden) -> None:
    spare = await garden.plant_spare()
    comment = str(await garden.server.fetchval(_COMMENT, spare)).replace(MINIMAL_TEMPLATE, "Nowhere")
    await garden.server.execute(f"COMMENT ON DATABASE {spare} IS '{comment}'")


async def _two_spares(garden: Garden) -> None:
    await garden.plant_spare()
    await garden.plant_spare()


_COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
SPOILED_SPARES: dict[str, tuple[Plant, set[Kind]]] = {
    "ready": (lambda garden: garden.plant_spare(), set()),
    "too many": (_two_spares, {Kind.SURPLUS_SPARE}),
    "unfinished": (lambda garden: garden.plant_spare("{}"), {Kind.UNFINISHED_SPARE}),
    "open": (_open_spare, {Kind.UNFINISHED_SPARE}),
    "invalid": (_invalid_spare, {Kind.UNFINISHED_SPARE, Kind.INVALID_DATABASE}),
    "stale": (_spare_of_another_state, {Kind.STALE_SPARE}),
    "of no template": (_spare_of_no_template, {Kind.STALE_SPARE}),
}


@pytest.mark.parametrize("case", SPOILED_SPARES)
async def test_spare_is_found_when_it_is_not_as_it_should_be(
    garden: Garden, target: Target, case: str
) -> None:
    plant, kinds = SPOILED_SPARES[case]
    before = replace(await _before(target), spares=1)
    await plant(garden)
    assert _kinds(await check(target, before, _TIMEOUT)) == kinds


async def test_spare_is_not_foreign_when_it_was_there_before(garden: Garden, target: Target) -> None:
    spare = await garden.plant_spare()
    before = replace(await _before(target), spares=1)
    await garden.server.execute(f"DROP DATABASE {spare}")
    assert await check(target, before, _TIMEOUT) == []


async def _add_row(garden: Garden, target: Target) -> None:
    async with connected(target.master_dsn, "district_reports") as reports:
        await reports.execute("INSERT INTO reports VALUES (2)")


async def _make_anew(garden: Garden, target: Target) -> None:
    await garden.server.execute("DROP DATABASE district_reports")
    await _plant_reports(garden, target)


async def _change_owner(garden: Garden, target: Target) -> None:
    await garden.server.execute("ALTER DATABASE district_reports OWNER TO ods_service")


async def _drop(garden: Garden, target: Target) -> None:
    await garden.server.execute("DROP DATABASE district_reports")


async def _plant_reports(garden: Garden, target: Target) -> None:
    await garden.plant_database("district_reports")
    async with connected(target.master_dsn, "district_reports") as reports:
        await reports.execute("CREATE TABLE reports AS SELECT 1 AS id")


@pytest.mark.parametrize("touch", [_add_row, _make_anew, _change_owner, _drop])
async def test_foreign_database_is_found_when_it_was_touched(
    garden: Garden, target: Target, touch: Callable[[Garden, Target], Awaitable[None]]
) -> None:
    await _plant_reports(garden, target)
    before = await _before(target)
    assert _kinds(await check(target, before, _TIMEOUT)) == set()
    await touch(garden, target)
    assert _kinds(await check(target, before, _TIMEOUT)) == {Kind.FOREIGN_DATABASE}


async def test_nothing_is_found_when_real_workers_have_done_real_jobs(
    instances: InstanceStore,
    job_store: JobStore,
    queries: InstanceQueries,
    quiet_temporal: Client,
    settings: Settings,
    tenant: Tenant,
    garden: Garden,
    target: Target,
) -> None:
    taken_name = f"Taken {garden.number}"
    await garden.plant_database(f"EdFi_Ods_Taken_{garden.number}_Minimal")
    before = await _before(target)
    operator = Operator(
        instances, job_store, queries, JobStarter(quiet_temporal, settings.registry_queue), quiet_temporal
    )
    async with registry_worker(quiet_temporal, tenant), ddl_worker(quiet_temporal, tenant):
        kept, gone, refused = [
            await operator.create(name) for name in (f"Kept {garden.number}", garden.name, taken_name)
        ]
        assert await operator.ended(gone) is JobStatus.COMPLETED
        await operator.delete(gone)
        assert await operator.ended(kept) is JobStatus.COMPLETED
        renamed = await operator.rename(kept, f"{kept.name} r1")
        assert await operator.ended(renamed) is JobStatus.COMPLETED
        garden.databases.append(renamed.final_database)
        garden.workflows.append(refused.workflow_id)  # it waits for a decision
        found = await check(target, before, 20)
        assert await operator.ended(refused) is JobStatus.ERROR
    assert found == []


@pytest.mark.parametrize("module", [checker, evidence, life, backups, snapshots, violations])
def test_checker_is_independent_when_its_imports_are_read(module: object) -> None:
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    allowed = {"asyncpg", "cryptography", "temporalio"}
    ours = {"tests.chaos", "tests.chaos.evidence", "tests.chaos.violations"}
    assert {name for name in foreign if name.partition(".")[0] not in allowed} <= ours
