"""Random walks as those of `test_life_cycle`, with a trash: into it, out of it, purged, left."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from ods.model.arguments import Way
from ods.model.operations import Template
from ods.registry.instances.deletes import Delete
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import InstanceError, InstanceNotFoundError, NameTakenError, RefusedError
from ods.tenants.tenant import Tenant
from tests.postgres.instance_states import CONNECTION_STRING, let_time_pass, stores
from tests.postgres.test_life_cycle import EDGES, Model, Token, Walk, token_of

TRASH_EDGES = EDGES | {
    ("Deleted", "Pending"),  # an undelete
    ("Deleted", "InProgress"),  # an operator's `retry` signal to one that has failed
    ("Pending", "Deleted"),  # one that is cancelled before it begins
    ("Deleted", "Pending_Delete"),  # a purge
    ("Delete_Failed", "Pending"),  # an undelete after a purge that has failed
    ("Pending_Delete", "Deleted"),  # a purge that is cancelled before it begins
    ("Delete_Failed", "Completed"),  # a delete that was cancelled before it began, once a rename is undone
}
SEEDS = range(45)
STEPS = 150
_MADE, _DELETED = {"Pending", "Error"}, {"Pending_Delete", "Delete_Failed"}
_STARTS = {"Create": _MADE, "Rename": _MADE, "Undelete": {"Pending", "Deleted"}}
_FAILED = {"Create": "Error", "Rename": "Error", "Undelete": "Deleted"}
_ENDS = {"Create": "Completed", "Rename": "Completed", "Undelete": "Completed"}
_WAITING = {"Create": "Pending", "Rename": "Pending", "Undelete": "Pending"}


@dataclass
class TrashModel(Model):
    """One instance: `kept` while its database can come back, `aside` while its context can."""

    kept: bool = False
    aside: bool = False

    @property
    def live(self) -> bool:
        return self.status != "Deleted" and self.operation != "Purge"

    @property
    def final_name(self) -> str:
        return self.new_name or self.name

    def next_job(self, operation: str, status: str) -> None:
        self.past[self.number] = (self.operation, self.job)
        self.operation, self.status, self.job = operation, status, "Pending"
        self.number, self.attempt = self.number + 1, 0

    def not_found(self) -> bool:
        return not self.live and not self.kept

    def request_way(self, way: Way | None) -> type[InstanceError] | None:
        """A delete: to the trash, or in this way."""
        if not self.live and way is not None and self.kept:
            return RefusedError  # what is in the trash is not detached
        if not self.live:
            return InstanceNotFoundError
        operation = way or "Trash"
        if self.status not in {"Completed", "Error", "Delete_Failed"}:
            return RefusedError
        if operation != "Trash" and self.published and (self.related or self.aside):
            return RefusedError
        self.next_job(str(operation), "Pending_Delete")
        return None

    def request_undelete(self, name: str) -> type[InstanceError] | None:
        if self.not_found():
            return InstanceNotFoundError
        if self.live or self.status not in {"Deleted", "Delete_Failed"} or name == self.stolen:
            return RefusedError
        if self.undo_due and (self.operation, self.final_name) != ("Undelete", name):
            return RefusedError
        self.next_job("Undelete", "Pending")
        self.new_name = None if name == self.name else name
        return None

    def request_purge(self) -> type[InstanceError] | None:
        if self.not_found():
            return InstanceNotFoundError
        if self.live or self.status not in {"Deleted", "Delete_Failed"} or self.undo_due:
            return RefusedError
        self.next_job("Purge", "Pending_Delete")
        return None

    def request_rename(self, name: str) -> type[InstanceError] | None:
        return super().request_rename(name) if self.live else InstanceNotFoundError

    def request_retry(self) -> type[InstanceError] | None:
        if self.not_found() or self.status == "Deleted":
            return InstanceNotFoundError
        return super().request_retry()

    @property
    def obstacle(self) -> bool:
        """Whether the job that has begun must fail."""
        match self.operation:
            case "Rename":
                return self.stolen is not None and self.stolen == self.new_name
            case "Undelete":
                return self.stolen == self.final_name
            case "Delete" | "Detach":
                return self.related
            case _:
                return False

    def begin(self, token: Token) -> bool:
        due = (self.instance_id, self.operation, self.number, self.attempt + 1)
        waits_in_vain = self.operation == "Undelete" and self.status == "Deleted" and self.obstacle
        starts = _STARTS.get(self.operation, _DELETED)
        if token == due and self.is_refused:
            self.end_before_begin()
            return False
        may_begin = self.waits or not self.is_called_off
        if token == due and self.status in starts and may_begin and not waits_in_vain:
            self.status, self.job, self.attempt = "InProgress", "InProgress", self.attempt + 1
            self.begun.add(self.number)
            self.undo_due = self.undo_due or self.operation in {"Rename", "Undelete"}
        held = self.is_at(token) and self.status == "InProgress"
        if held and self.operation == "Trash" and self.routed:
            self.aside, self.related, self.routed = self.related, False, False
        if held and self.operation in {"Delete", "Detach"} and not self.related:
            self.routed = False
        return held

    def finish(self, token: Token, operation: str) -> bool | type[InstanceError]:
        if not self.is_at(token) or self.operation != operation:
            return False
        if self.status == "InProgress":
            target = _ENDS.get(operation, "Deleted")
            if target == "Completed" and self.stolen == self.final_name:
                return NameTakenError
            if target == "Completed":
                self.published = self.routed = True
                self.name = self.final_name
            if operation == "Undelete":
                self.related = self.aside
            if operation in {"Undelete", "Detach", "Delete", "Purge"}:
                self.kept = self.aside = False
            if operation == "Trash":
                self.kept = True
            self.new_name, self.undo_due = None, False
            self.status, self.job = target, "Completed"
        is_cancelled = operation == "Purge" and self.job == "Error"
        return self.status == _ENDS.get(operation, "Deleted") and not is_cancelled

    def fail(self, token: Token, *, cancelled: bool = False) -> bool:
        target = _FAILED.get(self.operation, "Delete_Failed")
        if (cancelled or self.is_called_off) and self.operation == "Purge":
            target = "Deleted"
        if not self.is_at(token):
            return False
        if self.status == "InProgress":
            self.status, self.job = target, "Error"
            if cancelled and self.operation != "Purge":
                self.cancelled = (self.number, self.attempt)
        return (self.status, self.job) == (target, "Error")

    def release(self, token: Token) -> bool:
        target = _WAITING.get(self.operation, "Pending_Delete")
        if not self.is_at(token):
            return False
        is_cancelled_purge = self.operation == "Purge" and self.status == "Deleted" and self.kept
        has_failed = self.status == "Delete_Failed" and self.operation != "Detach"  # which drops nothing
        if self.status == "InProgress" or has_failed or is_cancelled_purge:
            self.status, self.job = target, "Pending"
        return self.status == target

    def end_before_begin(self) -> bool:
        in_trash = {("Undelete", "Pending"), ("Purge", "Pending_Delete")}
        if (self.operation, self.status) in in_trash:
            self.status = "Deleted"
            self.job, self.attempt = "Error", self.attempt + 1
            return True
        return super().end_before_begin()


class TrashWalk(Walk):
    """A walk through the lives of instances that go to the trash and come back."""

    models: list[TrashModel]  # type: ignore[assignment]

    @property
    def model(self) -> TrashModel:
        return self.models[-1]

    @property
    def signals(self) -> float:
        """A failed undelete listens to them as well."""
        return 0.3 if self.model.status in {"Error", "Delete_Failed", "Deleted"} else 0.1

    async def go(self) -> None:
        await self.new_instance()
        steps: list[Callable[[], Awaitable[None]]] = [
            *(self.request_delete, self.request_delete, self.request_undelete, self.request_undelete),
            *(self.request_retry, self.request_rename, self.request_purge, self.request_purge),
            *(self.begin, self.begin, self.begin, self.finish, self.finish),
            *(
                self.fail,
                self.fail,
                self.release,
                self.interfere,
                self.cancel,
                self.cancel_lost,
                self.end_undo,
            ),
        ]
        for _ in range(STEPS):
            before = self.model.status
            await self.chance.choice(steps)()
            for model in self.models:
                await self.compare(model)
            if self.model.status != before:
                self.edges.add((before, self.model.status))
            if self.model.not_found():
                await self.new_instance()

    async def new_instance(self) -> None:
        """The one before is gone for good, and its name is free."""
        await self.rows.execute("DELETE FROM dbo.odsinstancecontexts; DELETE FROM dbo.odsinstances")
        await let_time_pass(self.rows)
        for model in self.models:
            model.routed = model.related = False
        job = (await self.instances.reserve(self.name, Template.MINIMAL)).job
        self.models.append(TrashModel(job.instance_id, self.name))
        self.tokens.append(job)

    async def request_delete(self) -> None:
        way = self.chance.choice([None, None, Way.LEAVE])
        ask = partial(self.instances.request_delete, delete=Delete(way))
        await self.request(ask, self.model.request_way(way))

    async def request_undelete(self) -> None:
        name = self.chance.choice([self.model.name, f"{self.name} x", f"{self.name} y"])
        await self.request(self.instances.request_undelete, self.model.request_undelete(name), name)

    async def request_purge(self) -> None:
        ask = partial(self.instances.request_purge, final_backup=bool(self.model.number % 2))
        await self.request(ask, self.model.request_purge())

    async def begin(self) -> None:
        job = self.token()
        model = next(one for one in self.models if one.instance_id == job.instance_id)
        held = model.begin(token_of(job))
        begun = await self.jobs.begin(job)
        assert begun.held is held
        assert not held or (begun.refusal is not None) is model.obstacle
        if held and job.attempt > self.tokens[-1].attempt and job.number == self.tokens[-1].number:
            self.tokens.append(job)

    async def fail(self) -> None:
        job, cancelled = self.token(), self.chance.random() < 0.25
        expected = self.model_of(job).fail(token_of(job), cancelled=cancelled)
        assert await self.jobs.fail(job, "No luck.", cancelled=cancelled) is expected

    def model_of(self, job: InstanceJob) -> TrashModel:
        model = super().model_of(job)
        assert isinstance(model, TrashModel)
        return model

    async def finish(self) -> None:
        job = self.token()
        others: dict[str, Callable[[InstanceJob], Awaitable[bool]]] = {
            "Create": partial(self.jobs.finish_create, connection_string=CONNECTION_STRING),
            "Rename": partial(self.jobs.finish_rename, connection_string=CONNECTION_STRING),
            "Undelete": partial(self.jobs.finish_undelete, connection_string=CONNECTION_STRING),
            "Purge": self.jobs.finish_purge,
        }
        finish = others.get(job.operation, self.jobs.finish_delete)
        expected = self.model_of(job).finish(token_of(job), job.rules.name)
        try:
            assert await finish(job) is expected
        except NameTakenError:
            assert expected is NameTakenError

    async def compare(self, model: Model) -> None:
        assert isinstance(model, TrashModel)
        row = await self.rows.fetchrow(_STATE, model.instance_id)
        assert row is not None
        state = (model.status, model.operation, model.number, model.attempt, model.job)
        names = (model.name, model.new_name, model.name if model.routed else None)
        is_aside = model.aside or None  # set aside without a context is as good as nothing
        found = (*tuple(row)[:-1], row["aside"] or None)
        assert found == (
            *(*state, model.published, model.undo_due, *names),
            *(model.kept, model.related, is_aside),
        )


_STATE = """
SELECT i.state,
       CASE WHEN (i.arguments ->> 'keep')::boolean THEN 'Trash' ELSE i.operation END,
       i.jobnumber, i.attempt, j.status, own.publishedat IS NOT NULL,
       i.undodue, i.name, i.newname,
       (SELECT name FROM dbo.odsinstances AS o WHERE o.odsinstanceid = i.odsinstanceid),
       own.reason IS NOT NULL,
       EXISTS (SELECT FROM dbo.odsinstancecontexts WHERE odsinstance_odsinstanceid = i.odsinstanceid),
       jsonb_array_length(i.setaside -> 'contexts') > 0 AS aside
