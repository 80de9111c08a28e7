"""Random walks over everything the registry can be asked, against a model made from the diagram alone.

Tokens of earlier jobs, attempts and instances are played again and again: as late activities would.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import asyncpg
import pytest

from ods.model.operations import Template
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.store import InstanceStore, Requested
from ods.registry.storage.errors import InstanceError, InstanceNotFoundError, NameTakenError, RefusedError
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, stores

EDGES = {
    ("Pending", "InProgress"),
    ("InProgress", "Completed"),
    ("InProgress", "Error"),
    ("Error", "Pending"),
    ("Error", "InProgress"),  # an operator's `retry` signal: through `Pending` without a stop
    ("Completed", "Pending_Delete"),
    ("Error", "Pending_Delete"),
    ("Pending_Delete", "InProgress"),
    ("InProgress", "Deleted"),
    ("InProgress", "Delete_Failed"),
    ("Delete_Failed", "Pending_Delete"),
    ("Delete_Failed", "InProgress"),  # as above
    ("InProgress", "Pending"),  # the reconcile pass puts back what a lost workflow has left
    ("InProgress", "Pending_Delete"),
    ("Completed", "Pending"),  # a rename
    ("Pending", "Error"),  # a job that is cancelled before it begins
    ("Pending_Delete", "Delete_Failed"),
    ("Pending_Delete", "Completed"),  # as above, while the ODS/API routes to the instance
    ("Pending", "Completed"),  # a rename that is cancelled before it begins
}
SEEDS = range(20)
STEPS = 90

Token = tuple[int, str, int, int]


def token_of(job: InstanceJob) -> Token:
    return (job.instance_id, job.rules.name, job.number, job.attempt)


@dataclass
class Model:
    """One instance, as the diagram and the rules of the registry have it."""

    instance_id: int
    name: str
    status: str = "Pending"
    operation: str = "Create"
    number: int = 1
    attempt: int = 0
    job: str = "Pending"
    published: bool = False
    routed: bool = False
    related: bool = False
    new_name: str | None = None
    stolen: str | None = None
    undo_due: bool = False
    cancelled: tuple[int, int] | None = None
    begun: set[int] = field(default_factory=set)
    past: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def has_failed_rename(self) -> bool:
        """Whether the last job that has begun is a rename that failed."""
        jobs = self.past | {self.number: (self.operation, self.job)}
        return bool(self.begun) and jobs[max(self.begun)] == ("Rename", "Error")

    def is_at(self, token: Token) -> bool:
        return token == (self.instance_id, self.operation, self.number, self.attempt)

    def request_delete(self) -> type[InstanceError] | None:
        if self.status == "Deleted":
            return InstanceNotFoundError
        if self.status not in {"Completed", "Error", "Delete_Failed"} or self.related:
            return RefusedError
        self.past[self.number] = (self.operation, self.job)
        self.status, self.operation, self.job = "Pending_Delete", "Delete", "Pending"
        self.number, self.attempt = self.number + 1, 0
        return None

    def request_rename(self, name: str) -> type[InstanceError] | None:
        if self.status == "Deleted":
            return InstanceNotFoundError
        if self.status != "Completed" and (self.status, self.operation) != ("Error", "Rename"):
            return RefusedError
        if name == self.stolen:
            return NameTakenError
        if self.undo_due and (self.operation, self.new_name) != ("Rename", name):
            return RefusedError
        self.past[self.number] = (self.operation, self.job)
        self.status, self.operation, self.job = "Pending", "Rename", "Pending"
        self.number, self.attempt, self.new_name = self.number + 1, 0, name
        return None

    def request_retry(self) -> type[InstanceError] | None:
        if self.status == "Deleted":
            return InstanceNotFoundError
        if self.status not in {"Error", "Delete_Failed"}:
            return RefusedError
        self.status = "Pending" if self.status == "Error" else "Pending_Delete"
        self.job = "Pending"
        return None

    def begin(self, token: Token) -> bool:
        made, deleted = {"Pending", "Error"}, {"Pending_Delete", "Delete_Failed"}
        starts = {"Create": made, "Rename": made, "Delete": deleted}
        due = (self.instance_id, self.operation, self.number, self.attempt + 1)
        if token == due and self.is_refused:
            self.end_before_begin()
            return False
        may_begin = self.waits or not self.is_called_off
        if token == due and self.status in starts[self.operation] and may_begin:
            self.status, self.job, self.attempt = "InProgress", "InProgress", self.attempt + 1
            self.begun.add(self.number)
            self.undo_due = self.undo_due or self.operation == "Rename"
        held = self.is_at(token) and self.status == "InProgress"
        if held and self.operation == "Delete" and not self.related:
            self.routed = False
        return held

    def finish(self, token: Token, operation: str) -> bool | type[InstanceError]:
        target = {"Create": "Completed", "Rename": "Completed", "Delete": "Deleted"}[operation]
        if not self.is_at(token) or self.operation != operation:
            return False
        if self.status == "InProgress":
            if operation != "Delete":
                if self.stolen == (self.new_name or self.name):
                    return NameTakenError
                self.published = self.routed = True
                self.name = self.new_name or self.name
            self.new_name, self.undo_due = None, False
            self.status, self.job = target, "Completed"
        return self.status == target

    def fail(self, token: Token) -> bool:
        target = {"Create": "Error", "Rename": "Error", "Delete": "Delete_Failed"}[self.operation]
        if not self.is_at(token):
            return False
        if self.status == "InProgress":
            self.status, self.job = target, "Error"
        return self.status == target

    def release(self, token: Token) -> bool:
        target = {"Create": "Pending", "Rename": "Pending", "Delete": "Pending_Delete"}[self.operation]
        if not self.is_at(token) or self.is_to_end(token):
            return False
        if self.status in {"InProgress", "Delete_Failed"}:
            self.status, self.job = target, "Pending"
        return self.status == target

    def record_cancel(self, token: Token) -> bool:
        if not self.is_at(token) or self.status != "InProgress":
            return False
        self.cancelled = (self.number, self.attempt)
        return True

    def is_to_end(self, token: Token) -> bool:
        return self.is_at(token) and self.status == "InProgress" and self.is_called_off

    def cancel(self) -> bool:
        """Cancel the job that waits, if one does."""
        if not self.end_before_begin():
            return False
        self.cancelled = (self.number, self.attempt)
        return True

    def end_before_begin(self) -> bool:
        """End the job that waits, if one does."""
        if self.status == "Pending":
            works = self.operation == "Rename" and self.attempt == 0 and not self.has_failed_rename
        elif self.status == "Pending_Delete":
            works = self.is_whole
        else:
            return False
        self.job = "Error"
        if works:
            self.status, self.new_name = "Completed", None
        else:
            self.status = "Error" if self.status == "Pending" else "Delete_Failed"
            self.attempt += 1
        return True

    @property
    def waits(self) -> bool:
        """Whether its job waits to begin."""
        return self.status in {"Pending", "Pending_Delete"}

    @property
    def is_called_off(self) -> bool:
        """Whether a client has cancelled the last attempt."""
        return self.cancelled == (self.number, self.attempt)

    @property
    def is_whole(self) -> bool:
        """Whether an instance whose delete has not begun works as before."""
        return self.routed and self.published and not self.undo_due

    @property
    def is_refused(self) -> bool:
        """Whether the delete that waits does not begin, since others use the instance."""
        in_use = self.related and self.published and self.operation in {"Delete", "Detach"}
        return in_use and self.status == "Pending_Delete"

    def end_undo(self, token: Token) -> None:
        if self.is_at(token) and self.status in {"Completed", "Error", "Deleted", "Delete_Failed"}:
            was_due, self.undo_due = self.undo_due, False
            has_begun = self.number in self.begun
            if was_due and self.status == "Delete_Failed" and not has_begun and self.is_whole:
                self.status, self.new_name = "Completed", None

    def cancel_lost(self, token: Token) -> bool:
        if not self.is_at(token) or self.status != "InProgress":
            return False
        self.cancelled = None
        self.release(token)
        return self.cancel()


def half_dropped(job: InstanceJob) -> dict[str, str]:
    """What a pass sees when a DROP of the job's database was interrupted: such a delete is tried again."""
    names = filter(None, (job.database, job.new_database, job.trash_database))
    return dict.fromkeys(names, job.mark)


