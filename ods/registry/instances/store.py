"""What requests do with instances: each is recorded together with the job that carries it out."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    Interval,
    Text,
    all_,
    and_,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased

from ods.model.arguments import (
    DROP_AT_ONCE,
    NO_ARGUMENTS,
    Arguments,
    DeleteArguments,
    MakeArguments,
    PurgeArguments,
    Way,
    origin_in,
    rules_of_way,
)
from ods.model.operations import DELETABLE, RULES, InstanceStatus, JobStatus, Operation, Step
from ods.model.origins import FROM_TEMPLATE, CopyOrigin, EarlierDatabase, Origin
from ods.model.revisions import TrashReason
from ods.registry.backups.rows import FINAL, SCHEDULED, add_backup
from ods.registry.instances import copies, ods_routing, refusals
from ods.registry.instances.admin_api import moved_to_trash
from ods.registry.instances.attributes import UNCHANGED, AttributeChanges, change_attributes
from ods.registry.instances.contexts import CONTEXT_CONFLICTS, lock_contexts, require_free_contexts
from ods.registry.instances.deletes import PLAIN_DELETE, Delete, DeleteRules
from ods.registry.instances.jobs import InstanceJob, Replacement
from ods.registry.instances.naming import database_name, name_errors
from ods.registry.instances.reservations import (
    lock_instances,
    lock_name,
    lock_with_source,
    require_free,
    reserved_id,
)
from ods.registry.instances.revisions import revisions_of
from ods.registry.instances.steps import JobFactory, job_record, readable
from ods.registry.instances.versions import version_to_bring_back, versions_of
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.schedules.frequency import BACKUP_LABEL, SNAPSHOT_LABEL
from ods.registry.schedules.participants import serve
from ods.registry.snapshots import rows as snapshots
from ods.registry.storage.errors import (
    DerivativeTakenError,
    InstanceNotFoundError,
    InvalidError,
    NameTakenError,
    RefusedError,
    require_granted,
    require_valid,
)
from ods.registry.storage.models import UTC_NOW, DbInstance, InstanceDatabase, Job, Snapshot, is_own
from ods.registry.storage.sessions import NO_CONFLICTS, Conflicts, RegistrySessions
from ods.registry.storage.unit_of_work import unit_of_work

_TOGETHER = 0x4F644254
"""The lock of a transaction with several requests."""

# A purge drops the versions from before resets as well: so it waits until their time is over, too.
_HAS_LATER_VERSION = exists().where(*versions_of(DbInstance.id), InstanceDatabase.purge_after > UTC_NOW)
_OWN = aliased(InstanceDatabase)
# After a failed undelete, nothing is purged automatically.
_PURGE_IS_DUE = (
    _OWN.reason == TrashReason.DELETED,
    DbInstance.status == InstanceStatus.DELETED,
    DbInstance.goes_to_trash,
    or_(and_(_OWN.purge_after <= UTC_NOW, ~_HAS_LATER_VERSION), DbInstance.backup_first),
    ~DbInstance.is_protected,
    DbInstance.replacement.is_(None),
    ~DbInstance.undo_due,
)


@dataclass(frozen=True)
class Requested:
    """An instance as a request left it, and the job that carries the request out."""

    instance: DbInstance
    job: InstanceJob


@dataclass(frozen=True)
class RequestedSnapshot(Requested):
    """A requested snapshot as well."""

    snapshot: Snapshot


class InstanceStore:
    """The requests for one tenant's instances.

    Each is one transaction, which also records the job that carries the request out, if it needs one. `by` is
    the client that requests it, if it is known. `due_at` is the time of a schedule.

    A deleted instance can come back as long as `trash` says; if that is zero, its database is dropped at
    once. `protect_new` and `final_backup` hold for requests that do not say otherwise. Without `strings`, the
    connection strings of others stay as they are, and keep nothing from being deleted.
    """

    def __init__(  # noqa: PLR0913 - what the operator has set, beside the registry
        self,
        engine: AsyncEngine,
        factory: JobFactory,
        trash: timedelta = timedelta(),
        *,
        protect_new: bool = False,
        final_backup: bool = False,
        strings: ods_routing.ConnectionStrings = ods_routing.UNREADABLE,
    ) -> None:
        self._engine = engine
        self._sessions = RegistrySessions(engine)
        self._factory = factory
        self.installation = factory.installation
        self._protect_new = protect_new
        self._trash = trash
        self.deletes = DeleteRules(trash, final_backup=final_backup)
        self._strings = strings

    async def reserve(
        self,
        name: str,
        template: str,
        attributes: AttributeChanges = UNCHANGED,
        origin: Origin = FROM_TEMPLATE,
    ) -> Requested:
        """Reserve an OdsInstanceId, and record under this id that an instance of this name shall be created.

        A copy has the template of its source, whatever `template` says. What is copied or restored is held
        from now on.
        """
        await self.installation.require_confirmed()
        conflicts = refusals.name_conflicts(name, database_name(name, template))
        async with self._sessions.transaction(conflicts) as session:
            source = await _require_new(session, name, template, attributes, origin)
            template = template if source is None else source.database_template
            number = await reserved_id(session)
            row = insert(DbInstance).values(
                id=number,
                name=name,
                database_template=template,
                database_name=database_name(name, template),
                ods_instance_id=number,
                status=RULES[Operation.CREATE].waits,
                operation=Operation.CREATE,
                arguments_column=asdict(MakeArguments(copies.made_of(origin, source))),
                job_number=1,
                last_refreshed=UTC_NOW,
                last_modified=UTC_NOW,
                is_protected=self._protect_new if attributes.protected is None else attributes.protected,
                description=attributes.description or None,
                labels=dict(attributes.labels or {}) or None,
                own_contexts=dict(attributes.contexts or {}) or None,
            )
            instance = (await session.scalars(row.returning(DbInstance))).one()
            if origin != FROM_TEMPLATE:
                instance.database.origin_column = asdict(copies.made_of(origin, source))
            if source is not None:
                instance.database.template_generation = source.database.template_generation
            return self._with_job(session, Requested(instance, self._factory.next_attempt(instance)))

    async def require_reservable(
        self, name: str, template: str, attributes: AttributeChanges, origin: Origin
    ) -> None:
        """Raise what `reserve` would, and change nothing."""
        async with self._sessions.transaction() as session:
            await _require_new(session, name, template, attributes, origin)

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """One transaction of all requests that are made in the block: none of them counts if that raises.

        Such blocks follow each other: two of them cannot wait for names that the other one has.
        """
        async with unit_of_work(self._engine) as connection:
            await connection.execute(select(func.pg_advisory_xact_lock(_TOGETHER)))
            yield

    async def lock_parts(
        self, sources: Collection[int], names: Collection[str], contexts: Collection[Mapping[str, str]]
    ) -> None:
        """Lock what requests for several new instances lock one by one, at once in the block of `together`.

        First the `sources` to be copied, then the names of the new instances and of their databases, then the
        contexts of each, as a request for one instance does: in another order, two requests could wait for
        each other.
        """
        async with self._sessions.transaction() as session:
            await lock_instances(session, sources)
            await lock_name(session, *names)
            for one in contexts:
                await lock_contexts(session, one)

    async def lock(self, ids: Collection[int]) -> None:
        """Lock these instances at once, in the block of `together`, before requests for each of them."""
        async with self._sessions.transaction() as session:
            await lock_instances(session, ids)

    async def change_attributes(self, instance_id: int, changes: AttributeChanges) -> DbInstance:
        """Change what clients say about the instance; needs no job. Returns the instance as it is then."""
        async with self._locked(instance_id, CONTEXT_CONFLICTS) as (session, instance):
            if changes != UNCHANGED:
                await change_attributes(session, instance, changes)
                instance.last_modified = UTC_NOW
            await session.flush()
            await session.refresh(instance)
            return instance

    async def request_delete(self, instance_id: int, delete: Delete = PLAIN_DELETE) -> Requested:
        """Record that the instance shall be deleted, as a new job; or purged, if it is in the trash."""
        async with self._locked(instance_id, in_trash=delete.way is not None) as (session, instance):
            require_granted(await self._delete_refusals(session, instance, delete))
            if instance.is_in_trash:
                return await self._purged(session, instance, delete)
            return await self.request_delete_in(session, instance, delete)

    async def require_deletable(self, instance_id: int, delete: Delete = PLAIN_DELETE) -> DbInstance:
        """Raise what `request_delete` would, and change nothing; returns the instance."""
        async with self._sessions.statement() as session:
            instance = await refusals.found_instance(session, instance_id, in_trash=delete.way is not None)
            require_granted(await self._delete_refusals(session, instance, delete))
            return instance

    async def _delete_refusals(
        self, session: AsyncSession, instance: DbInstance, delete: Delete
    ) -> list[RefusedError]:
        """Every reason for which the instance cannot be deleted, or purged if it is in the trash."""
        if instance.is_in_trash:
            return refusals.purge_refusals(instance, delete.way)
        state = refusals.state_refusals(instance, DELETABLE, "deleted")
        held = await copies.hold_refusal(session, instance)
        found = [*state, *filter(None, [refusals.protection_refusal(instance), held])]
        if not self.deletes.can_come_back(instance, delete):
            forgotten = self.deletes.forgotten_contexts(instance, delete)
            found += refusals.set_aside_refusals(instance, forgotten, self.deletes.way(instance, delete))
        if relations := await self._relations_in_the_way(session, instance, delete):
            next_step = f"Remove the {', '.join(relations)} that refer to it, then delete it."
            found.append(RefusedError(instance.status, ods_routing.relations_reason(relations), next_step))
        if others := await self.others_in_the_way(session, instance, delete):
            reason = ods_routing.others_reason(others)
            found.append(RefusedError(instance.status, reason, ods_routing.OTHERS_NEXT_STEP))
        return found

    async def _relations_in_the_way(
        self, session: AsyncSession, instance: DbInstance, delete: Delete
    ) -> list[str]:
        """The kinds of rows that refer to the instance's ODS instance, and are in the way.

        What was never created has none: one that has its id is another product's.
        """
        if not instance.is_published:
            return []
        if self.deletes.can_come_back(instance, delete):
            return await ods_routing.lasting_relations_of(session, instance.ods_instance_id)
        forgotten = self.deletes.forgotten_contexts(instance, delete)
        return await ods_routing.relations_of(session, instance.ods_instance_id, forgotten)

    async def others_in_the_way(
        self, session: AsyncSession, instance: DbInstance, delete: Delete
    ) -> Mapping[int, str]:
        """Other ODS instances that lead to the instance's database, by id; none for a detach: it stays.

        Their clients would lose it, and be led to that of the next instance of the name. What was never
        created has no database: one that has the name is another product's.
        """
        if not instance.is_published or rules_of_way(self.deletes.way(instance, delete)).releases:
            return {}
        number, database = instance.ods_instance_id, instance.database_name
        return await ods_routing.others_leading_to(session, number, database, self._strings)

    async def request_delete_in(
        self, session: AsyncSession, instance: DbInstance, delete: Delete
    ) -> Requested:
        """Record, in the caller's transaction, that `instance` shall be deleted; the caller has locked it.

        The names that a failed rename has reserved stay: the database may have the new one.
        """
        instance.database.trashed_by = delete.by
        match way := self.deletes.way(instance, delete):
            case Way.TRASH:
                backup_first = self.deletes.backs_up(instance, delete)
                end = None if backup_first else UTC_NOW + literal(self._trash, Interval)
                instance.database.purge_after = end
                kept = DeleteArguments(keep=True, backup_first=backup_first)
                return await self._next_job(session, instance, Operation.DELETE, kept)
            case Way.DROP:
                return await self._next_job(session, instance, Operation.DELETE, DROP_AT_ONCE)
            case Way.LEAVE:
                return await self._next_job(session, instance, Operation.DETACH)
            case _:
                assert_never(way)

    async def request_purge(self, instance_id: int, *, final_backup: bool = False) -> Requested:
        """Record that the database of the instance shall be dropped from the trash, and from nowhere else."""
        async with self._locked(instance_id, in_trash=True) as (session, instance):
            if not instance.is_in_trash:
                raise RefusedError(
                    instance.status,
                    "The instance is not in the trash: nothing was dropped.",
                    "It may have been undeleted, and be in use. If it shall go all the same: DELETE"
                    f" /v2/dbInstances/{instance_id}, with ?purge=true if it shall not come back.",
                )
            delete = Delete(Way.DROP, final_backup=final_backup)
            require_granted(refusals.purge_refusals(instance, delete.way))
            return await self._purged(session, instance, delete)

    async def request_purge_after(self, trashed: InstanceJob) -> InstanceJob | None:
        """Record the purge that was requested together with the delete `trashed`, which is done.

        Safe to repeat. Returns its job; None if none is to follow any more, as after an undelete.
        """
        await self.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            instance = await session.get(DbInstance, trashed.instance_id, with_for_update=True)
            if instance is None or instance.mark != UUID(trashed.mark):
                return None
            follows = (Operation.PURGE, InstanceStatus.PENDING_DELETE, trashed.number + 1)
            is_there = (instance.operation, instance.status, instance.job_number) == follows
            if is_there and instance.backup_first:
                return self._factory.next_attempt(instance)
            done = (InstanceStatus.DELETED, UUID(trashed.request))
            is_done = (instance.status, instance.request) == done
            if not (is_done and instance.is_in_trash and instance.backup_first):
                return None
            if refusals.protection_refusal(instance) is not None or instance.replacement is not None:
                return None
            return (await self._purged(session, instance, Delete(Way.DROP, final_backup=True))).job

    async def _purged(self, session: AsyncSession, instance: DbInstance, delete: Delete) -> Requested:
        """Record that the database of an instance in the trash is dropped, perhaps after a backup."""
        require_granted(refusals.not_undone_refusals(instance))
        if instance.rules.to_trash and instance.backup_first:
            instance.database.purge_after = UTC_NOW
        arguments = PurgeArguments(self.deletes.backs_up(instance, delete))
        requested = await self._next_job(session, instance, Operation.PURGE, arguments)
        if arguments.backup_first:
            await add_backup(session, instance, requested.job, FINAL)
        return requested

    async def is_purge_due(self) -> bool:
        """Whether the time of an instance in the trash is over."""
        due = select(DbInstance.id).join(_OWN, is_own(_OWN)).where(*_PURGE_IS_DUE)
        return await self._sessions.finds(due.limit(1))

    async def request_due_purges(
        self, limit: int, usable: Collection[str], marks: Collection[str] = ()
    ) -> list[Requested]:
        """Record that up to `limit` instances shall be purged: those whose time was over first.

        One whose purge or undelete has failed waits for the operator. So does one whose own database is lost
        while another one of it is on the server, and its time begins anew: what the operator then puts in
        place of the lost one is not due at once. `usable` are the names of all databases on the server that
        are not half dropped; `marks`, the instances that these belong to, by their comments.
        """
        await self.installation.require_confirmed()
        due = select(DbInstance).join(_OWN, is_own(_OWN)).where(*_PURGE_IS_DUE)
        due = due.order_by(_OWN.purge_after, DbInstance.id).with_for_update(skip_locked=True)
        is_lost = _OWN.trash_name != all_(literal(list(usable), ARRAY(Text)))
        waits = and_(is_lost, DbInstance.mark.in_([UUID(mark) for mark in marks]))
        async with self._sessions.transaction() as session:
            for row in (await session.scalars(due.where(waits))).all():
                row.database.purge_after = await end_of(session, KEPT_IN_DOUBT)
        async with self._sessions.transaction() as session:
            due = due.where(not_(waits)).limit(limit)
            return [
                await self._purged(session, row, Delete(Way.DROP, final_backup=row.backup_first))
                for row in readable((await session.scalars(due)).all())
            ]

    async def request_undelete(self, instance_id: int, name: str | None = None) -> Requested:
        """Reserve the instance's names, or those that `name` makes, and record that it shall come back."""
        conflicts = refusals.UNDELETE_CONFLICTS
        async with self._locked(instance_id, conflicts, in_trash=True) as (session, instance):
            if not instance.is_in_trash:
                raise refusals.not_deleted(instance)
            refusals.require_state(instance, RULES[Operation.UNDELETE].requested, "undeleted")
            wanted = instance.name if name is None else name
            database = instance.database_name
            if wanted != instance.name:
                database = database_name(wanted, instance.database_template)
            await refusals.require_place(session, instance, wanted, database)
            last = (instance.operation, instance.new_name or instance.name)
            if last != (Operation.UNDELETE, wanted):
                require_granted(refusals.not_undone_refusals(instance))
            instance.new_name = instance.new_database_name = None
            if wanted != instance.name:
                instance.new_name, instance.new_database_name = wanted, database
            return await self._next_job(session, instance, Operation.UNDELETE)

    async def request_reset(
        self,
        instance_id: int,
        template: str | None = None,
        by: str | None = None,
        origin: Origin = FROM_TEMPLATE,
    ) -> Requested:
        """Record that another database, made of this origin, shall replace the instance's.

        Without a `template`, the one of the instance's database is used; a copy has that of its source in any
        case. What is copied or restored is held from now on.
        """
        await self.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            instance, source = await _require_resettable(session, instance_id, origin)
            chosen = source.database_template if source else template or instance.database_template
            wanted = copies.made_of(origin, source)
            replacement = self._replacement(str(uuid4()), chosen, wanted, by, from_trash=False)
            arguments = MakeArguments(wanted)
            return await self._next_job(session, instance, Operation.RESET, arguments, replacement)

    async def require_resettable(self, instance_id: int, origin: Origin = FROM_TEMPLATE) -> None:
        """Raise what `request_reset` would, and change nothing."""
        async with self._sessions.transaction() as session:
            await _require_resettable(session, instance_id, origin)

    async def request_undo_reset(
        self, instance_id: int, by: str | None = None, database: str | None = None
    ) -> Requested:
        """Record that a replaced database, by default the last, shall be the instance's again."""
        async with self._locked(instance_id) as (session, instance):
            version = await version_to_bring_back(session, instance, database)
            its = str(version.database_id), version.database_template, version.origin
            replacement = self._replacement(*its, by, from_trash=True)
            require_granted(await refusals.reset_refusals(session, instance))
            arguments = MakeArguments(EarlierDatabase(replacement.database_id))
            return await self._next_job(session, instance, Operation.RESET, arguments, replacement)

    def _replacement(
        self, database_id: str, template: str, origin: Origin, by: str | None, *, from_trash: bool
    ) -> Replacement:
        return Replacement(
            database_id,
            template,
            int(self._trash.total_seconds()),
            from_trash=from_trash,
            by=by,
            keeps=bool(self._trash),
            origin=origin,
        )

    async def request_rename(self, instance_id: int, name: str) -> Requested:
        """Reserve `name` and record, as a new job, that the instance shall have it."""
        async with self._locked(instance_id) as (session, instance):
            refusals.require_state(instance, RULES[Operation.RENAME].requested, "renamed")
            refusals.require_created(instance, "renamed")
            await copies.require_not_copied(session, instance)
            database = database_name(name, instance.database_template)
            await require_free(session, name, database, excluding=instance)
            if (instance.operation, instance.new_name) != (Operation.RENAME, name):
                require_granted(refusals.not_undone_refusals(instance))
            instance.new_name, instance.new_database_name = name, database
            return await self._next_job(session, instance, Operation.RENAME)

    async def request_backup(self, instance_id: int, kind: str) -> Requested:
        """Record, as a new job, that a backup of this `BackupKind` shall be made of the instance."""
        async with self._locked(instance_id) as (session, instance):
            return await self._request_backup(session, instance, kind)

    async def request_scheduled_backup(self, instance_id: int, due_at: datetime) -> Requested | None:
        """Record the same for a time of a schedule; None if that is recorded for this or a later one.

        Raises:
            sqlalchemy.exc.DBAPIError: another session has locked its row (SQLSTATE 55P03).
        """
        async with self._locked(instance_id, nowait=True) as (session, instance):
            if not await serve(session, instance.id, BACKUP_LABEL, due_at):
                return None
            return await self._request_backup(session, instance, SCHEDULED, due_at)

    async def _request_backup(
        self, session: AsyncSession, instance: DbInstance, kind: str, due_at: datetime | None = None
    ) -> Requested:
        refusals.require_state(instance, RULES[Operation.BACKUP].requested, "backed up")
        await copies.require_open(session, instance)
        requested = await self._next_job(session, instance, Operation.BACKUP)
        await add_backup(session, requested.instance, requested.job, kind, due_at)
        return requested

    async def request_snapshot(self, instance_id: int, by: str | None = None) -> RequestedSnapshot:
        """Record, as a new job, that readers shall get a copy of the instance as it is then."""
        async with self._locked(instance_id) as (session, instance):
            return await self._request_snapshot(session, instance, by)

    async def request_scheduled_snapshot(
        self, instance_id: int, due_at: datetime
    ) -> RequestedSnapshot | None:
        """Record the same for a time of a schedule; it raises and returns as `request_scheduled_backup`."""
        async with self._locked(instance_id, nowait=True) as (session, instance):
            if not await serve(session, instance.id, SNAPSHOT_LABEL, due_at):
                return None
            return await self._request_snapshot(session, instance, None, due_at)

    async def _request_snapshot(
        self, session: AsyncSession, instance: DbInstance, by: str | None, due_at: datetime | None = None
    ) -> RequestedSnapshot:
        refusals.require_state(instance, RULES[Operation.SNAPSHOT].requested, "copied")
        await copies.require_open(session, instance)
        try:
            await snapshots.require_own_derivative(session, instance.id, instance.ods_instance_id)
        except DerivativeTakenError as error:
            raise RefusedError(instance.status, error.reason, error.next_step) from None
        requested = await self._next_job(session, instance, Operation.SNAPSHOT)
        snapshot = await snapshots.add(session, instance, by, due_at)
        return RequestedSnapshot(requested.instance, requested.job, snapshot)

    async def request_retry(self, instance_id: int) -> Requested:
        """Put a failed job back to waiting: the same job, one attempt later."""
        await self.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            await lock_with_source(session, instance_id)
            instance = await refusals.locked_instance(session, instance_id, in_trash=True)
            if instance.status == InstanceStatus.DELETED:
                raise InstanceNotFoundError(instance_id)
            step = instance.rules.retry
            refusals.require_state(instance, step.sources, "retried")
            if instance.rules.takes_data and (refusal := refusals.protection_refusal(instance)) is not None:
                raise refusal
            origin = origin_in(instance.arguments)
            if (obstacle := await copies.copy_obstacle(session, instance, origin)) is not None:
                raise RefusedError(instance.status, obstacle, "Then retry, or delete this instance.")
            instance.outages = 0
            _advance(instance, step)
            await session.flush()
            await session.execute(moved_to_trash(self.deletes, DbInstance.id == instance.id))
            requested = await self._requested(session, instance)
            await session.execute(job_record(requested.job, step.job))
            return requested

    @asynccontextmanager
    async def _locked(
        self,
        instance_id: int,
        conflicts: Conflicts = NO_CONFLICTS,
        *,
        in_trash: bool = False,
        nowait: bool = False,
    ) -> AsyncIterator[tuple[AsyncSession, DbInstance]]:
        """A transaction in which the instance is locked, as `locked_instance` says."""
        await self.installation.require_confirmed()
        async with self._sessions.transaction(conflicts) as session:
            instance = await refusals.locked_instance(session, instance_id, in_trash=in_trash, nowait=nowait)
            yield session, instance

    async def _requested(self, session: AsyncSession, instance: DbInstance) -> Requested:
        await session.flush()
        await session.refresh(instance)
        return Requested(instance, self._factory.next_attempt(instance))

    async def _next_job(
        self,
        session: AsyncSession,
        instance: DbInstance,
        operation: Operation,
        arguments: Arguments = NO_ARGUMENTS,
        replacement: Replacement | None = None,
    ) -> Requested:
        require_granted(refusals.unended_reset_refusals(instance))
        if replacement is not None:
            instance.replacement = asdict(replacement)
        instance.request, instance.cancelled_attempt = uuid4(), None
        instance.operation = operation
        instance.arguments_column = asdict(arguments)
        instance.job_number += 1
        instance.attempt = 0
        instance.outages = 0
        _advance(instance, RULES[operation].request)
        return self._with_job(session, await self._requested(session, instance))

    def _with_job(self, session: AsyncSession, requested: Requested) -> Requested:
        """Record the job that is new with the request."""
        job = Job(
            job_id=requested.job.job_id,
            status=JobStatus.PENDING,
            created_at=UTC_NOW,
            instance_id=requested.instance.id,
            operation=requested.job.rules.word,
            # Copies and restores do not count when the usual duration of a clone is computed.
            database_template=requested.job.template if requested.job.kind.is_of_template else None,
        )
        # With the request: a registry put back to before the job begins knows what the job has written.
        session.add_all([job, *revisions_of(requested.job)])
        return requested


