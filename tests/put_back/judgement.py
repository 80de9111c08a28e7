"""What became of the rows of clients once a site was put back, in a word.

It takes nothing on trust: databases and rows are read with SQL, and held against what the API and `ods drift`
tell. Databases are told from each other by their OIDs, and rows by the instances that they were written for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.evidence import Database
from tests.chaos.workload import Json
from tests.put_back.scene import Facts, Held, mark_of

_DELETED = "Deleted"
_WITHOUT_DATABASE = ("Deleted", "Error", "Delete_Failed")
"""Statuses of instances which say themselves that nothing is routed to a database."""
_REFRESH = "Refresh"
"""Of jobs that read education organizations, and touch no database."""
_FAILED = ("Error", "Delete_Failed")
_UNDER_WAY = ("Pending", "InProgress", "Pending_Delete")


class Word(StrEnum):
    """What became of the rows that the server held when it was put back, from good to bad."""

    KEPT = "kept"
    """All of them are where the API says: in use, in the trash, or left to others as a client has asked."""
    WAITS = "waits"
    """Nothing is lost; an operator or client is told what is to be done."""
    UNTOLD = "untold"
    """Nothing is lost, but something is not where the API says, and `ods drift` does not tell of it."""
    STUCK = "stuck"
    """A job neither ends nor says what it waits for."""
    LOST = "lost"
    """Rows are gone from a database."""
    CROSSED = "crossed"
    """An instance serves another one's rows; it did not when the site was put back, or no finding says so."""
    DROPPED = "dropped"
    """A database was dropped, and no client has asked for that."""


WRONG = (Word.UNTOLD, Word.STUCK, Word.LOST, Word.CROSSED, Word.DROPPED)


@dataclass(frozen=True)
class Told:
    """What API, registry and `ods drift` tell.

    Attributes:
        instances: as the API lists them.
        jobs: as the API lists them.
        trash: as the API lists it.
        routes: where the ODS/API is led to, by OdsInstanceId: names of databases.
        readers: the same of derivatives.
        findings: what `ods drift` prints.
    """

    instances: Sequence[Json] = ()
    jobs: Sequence[Json] = ()
    trash: Sequence[Json] = ()
    routes: Mapping[int, str] = field(default_factory=dict)
    readers: Mapping[int, str] = field(default_factory=dict)
    findings: Sequence[Json] = ()

    def names(self, *subjects: str | None) -> bool:
        """Whether a finding names one of these databases or instances."""
        texts = [str(finding) for finding in self.findings]
        wanted = [rf"(?<!\w){re.escape(subject)}(?!\w)" for subject in subjects if subject]
        return any(re.search(one, text) for one in wanted for text in texts)


@dataclass(frozen=True)
class Verdict:
    """The worst of what was found, and everything that was found, in words."""

    word: Word
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """All that is known of one put-back.

    Attributes:
        facts: what clients have asked for and written, to the end.
        owners: the databases of instances that the server had when it was put back, by OID.
        before: the server when it was put back.
        routes_before: where the ODS/API was led to by the registry that was put back.
        after: the server when nothing changed any more.
        told: what is told then.
    """

    facts: Facts
    owners: Mapping[int, str]
    before: Held
    routes_before: Mapping[int, str]
    after: Held
    told: Told


def judge(case: Case) -> Verdict:
    """What became of it."""
    found = [*_gone(case), *_crossed(case), *_without_database(case), *_unreachable(case), *_open_jobs(case)]
    found += _told_of(case)
    order = list(Word)
    worst = max((word for word, _ in found), key=order.index, default=Word.KEPT)
    return Verdict(worst, [f"{word}: {words}" for word, words in found])


def _gone(case: Case) -> Iterator[tuple[Word, str]]:
    """Databases and rows of instances that were there when the site was put back."""
    for oid, instance in case.owners.items():
        database = case.before.databases.get(oid)
        if database is None or instance in case.facts.drops:
            continue
        if oid not in case.after.databases:
            yield Word.DROPPED, f"{database.name}, OID {oid}, of {instance}"
        elif missing := case.before.rows[oid].keys() - case.after.rows[oid].keys():
            yield Word.LOST, f"{len(missing)} rows of {case.after.databases[oid].name} of {instance}"


