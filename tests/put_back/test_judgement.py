"""Each word of the matrix is given for what it says, and a table is read as it was written."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.evidence import Database
from tests.chaos.workload import Json
from tests.put_back.histories import DONE, Later, PutBack, Story, stories
from tests.put_back.judgement import WRONG, Case, Told, Word, judge
from tests.put_back.operations import OPERATIONS, STEPS
from tests.put_back.scene import Facts, Held, mark_of
from tests.put_back.table import Expected

_ALPHA = "EdFi_Ods_Alpha_Minimal"
_INSTANCE: Json = {
    "id": 1,
    "odsInstanceId": 1,
    "name": "Alpha",
    "databaseName": _ALPHA,
    "status": "Completed",
    "operation": "Create",
    "errorMessage": None,
}
_FINDING = {"kind": "DatabaseMissing", "subject": _ALPHA, "explanation": "It is not there."}


def _database(name: str = _ALPHA, oid: int = 10, *, is_open: bool = True) -> Database:
    return Database(name, oid, "ods_service", is_open, invalid=False, comment="{}", xmin=1)


def _server(*databases: Database, of: str = "A", rows: int = 2) -> Held:
    held = {number: mark_of(of) for number in range(rows)}
    return Held({one.oid: one for one in databases}, {one.oid: held for one in databases})


@pytest.fixture
def good() -> Case:
    """An instance with rows, as it was before."""
    facts = Facts(names={"A": "1"}, holds={"A": ("A",)})
    told = Told(instances=[_INSTANCE], routes={1: _ALPHA})
    return Case(facts, {10: "A"}, _server(_database()), {1: _ALPHA}, _server(_database()), told)


def test_rows_are_kept_when_their_instance_leads_to_them(good: Case) -> None:
    assert judge(good).word is Word.KEPT


def test_rows_are_kept_when_their_database_is_in_the_trash(good: Case) -> None:
    name = "ods_trash_1"
    told = Told(instances=[{**_INSTANCE, "status": "Deleted"}], trash=[{"databaseName": name}])
    assert judge(replace(good, after=_server(_database(name, is_open=False)), told=told)).word is Word.KEPT
    assert judge(replace(good, after=_server(_database(name)), told=told)).word is Word.UNTOLD


def test_rows_are_kept_when_a_client_has_left_their_database_to_others(good: Case) -> None:
    told = Told(instances=[{**_INSTANCE, "status": "Deleted"}])
    after = _server(replace(_database(), comment=None))
    detached = replace(good.facts, detached={"A"})
    assert judge(replace(good, facts=detached, after=after, told=told)).word is Word.KEPT
    assert judge(replace(good, after=after, told=told)).word is Word.UNTOLD


def test_operator_is_waited_for_when_a_finding_names_the_database(good: Case) -> None:
    assert judge(replace(good, told=replace(good.told, findings=[_FINDING]))).word is Word.WAITS
    elsewhere = replace(good, after=_server(_database("elsewhere")))
    assert judge(elsewhere).word is Word.UNTOLD
    finding = {**_FINDING, "explanation": "Its mark is on 'elsewhere'."}
    assert judge(replace(elsewhere, told=replace(good.told, findings=[finding]))).word is Word.WAITS


def test_nothing_is_told_when_the_database_of_an_instance_is_closed(good: Case) -> None:
    assert judge(replace(good, after=_server(_database(is_open=False)))).word is Word.UNTOLD


def test_job_is_stuck_when_it_does_not_say_what_it_waits_for(good: Case) -> None:
    job = {
        "jobId": "Create-1",
        "instanceId": 1,
        "status": "InProgress",
        "operation": "Create",
        "waiting": None,
    }
    assert judge(replace(good, told=replace(good.told, jobs=[job]))).word is Word.STUCK
    waiting = {**job, "waiting": {"for": "the server"}}
    assert judge(replace(good, told=replace(good.told, jobs=[waiting]))).word is Word.WAITS
    ended = {**job, "status": "Error"}
    assert judge(replace(good, told=replace(good.told, jobs=[ended]))).word is Word.KEPT


def test_instance_is_stuck_when_it_is_under_way_without_a_job(good: Case) -> None:
    told = replace(good.told, instances=[{**_INSTANCE, "status": "InProgress"}])
    assert judge(replace(good, told=told)).word is Word.STUCK


def test_rows_are_lost_when_a_database_has_fewer(good: Case) -> None:
    assert judge(replace(good, after=_server(_database(), rows=1))).word is Word.LOST


def test_instance_is_crossed_when_it_leads_to_the_rows_of_another(good: Case) -> None:
    others = _server(_database(), of="N")
    assert judge(replace(good, after=others)).word is Word.CROSSED
    was_so = replace(good, before=others, after=others)
    assert judge(was_so).word is Word.CROSSED
    assert judge(replace(was_so, told=replace(good.told, findings=[_FINDING]))).word is Word.WAITS
    copies = replace(good.facts, holds={"A": ("A", "N")})
    assert judge(replace(good, facts=copies, after=others)).word is Word.KEPT


def test_database_is_dropped_when_no_client_has_asked_for_that(good: Case) -> None:
    gone = replace(good, after=_server(), told=Told(instances=[{**_INSTANCE, "status": "Deleted"}]))
    assert judge(gone).word is Word.DROPPED
    assert judge(replace(gone, facts=replace(good.facts, drops={"A"}))).word is Word.KEPT


def test_table_is_read_as_it_was_written_when_words_are_wrong(tmp_path: Path) -> None:
    story = Story("rename", "before 2", Later.DONE)
    done = Story("rename", DONE, Later.NOTHING)
    table = Expected()
    table.add({(story, it): Word.KEPT for it in PutBack} | {(done, PutBack.NOTHING): Word.KEPT})
    table.add({(story, PutBack.SERVER_TO_REQUEST): Word.LOST})
    table.reasons[story, PutBack.SERVER_TO_REQUEST] = "it is not known: yet"
    table.write(tmp_path / "table")
    assert Expected.read(tmp_path / "table") == table
    table.add({(story, PutBack.SERVER_TO_REQUEST): Word.KEPT})
    assert not table.reasons


def test_wrong_words_have_reasons_when_the_table_is_read() -> None:
    table = Expected.read()
    wrong = {row for row, word in table.words.items() if word in WRONG}
    assert {row for row, reason in table.reasons.items() if reason} == wrong


def test_stories_are_of_steps_that_there_are_when_operations_are_played() -> None:
    for operation in OPERATIONS.values():
        steps = {operation.step, *operation.prepared, *([operation.following] if operation.following else [])}
        assert steps <= STEPS.keys()
    assert [story.boundary for story in stories("drop", 1)][::3] == ["before 1", "after 1", DONE]