@dataclass
class Walk:
    """One walk through the lives of some instances; `tokens` are all attempts that ever were due."""

    chance: random.Random
    instances: InstanceStore
    jobs: JobStore
    cancellations: JobCancellations
    queries: InstanceQueries
    rows: asyncpg.Connection
    name: str
    tokens: list[InstanceJob] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    edges: set[tuple[str, str]] = field(default_factory=set)

    async def go(self) -> None:
        await self.new_instance()
        steps: list[Callable[[], Awaitable[None]]] = [
            *(self.request_delete, self.request_retry, self.request_rename, self.begin, self.begin),
            *(self.finish_create, self.finish_delete, self.finish_rename),
            *(self.fail, self.fail, self.release, self.interfere),
            *(self.cancel, self.record_cancel, self.cancel_lost, self.end_undo),
        ]
        for _ in range(STEPS):
            before = self.model.status
            await self.chance.choice(steps)()
            for model in self.models:
                await self.compare(model)
            if self.model.status != before:
                self.edges.add((before, self.model.status))
            if self.model.status == "Deleted" and self.chance.random() < 0.3:
                await self.new_instance()

    async def new_instance(self) -> None:
        """Free the name, also of the ODS instance of a deletion that was finished against a refusal."""
        await self.rows.execute("DELETE FROM dbo.odsinstancecontexts")
        await self.rows.execute("DELETE FROM dbo.odsinstances")
        for model in self.models:
            model.routed = False
        job = (await self.instances.reserve(self.name, Template.MINIMAL)).job
        self.models.append(Model(job.instance_id, self.name))
        self.tokens.append(job)

    @property
    def model(self) -> Model:
        """The instance that lives; those before it are deleted."""
        return self.models[-1]

    def model_of(self, job: InstanceJob) -> Model:
        return next(model for model in self.models if model.instance_id == job.instance_id)

    def token(self) -> InstanceJob:
        """Mostly the latest, often an older one, or the one an operator's signal would make."""
        job = self.tokens[-1] if self.chance.random() < 0.7 else self.chance.choice(self.tokens)
        return replace(job, attempt=job.attempt + 1) if self.chance.random() < self.signals else job

    @property
    def signals(self) -> float:
        """How often an operator signals, from 0 to 1: more often where a job has failed."""
        return 0.3 if self.model.status in {"Error", "Delete_Failed"} else 0.1

    async def request_delete(self) -> None:
        await self.request(self.instances.request_delete, self.model.request_delete())

    async def request_retry(self) -> None:
        await self.request(self.instances.request_retry, self.model.request_retry())

    async def request_rename(self) -> None:
        name = self.name + self.chance.choice(["", " x", " y"])
        await self.request(self.instances.request_rename, self.model.request_rename(name), name)

    async def request(
        self, ask: Callable[..., Awaitable[Requested]], refusal: type | None, *words: str
    ) -> None:
        requested, refused = None, None
        try:
            requested = await ask(self.model.instance_id, *words)
        except InstanceError as error:
            refused = type(error)
        assert refused is refusal
        if requested is not None:
            job, model = requested.job, self.model
            assert token_of(job) == (model.instance_id, model.operation, model.number, model.attempt + 1)
            assert job.published is model.published
            self.tokens.append(job)

    async def begin(self) -> None:
        job = self.token()
        model = self.model_of(job)
        held = model.begin(token_of(job))
        begun = await self.jobs.begin(job)
        assert begun.held is held
        obstacles = {
            "Create": False,
            "Delete": model.related,
            "Rename": model.stolen is not None and model.stolen == model.new_name,
        }
        assert (begun.refusal is not None) is (held and obstacles[job.rules.name])
        if held and job.attempt > self.tokens[-1].attempt and job.number == self.tokens[-1].number:
            self.tokens.append(job)

    async def finish_create(self) -> None:
        job = self.token()
        expected = self.model_of(job).finish(token_of(job), "Create")
        try:
            assert await self.jobs.finish_create(job, CONNECTION_STRING) is expected
        except NameTakenError:
            assert expected is NameTakenError

    async def finish_rename(self) -> None:
        job = self.token()
        expected = self.model_of(job).finish(token_of(job), "Rename")
        try:
            assert await self.jobs.finish_rename(job, CONNECTION_STRING) is expected
        except NameTakenError:
            assert expected is NameTakenError

    async def finish_delete(self) -> None:
        job = self.token()
        expected = self.model_of(job).finish(token_of(job), "Delete")
        assert await self.jobs.finish_delete(job) is expected

    async def fail(self) -> None:
        job = self.token()
        expected = self.model_of(job).fail(token_of(job))
        assert await self.jobs.fail(job, "No luck.") is expected

    async def release(self) -> None:
        job = self.token()
        released = self.model_of(job).release(token_of(job))
        due = replace(job, attempt=job.attempt + 1)
        assert await self.jobs.release(job, half_dropped(job)) == (due if released else None)
        if released:
            self.tokens.append(due)

    async def cancel(self) -> None:
        token = self.token()
        job = await self.queries.job(token.job_id)
        assert job is not None
        model = self.model_of(token)
        is_last = (model.operation, model.number) == (token.rules.name, token.number)
        assert await self.cancellations.cancel_waiting(job) is (is_last and model.cancel())

    async def record_cancel(self) -> None:
        job = self.token()
        assert await self.cancellations.record(job) is self.model_of(job).record_cancel(token_of(job))
        assert await self.cancellations.is_cancelled(job) is self.model_of(job).is_to_end(token_of(job))

    async def cancel_lost(self) -> None:
        job = self.token()
        expected = self.model_of(job).cancel_lost(token_of(job))
        assert await self.cancellations.cancel_lost(job) is expected

    async def end_undo(self) -> None:
        job = self.token()
        self.model_of(job).end_undo(token_of(job))
        await self.jobs.end_undo(job)

    async def interfere(self) -> None:
        """Rows of other instances come and go."""
        if self.model.routed and not self.model.related:
            await self.rows.execute(
                "INSERT INTO dbo.odsinstancecontexts (odsinstance_odsinstanceid, contextkey, contextvalue)"
                " VALUES ($1, 'k', 'v')",
                self.tokens[-1].ods_instance_id,
            )
            self.model.related = True
        elif self.model.related:
            await self.rows.execute("DELETE FROM dbo.odsinstancecontexts")
            self.model.related = False
        elif self.model.stolen:
            await self.rows.execute("DELETE FROM dbo.odsinstances WHERE instancetype = 'stolen'")
            self.model.stolen = None
        elif self.model.operation != "Delete":
            self.model.stolen = self.model.new_name or self.model.name
            await self.rows.execute(
                "INSERT INTO dbo.odsinstances (name, instancetype) VALUES ($1, 'stolen')", self.model.stolen
            )

    async def compare(self, model: Model) -> None:
        row = await self.rows.fetchrow(
            "SELECT i.status, i.operation, i.jobnumber, i.attempt, j.status, own.publishedat IS NOT NULL,"
            " i.undodue, i.name, i.newname,"
            " (SELECT name FROM dbo.odsinstances AS o WHERE o.odsinstanceid = i.odsinstanceid)"
            " FROM adminapi.dbinstances AS i JOIN adminapi.databases AS own ON own.databaseid = i.databaseid"
            " LEFT JOIN adminapi.jobstatuses AS j"
            " ON j.jobid = format('%sInstanceJob-%s-%s', i.operation, i.odsinstanceid, i.jobnumber)"
            " WHERE i.id = $1",
            model.instance_id,
        )
        assert row is not None
        state = (model.status, model.operation, model.number, model.attempt, model.job)
        names = (model.name, model.new_name, model.name if model.routed else None)
        assert tuple(row) == (*state, model.published, model.undo_due, *names)


@pytest.mark.long
async def test_status_moves_along_the_diagram_alone_when_anything_is_asked_in_any_order(
    tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    walked: set[tuple[str, str]] = set()
    for seed in SEEDS:
        chance = random.Random(seed)  # noqa: S311 - for repeatable walks
        instances, _ = stores(tenant.engine)  # without a trash, whose steps have tests of their own
        walk = Walk(
            chance, instances, tenant.jobs, tenant.cancellations, tenant.queries, rows, f"{name} {seed}"
        )
        try:
            await walk.go()
        except AssertionError as error:
            error.add_note(f"on the walk with seed {seed}")
            raise
        walked |= walk.edges
    assert walked == EDGES