async def _require_resettable(
    session: AsyncSession, instance_id: int, origin: Origin
) -> tuple[DbInstance, DbInstance | None]:
    """Lock the instance that shall be reset, and hold its new origin; also returns what it is a copy of."""
    if isinstance(origin, CopyOrigin):
        await lock_instances(session, [instance_id, origin.instance_id])
    instance = await refusals.locked_instance(session, instance_id)
    if isinstance(origin, CopyOrigin) and origin.instance_id == instance_id:
        raise InvalidError({"CopyOf": ["An instance cannot be reset to a copy of itself."]})
    require_granted(await refusals.reset_refusals(session, instance))
    return instance, await copies.hold_origin(session, origin)


async def _require_new(
    session: AsyncSession, name: str, template: str, attributes: AttributeChanges, origin: Origin
) -> DbInstance | None:
    """Keep names and contexts of a new instance from other transactions; returns what it is a copy of.

    An InvalidError about contexts names the taken name as well.
    """
    # Before the names are locked: the order in which a rename of the source locks.
    source = await copies.hold_origin(session, origin)
    if source is not None and source.database_template != template:
        template = source.database_template
        require_valid({"Name": name_errors(name, template)})
    refusal: NameTakenError | None = None
    try:
        await require_free(session, name, database_name(name, template))
    except NameTakenError as error:
        refusal = error
    try:
        await require_free_contexts(session, attributes.contexts or {})
    except InvalidError as error:
        raise InvalidError({**({"Name": [str(refusal)]} if refusal else {}), **error.errors}) from None
    if refusal is not None:
        raise refusal
    return source


def _advance(instance: DbInstance, step: Step) -> None:
    instance.status = step.target
    instance.error_message = None
    instance.last_modified = UTC_NOW