FROM adminapi.dbinstances AS i JOIN adminapi.databases AS own ON own.databaseid = i.databaseid
LEFT JOIN adminapi.jobstatuses AS j
ON j.jobid = format('%sInstanceJob-%s-%s',
                    CASE WHEN i.operation = 'Detach' THEN 'Delete' ELSE i.operation END,
                    i.odsinstanceid, i.jobnumber)
WHERE i.id = $1
"""


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_status_moves_along_the_diagram_alone_when_there_is_a_trash(
    tenant: Tenant, rows: asyncpg.Connection, name: str
) -> None:
    walked: set[tuple[str, str]] = set()
    for seed in SEEDS:
        # What the walk before has left may be about to get its context.
        await rows.execute(
            "DELETE FROM adminapi.backups; DELETE FROM adminapi.jobstatuses; DELETE FROM adminapi.dbinstances"
        )
        chance = random.Random(seed)  # noqa: S311 - for repeatable walks
        instances, jobs = stores(tenant.engine, trash=timedelta(days=7))
        walk = TrashWalk(
            chance, instances, jobs, tenant.cancellations, tenant.queries, rows, f"{name} {seed}"
        )
        try:
            await walk.go()
        except AssertionError as error:
            error.add_note(f"on the walk with seed {seed}")
            raise
        walked |= walk.edges
    await rows.execute("DELETE FROM adminapi.audit; DELETE FROM adminapi.backups")
    assert walked == TRASH_EDGES
