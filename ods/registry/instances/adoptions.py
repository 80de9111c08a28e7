"""What an adoption, or a recovery, changes in the registry: an instance gets what the server has."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_object_session

from ods.model.arguments import KEEP
from ods.model.operations import (
    ADOPTABLE,
    FOLLOW,
    FOLLOW_DELETE,
    RULES,
    InstanceStatus,
    Operation,
    Step,
    is_usable,
)
from ods.model.revisions import Role, TrashReason
from ods.registry.instances import refusals, reservations
from ods.registry.instances.copies import require_not_copied
from ods.registry.instances.job_store import COME_BACK, NO_NEW_NAMES
from ods.registry.instances.naming import name_errors
from ods.registry.instances.ods_routing import (
    UNREADABLE,
    ConnectionStrings,
    context_obstacle,
    contexts_to_come_back,
    follow_database,
    give_back,
    move_routing,
    set_routing_aside,
    start_routing,
)
from ods.registry.instances.reservations import lock_ods_instance
from ods.registry.instances.revisions import record_revision, renew
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.versions import (
    ReplacedDatabase,
    record_version,
    versions_of,
)
from ods.registry.storage.errors import InstanceNotFoundError, RefusedError
from ods.registry.storage.models import (
    OUT_OF_TRASH,
    UTC_NOW,
    ApiClientOdsInstance,
    DatabaseRevision,
    DbInstance,
    InstanceDatabase,
    OdsInstance,
)
from ods.registry.storage.sessions import Conflicts, RegistrySessions

_NO_NAME = "ods_recovered_"
"""With its mark, the name of an instance whose own another one has."""


@dataclass(frozen=True)
class DatabaseName:
    """The name that an instance's database has on the server, and the encrypted connection string to it."""

    name: str
    connection_string: str


@dataclass(frozen=True)
class ToldInstance:
    """An instance as the comment on its database describes it."""

    name: str
    template: str
    ods_instance_id: int
    mark: str
    number: int  # of the job that has written the comment
    template_generation: int | None
    database_id: str
    revision: str
    last_number: int = 0  # the highest in the comments of its databases
    is_protected: bool = False