def _crossed(case: Case) -> Iterator[tuple[Word, str]]:
    """Instances that lead to the rows of others."""
    by_name = {database.name: oid for oid, database in case.after.databases.items()}
    before = {database.name: oid for oid, database in case.before.databases.items()}
    for routes in (case.told.routes, case.told.readers):
        for number, name in routes.items():
            instance, oid = case.facts.instance(number), by_name.get(name)
            if instance is None or oid is None:
                continue
            strangers = set(case.after.rows[oid].values()) - _marks(case.facts, instance)
            if not strangers:
                continue
            led_before = case.routes_before.get(number)
            was_so = led_before is not None and before.get(led_before) == oid
            word = Word.WAITS if was_so and case.told.names(name) else Word.CROSSED
            yield word, f"{instance} leads to {name}, which has rows of others"


def _marks(facts: Facts, instance: str) -> set[str]:
    return {mark_of(one) for one in facts.holds.get(instance, (instance,))}


def _without_database(case: Case) -> Iterator[tuple[Word, str]]:
    """Instances in use whose database is not there, or closed."""
    by_name = {database.name: database for database in case.after.databases.values()}
    for instance in case.told.instances:
        if instance["status"] in _WITHOUT_DATABASE or not _is_current(instance):
            continue
        name = case.told.routes.get(instance["odsInstanceId"], instance["databaseName"])
        database = by_name.get(name)
        if database is None or not database.open:
            told = case.told.names(instance["name"], name)
            how = "is missing" if database is None else "is closed"
            yield Word.WAITS if told else Word.UNTOLD, f"{instance['name']}: {name} {how}"


def _is_current(instance: Json) -> bool:
    return instance["status"] not in _UNDER_WAY


def _unreachable(case: Case) -> Iterator[tuple[Word, str]]:
    """Databases of instances that nothing leads to any more."""
    in_use = {*case.told.routes.values()}
    retained = {one["databaseName"] for one in case.told.trash}
    for oid, instance in case.owners.items():
        database = case.after.databases.get(oid)
        if database is None or not case.before.rows.get(oid):
            continue
        is_kept = (
            (database.name in in_use and database.open)
            or (database.name in retained and not database.open)
            or (instance in case.facts.detached and database.open and not database.comment)
        )
        if not is_kept:
            word = Word.WAITS if case.told.names(database.name) else Word.UNTOLD
            yield word, f"{_shown(database)} of {instance} is neither in use nor in the trash"


def _shown(database: Database) -> str:
    return f"{database.name} ({'open' if database.open else 'closed'})"


def _open_jobs(case: Case) -> Iterator[tuple[Word, str]]:
    """Jobs that go on, or have failed for good."""
    for job in case.told.jobs:
        if job["status"] in {"Completed", "Error"} or job["operation"] == _REFRESH:
            continue
        if job["waiting"]:
            yield Word.WAITS, f"{job['jobId']} waits for {job['waiting']['for']}"
        else:
            yield Word.STUCK, f"{job['jobId']} is {job['status']}"
    for instance in case.told.instances:
        words = f"{instance['name']} is {instance['status']}, {instance['operation']}"
        if instance["status"] in _UNDER_WAY and not any(
            job["instanceId"] == instance["id"] and job["status"] not in {"Completed", "Error"}
            for job in case.told.jobs
        ):
            yield Word.STUCK, words
        elif instance["status"] in _FAILED:
            yield Word.WAITS, f"{words}: {instance['errorMessage']}"


def _told_of(case: Case) -> Iterator[tuple[Word, str]]:
    """What `ods drift` finds about an instance or database."""
    subjects = [database.name for database in case.after.databases.values()]
    subjects += [instance["name"] for instance in case.told.instances]
    subjects += case.told.routes.values()
    for finding in case.told.findings:
        if Told(findings=[finding]).names(*subjects):
            yield Word.WAITS, f"{finding['kind']} {finding['subject']}"
