"""The clients of a site: what they request and write, and what is remembered of it for the judgement."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from tests.chaos.evidence import Database, Target, client_rows, connected, databases_of, decrypted
from tests.chaos.rows import insert, routed
from tests.chaos.workload import Json, Ledger, Service
from tests.put_back.operations import STEPS, Step
from tests.put_back.site import Site

_SECONDS = 120
_POLL_SECONDS = 0.1
_ENDED = ("Completed", "Error")
_ROUTES = "SELECT odsinstanceid, connectionstring FROM dbo.odsinstances WHERE connectionstring IS NOT NULL"
_MOST = 500


class RefusedError(Exception):
    """A request was refused; the message is the answer."""


def mark_of(instance: str) -> str:
    """What rows carry that clients have written for this instance, such as `A`."""
    return str(uuid5(NAMESPACE_OID, instance))


@dataclass
class Facts:
    """What clients know by a moment.

    Attributes:
        names: the ids of instances, backups and snapshots, by what steps call them.
        holds: the instances whose rows each instance's databases may have.
        owners: the instances that databases are of, by their OIDs: those that the ODS/API was routed to.
        drops: the instances whose databases clients have asked to be dropped.
        detached: the instances whose databases were left to others.
        number: of the row that was written last.
    """

    names: dict[str, str] = field(default_factory=dict)
    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)
    detached: set[str] = field(default_factory=set)
    number: int = 0

    def copy(self) -> "Facts":
        """The same, which does not change with this one."""
        return Facts(
            dict(self.names),
            dict(self.holds),
            dict(self.owners),
            set(self.drops),
            set(self.detached),
            self.number,
        )

    def instance(self, number: int) -> str | None:
        """What steps call the instance with this id."""
        return next((it for it in self.holds if self.names.get(it) == str(number)), None)


@dataclass(frozen=True)
class Held:
    """What the server holds at a moment: its databases, and the rows of clients in each, by OID."""

    databases: Mapping[int, Database]
    rows: Mapping[int, Mapping[int, str]]


class Scene:
    """Clients that work with a site whose API serves.

    Args:
        site: the site.
        facts: what they know; it is added to.
    """

    def __init__(self, site: Site, facts: Facts) -> None:
        self._target = site.target
        self.service = Service(site.url, site.credentials, Ledger(), _SECONDS)
        self.facts = facts

    async def request(self, step: str) -> "Requested":
        """Request a step.

        Raises:
            RefusedError: it was refused.
        """
        wanted, facts = STEPS[step], self.facts
        if wanted.method == "SQL":
            facts.names[f"{wanted.of}_database"] = await self._database(wanted.of)
            async with connected(self._target.master_dsn) as server:
                await server.execute(wanted.path.format_map(facts.names))
            return Requested(wanted, {})
        body = _filled(wanted.body, facts.names)
        answer = await self.service.send(wanted.method, wanted.path.format_map(facts.names), body)
        if not answer.is_success:
            raise RefusedError(f"{step}: {answer.status_code} {answer.text}")
        requested = Requested(wanted, answer.json() if answer.content else {})
        self._learn(step, requested)
        return requested

    def _learn(self, step: str, requested: "Requested") -> None:
        facts, of, answer = self.facts, requested.step.of, requested.answer
        if "odsInstanceId" in answer:
            facts.names[of], facts.names[f"{of}_ods"] = str(answer["id"]), str(answer["odsInstanceId"])
            facts.holds.setdefault(of, (of, *requested.step.holds))
        for name, member in (("backup", "backupId"), ("snapshot", "snapshotId")):
            if answer.get(member) is not None:
                facts.names[name] = str(answer[member])
        if requested.step.drops:
            facts.drops.add(of)
        if step == "detach":
            facts.detached.add(of)

    async def ended(self, requested: "Requested") -> None:
        """Wait until what was requested has ended, in whichever way.

        Raises:
            TimeoutError: it has not for a minute.
        """
        async with asyncio.timeout(_SECONDS):
            for job in requested.jobs:
                while (await self.job_status(job)) not in _ENDED:
                    await asyncio.sleep(_POLL_SECONDS)

    async def job_status(self, job: str) -> str | None:
        """The status of a job; None if there is none yet."""
        answer = await self.service.send("GET", f"/v2/jobs/{job}")
        return str(answer.json()["status"]) if answer.is_success else None

    async def listed(self, path: str) -> list[Json]:
        """The items of a list of the API."""
        answer = await self.service.send("GET", path)
        return list(answer.json()) if answer.is_success else []

    async def write(self) -> None:
        """Write a row to the database of each instance that the ODS/API is routed to."""
        for number, pairs in (await routes(self._target)).items():
            instance = self.facts.instance(number)
            if instance is None:
                continue
            async with routed(pairs) as session:
                self.facts.number += 1
                await insert(session, self.facts.number, mark_of(instance))
        await self.note_owners()

    async def note_owners(self) -> None:
        """Note which databases are instances' own."""
        by_name = {database.name: database for database in await databases_of(self._target)}
        for number, pairs in (await routes(self._target)).items():
            instance, database = self.facts.instance(number), by_name.get(pairs["database"])
            if instance is not None and database is not None:
                self.facts.owners[database.oid] = instance

    async def _database(self, instance: str) -> str:
        answer = await self.service.send("GET", f"/v2/dbInstances/{self.facts.names[instance]}")
        return str(answer.json()["databaseName"])


@dataclass(frozen=True)
class Requested:
    """A step that was accepted, and the answer."""

    step: Step
    answer: Json

    @property
    def jobs(self) -> Sequence[str]:
        """The jobs that carry it out, one after the other."""
        members = ("jobId", "purgeJobId")
        return [self.answer[member] for member in members if self.answer.get(member) is not None]


@asynccontextmanager
async def scene_at(site: Site, facts: Facts) -> AsyncIterator[Scene]:
    """Clients at work, as long as the block lasts."""
    scene = Scene(site, facts)
    try:
        yield scene
    finally:
        await scene.service.close()


async def read_server(target: Target) -> Held:
    """What the server holds; closed databases are opened for as long as they are read."""
    found = [database for database in await databases_of(target) if _may_hold_rows(database)]
    rows = await client_rows(target, found)
    return Held({one.oid: one for one in found}, {one.oid: rows[one.name] for one in found})


def _may_hold_rows(database: Database) -> bool:
    built_in = database.name in {"postgres", "template0", "template1"} or database.name.endswith("_Template")
    return not (built_in or database.invalid)


async def routes(target: Target) -> dict[int, dict[str, str]]:
    """Where the ODS/API is led to, by OdsInstanceId: the pairs of each connection string."""
    async with connected(target.admin_dsn) as registry:
        rows = await registry.fetch(_ROUTES)
    return {row[0]: decrypted(row[1], target.encryption_key) for row in rows}


def _filled(body: Mapping[str, Any] | None, names: Mapping[str, str]) -> Json | None:
    """The body with names filled in; an id of an instance is a number."""
    if body is None:
        return None
    filled = {member: str(value).format_map(names) for member, value in body.items()}
    return {name: int(text) if name == "copyOf" else text for name, text in filled.items()}