class AdoptionStore:
    """The adoptions of one tenant's instances. The arguments are those of `InstanceStore`."""

    def __init__(
        self,
        engine: AsyncEngine,
        factory: JobFactory,
        trash: timedelta = timedelta(),
        *,
        protect_new: bool = False,
        strings: ConnectionStrings = UNREADABLE,
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._factory = factory
        self._trash = trash
        self._protect_new = protect_new
        self._strings = strings

    @asynccontextmanager
    async def adopting(
        self,
        instance_id: int,
        database: DatabaseName | None = None,
        *,
        marked: bool = False,
    ) -> AsyncIterator[DbInstance]:
        """The instance that shall get another database; no job of it can begin while the block runs.

        `database` is its database's name from now on, if the registry has another one. `marked` says that
        this carries the instance's mark: then the instance was created.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            instance = await refusals.locked_instance(session, instance_id)
            refusals.require_state(instance, ADOPTABLE, "given a database")
            if not marked:
                refusals.require_created(instance, "given a database")
            await require_not_copied(session, instance)
            if database is not None:  # before its comment is written: it may be another instance's
                await self._call_database(session, instance, database)
            yield instance

    @staticmethod
    async def hand_over(
        instance: DbInstance, database_id: UUID, template_generation: int | None, *, is_published: bool
    ) -> None:
        """Record which database is the instance's own, in the block that yields the instance."""
        session = _session_of(instance)
        own = insert(InstanceDatabase).values(
            instance_id=instance.id,
            database_id=database_id,
            database_template=instance.database_template,
            template_generation=template_generation,
            published_at=UTC_NOW if is_published else None,
        )
        known = [InstanceDatabase.instance_id, InstanceDatabase.database_id]
        published_at = func.coalesce(InstanceDatabase.published_at, own.excluded.publishedat)
        changed: dict[Any, object] = {
            **OUT_OF_TRASH,
            InstanceDatabase.database_template: instance.database_template,
            InstanceDatabase.template_generation: template_generation,
            InstanceDatabase.published_at: published_at,
        }
        await session.execute(own.on_conflict_do_update(index_elements=known, set_=changed))
        instance.database_id = database_id
        await session.flush()
        await session.refresh(instance)
        await session.refresh(instance, ["database"])

    async def _keep_replaced(self, instance: DbInstance, replaced: Sequence[ReplacedDatabase]) -> None:
        """Record databases in the trash that the instance had before resets, unless they are known.

        No pass drops any of them: a client may have protected the instance since, or called a drop off.
        """
        session = _session_of(instance)
        versions = select(InstanceDatabase.database_id).where(*versions_of(instance.id))
        known = {str(one) for one in await session.scalars(versions)}
        for one in replaced:
            if one.database_id not in known:
                await record_version(session, instance, one)
            await record_revision(session, instance.id, UUID(one.database_id), one.revision, Role.RETAINED)
        its = update(InstanceDatabase).where(*versions_of(instance.id))
        await session.execute(its.values(purge_after=None, purging_since=None))

    @staticmethod
    async def record_revision(instance: DbInstance, revision: str) -> None:
        """Record the new revision of the instance's database, in the block that yields the instance."""
        session, database = _session_of(instance), instance.database_id
        await record_revision(session, instance.id, database, revision, Role.CURRENT)

    async def follow(
        self,
        told: ToldInstance,
        database: DatabaseName,
        replaced: Sequence[ReplacedDatabase] = (),
        *,
        leaves: bool = False,
    ) -> DbInstance:
        """Record that an instance has this database, in use, as the comment of that says.

        Its row is added if the registry has lost it. If it is in the trash, it is live afterwards, as after
        an undelete. Whatever its last job was is over, and nothing is to be undone. `replaced` is what its
        resets have put into the trash; with `leaves`, it leaves the name that its database has by the
        registry only now. By the registry, its database must be neither dropped nor released.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction(_conflicts(told, database.name)) as session:
            was_published = False
            if (instance := await self._placed(session, told, database.name)) is None:
                instance = await self._add(session, told, database.name, RULES[Operation.CREATE].done)
            else:
                was_published = instance.is_published
                for column, value in OUT_OF_TRASH.items():
                    setattr(instance.database, column.key, value)
            left, kept = instance.database_name, instance.set_aside
            is_routed = instance.is_live and was_published
            if instance.rules.done != FOLLOW.target:
                instance.operation, instance.arguments_column = Operation.UNDELETE, {}
            _end_job(instance, told, FOLLOW)
            for name, value in COME_BACK.items():
                setattr(instance, name, value)
            instance.database_name = database.name
            instance.database_template = told.template or instance.database_template
            its = UUID(told.database_id), told.template_generation
            await self.hand_over(instance, *its, is_published=True)
            await self.record_revision(instance, told.revision)
            names, number = (left, database.name), instance.ods_instance_id
            if is_routed:
                leading = (names, database.connection_string, self._strings)
                is_routed = await move_routing(session, number, *leading)
            if not is_routed:
                job = replace(self._factory.last_attempt(instance), published=was_published)
                await start_routing(session, job, database.connection_string)
                await give_back(session, number, kept, partial(self._strings.renamed, *names))
            if leaves:
                await reservations.leave_name(session, instance.id, *names)
            await self._keep_replaced(instance, replaced)
            await renew(session, instance.id)
            return instance

    async def require_place(self, told: ToldInstance, database: str) -> None:
        """Check what `follow` checks, before the server is changed for it; nothing is recorded."""
        async with (
            self._sessions.transaction(_conflicts(told, database)) as session,
            session.begin_nested() as attempt,
        ):
            await self._placed(session, told, database)
            await attempt.rollback()

    async def give_up_names(self, instance_id: int, revision: str | None) -> None:
        """Free the names that a live instance has by the registry, and has not on the server.

        It gets its own by `follow`. Until then, or if it has no database, it has names that no other one can
        have, and what led to the database leads nowhere. `revision` is that of the database that it gets.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            instance = await refusals.locked_instance(session, instance_id)
            refusals.require_state(instance, FOLLOW.sources, "given another name")
            if revision is not None and await _is_known(session, revision):
                return  # another recovery has given it its own
            name, number = f"{_NO_NAME}{instance.mark.hex}", instance.ods_instance_id
            if (its := await session.get(OdsInstance, number, with_for_update=True)) is not None:
                its.name = name
                its.connection_string = self._strings.renamed(
                    instance.database_name, name, its.connection_string
                )
            await follow_database(session, number, instance.database_name, name, self._strings)
            instance.name = instance.ods_instance_name = instance.database_name = name

    async def _placed(self, session: AsyncSession, told: ToldInstance, database: str) -> DbInstance | None:
        """Check that nothing keeps the instance from having this database, and give it the name that is told.

        The name is later than the registry's if that does not know the revision. None if the registry has
        lost the instance.
        """
        if (instance := await _locked(session, told.mark)) is None:
            await reservations.require_free(session, told.name, database)
            await reservations.require_free_number(session, told.ods_instance_id)
            return None
        if not (instance.is_live or instance.is_in_trash):
            raise InstanceNotFoundError(instance.id)
        refusals.require_state(instance, FOLLOW.sources, "given a database")
        if instance.is_live:
            await require_not_copied(session, instance)
        if not await _is_known(session, told.revision):
            await _follow_name(session, instance, told.name)
            instance.is_protected = instance.is_protected or told.is_protected
        await reservations.require_free(session, instance.name, database, excluding=instance)
        refusal = await reservations.former_name_refusal(session, instance, database)
        wanted = contexts_to_come_back(instance.set_aside, instance.reserved_contexts)
        obstacle = await context_obstacle(session, instance.ods_instance_id, wanted)
        if refusal is None and obstacle is not None:
            refusal = RefusedError(instance.status, obstacle, "Give that other contexts, then recover again.")
        if refusal is not None:
            raise refusal
        return instance

    async def pass_number(self, highest: int) -> None:
        """Let no OdsInstanceId up to `highest` be given again."""
        async with self._sessions.transaction() as session:
            await reservations.pass_number(session, highest)

    async def record_deleted(
        self, told: ToldInstance, database: str, trashed_at: datetime, replaced: Sequence[ReplacedDatabase]
    ) -> None:
        """Record that an instance is deleted, and its database in the trash, as the comment of that says.

        Its row is added if the registry has lost it. Contexts and derivatives of its ODS instance are set
        aside, as a delete does; applications lose it, as they had before the delete. No pass purges it.
        `database` is the name that the database had before; `replaced` is as for `follow`.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            if (instance := await _locked(session, told.mark)) is None:
                await reservations.require_free_number(session, told.ods_instance_id)
                instance = await self._add(session, told, database, InstanceStatus.DELETED)
            refusals.require_state(instance, FOLLOW_DELETE.sources, "recorded as deleted")
            if instance.is_live:
                await require_not_copied(session, instance)
                await lock_ods_instance(session, instance.ods_instance_id)
                its_clients = ApiClientOdsInstance.ods_instance_id == instance.ods_instance_id
                await session.execute(delete(ApiClientOdsInstance).where(its_clients))
                refusal = await set_routing_aside(session, self._factory.last_attempt(instance))
                if refusal is not None:
                    raise RefusedError(instance.status, refusal, "Then recover again.")
                # Another instance may get the name of the database next.
                nowhere = f"{_NO_NAME}{instance.mark.hex}"
                leading = (instance.database_name, nowhere, self._strings)
                await follow_database(session, instance.ods_instance_id, *leading)
            instance.operation, instance.arguments_column = Operation.DELETE, asdict(KEEP)
            instance.is_protected = instance.is_protected or told.is_protected
            _end_job(instance, told, FOLLOW_DELETE)
            for name, value in NO_NEW_NAMES.items():
                setattr(instance, name, value)
            instance.name, instance.database_name = told.name, database
            instance.database_template = told.template or instance.database_template
            database_id = UUID(told.database_id)
            await self.hand_over(instance, database_id, told.template_generation, is_published=True)
            await record_revision(session, instance.id, database_id, told.revision, Role.RETAINED)
            own = instance.database
            own.reason, own.trashed_at, own.job_number = TrashReason.DELETED, trashed_at, told.number
            # A client may have called its purge off since: only a client has it purged.
            own.purge_after = None
            await self._keep_replaced(instance, replaced)
            await renew(session, instance.id)

    async def _add(
        self, session: AsyncSession, lost: ToldInstance, database: str, status: InstanceStatus
    ) -> DbInstance:
        """Add the row of an instance that the registry has lost; its database has, or had, this name."""
        number = await reservations.instance_id_for(session, lost.ods_instance_id)
        instance = DbInstance(
            id=number,
            name=lost.name,
            database_template=lost.template,
            database_name=database,
            ods_instance_id=lost.ods_instance_id,
            ods_instance_name=lost.name,
            status=status,
            operation=Operation.CREATE,
            # Ids of jobs are made of it, and of two backups the one with the higher number is later.
            job_number=max(
                lost.number,
                lost.last_number,
                await reservations.free_job_number(session, number, lost.ods_instance_id),
            ),
            attempt=1,
            mark=UUID(lost.mark),
            database_id=UUID(lost.database_id),
            last_refreshed=UTC_NOW,
            last_modified=UTC_NOW,
            is_protected=self._protect_new or lost.is_protected,
        )
        session.add(instance)
        await session.flush()
        return instance

    async def _call_database(
        self, session: AsyncSession, instance: DbInstance, database: DatabaseName
    ) -> None:
        """Record the other name of the instance's database, and route the ODS/API there.

        If the row that routed it was removed by hand, it is added again, as long as the instance is in use.
        """
        await reservations.require_free_database(session, database.name, instance)
        left = instance.database_name
        await reservations.leave_name(session, instance.id, left, database.name)
        instance.database_name = database.name
        instance.last_modified = UTC_NOW
        if not instance.is_published and instance.status != InstanceStatus.COMPLETED:
            return  # it was never created: an ODS instance that has its id is another product's
        names = (left, database.name)
        routed = await move_routing(
            session, instance.ods_instance_id, names, database.connection_string, self._strings
        )
        if not routed and is_usable(InstanceStatus(instance.status), Operation(instance.operation)):
            job = self._factory.last_attempt(instance)
            await start_routing(session, job, database.connection_string)


def _conflicts(told: ToldInstance, database: str) -> Conflicts:
    return {**refusals.UNDELETE_CONFLICTS, **refusals.name_conflicts(told.name, database)}


async def _locked(session: AsyncSession, mark: str) -> DbInstance | None:
    """The instance of this mark, locked; None if the registry has lost it."""
    its = select(DbInstance).where(DbInstance.mark == UUID(mark)).with_for_update()
    found: DbInstance | None = await session.scalar(its)
    return found


async def _is_known(session: AsyncSession, revision: str) -> bool:
    """Whether the registry knows the revision in a comment; if not, it was put back."""
    return await session.get(DatabaseRevision, UUID(revision)) is not None


def _end_job(instance: DbInstance, told: ToldInstance, step: Step) -> None:
    """Whatever job an instance had last is over: its next one has a number above all, also forgotten ones."""
    instance.job_number, instance.attempt = max(told.number, told.last_number, instance.job_number) + 1, 1
    instance.request, instance.cancelled_attempt = uuid4(), None
    instance.status, instance.error_message = step.target, None
    instance.replacement, instance.outages = None, 0
    instance.last_modified = UTC_NOW


async def _follow_name(session: AsyncSession, instance: DbInstance, told: str) -> None:
    """Call an instance, and its ODS instance, as its database tells."""
    if told == instance.name or name_errors(told, instance.database_template):
        return
    await reservations.lock_name(session, told)
    if await reservations.name_is_taken(session, told, excluding=instance):
        raise reservations.name_taken(told)
    its = update(OdsInstance).where(OdsInstance.ods_instance_id == instance.ods_instance_id)
    await session.execute(its.values(name=told))
    instance.name = instance.ods_instance_name = told
    await session.flush()


def _session_of(instance: DbInstance) -> AsyncSession:
    if (session := async_object_session(instance)) is None:
        raise RuntimeError("The block that hands a database over to the instance has ended.")
    return session
