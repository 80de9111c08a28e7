"""What an adoption changes in the registry: an instance gets the database that the server has."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_object_session

from ods.model.arguments import KEEP
from ods.model.operations import (
    ADOPTABLE,
    BRING_BACK,
    FOLLOW_DELETE,
    RULES,
    InstanceStatus,
    Operation,
    is_usable,
)
from ods.model.revisions import Role, TrashReason
from ods.registry.instances import refusals, reservations
from ods.registry.instances.copies import require_not_copied
from ods.registry.instances.job_store import COME_BACK, NO_NEW_NAMES
from ods.registry.instances.naming import name_errors
from ods.registry.instances.ods_routing import UNREADABLE, ConnectionStrings, move_routing, start_routing
from ods.registry.instances.revisions import record_revision
from ods.registry.instances.row_locks import lock_ods_instance
from ods.registry.instances.set_aside import give_back, set_routing_aside
from ods.registry.instances.steps import JobFactory
from ods.registry.instances.versions import (
    ReplacedDatabase,
    keep_versions,
    record_version,
    versions_of,
)
from ods.registry.keeping import KEPT_IN_DOUBT, end_of
from ods.registry.storage.errors import RefusedError
from ods.registry.storage.models import OUT_OF_TRASH, UTC_NOW, DbInstance, InstanceDatabase, OdsInstance
from ods.registry.storage.sessions import RegistrySessions


@dataclass(frozen=True)
class DatabaseName:
    """The name that an instance's database has on the server, and the encrypted connection string to it."""

    name: str
    connection_string: str


@dataclass(frozen=True)
class ToldInstance:
    """An instance as the comment on its database describes it; `number` is its last job's."""

    name: str
    template: str
    ods_instance_id: int
    mark: str
    number: int
    template_generation: int | None
    database_id: str
    revision: str


class AdoptionStore:
    """The adoptions of one tenant's instances. The arguments are those of `InstanceStore`.

    Each method raises InstallationNotConfirmedError while the registry is a copy that the operator has not
    confirmed.
    """

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
        told: str | None = None,
    ) -> AsyncIterator[DbInstance]:
        """The instance that shall get another database; no job of it can begin while the block runs.

        `database` is its database's name from now on, if the registry has another one. `marked` says that
        this carries the instance's mark: then the instance was created. It is called as `told`, unless that
        name is taken.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            RefusedError: it has a job under way, or never had a database.
            NameTakenError: another instance has a database of that name.
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
            await _follow_name(session, instance, told)
            yield instance

    @asynccontextmanager
    async def bringing_back(
        self, instance_id: int, database: DatabaseName, number: int, told: str | None = None
    ) -> AsyncIterator[DbInstance]:
        """The instance in the trash whose database is in use on the server; no job of it can begin.

        Afterwards it is live, as after an undelete, the ODS/API is routed to the database, and nothing is to
        be undone. `number` is the last job that has published one of its databases, as the server says. It is
        called as `told`, unless that name is taken.

        Raises:
            InstanceNotFoundError: there is no such instance, or its database was dropped or released.
            RefusedError: it is not in the trash, has a job under way, or its name or contexts are taken.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction(refusals.UNDELETE_CONFLICTS) as session:
            instance = await refusals.locked_instance(session, instance_id, in_trash=True)
            if not instance.is_in_trash:
                raise refusals.not_deleted(instance)
            refusals.require_state(instance, BRING_BACK.sources, "given a database")
            await _follow_name(session, instance, told)
            await refusals.require_place(session, instance, instance.name, database.name)
            left, kept = instance.database_name, instance.set_aside
            was_published = instance.is_published
            for name, value in COME_BACK.items():
                setattr(instance, name, value)
            for column, value in OUT_OF_TRASH.items():
                setattr(instance.database, column.key, value)
            # As after an undelete that is done, with a number above all others, also those forgotten here.
            instance.operation, instance.arguments_column = Operation.UNDELETE, {}
            instance.job_number, instance.attempt = max(number, instance.job_number) + 1, 1
            instance.request, instance.cancelled_attempt = uuid4(), None
            instance.status = BRING_BACK.target
            instance.last_modified = UTC_NOW
            instance.database_name = database.name
            instance.database.published_at = instance.database.published_at or UTC_NOW
            await session.flush()
            await session.refresh(instance)
            await session.refresh(instance.database)
            job = replace(self._factory.last_attempt(instance), published=was_published)
            await start_routing(session, job, database.connection_string)
            renamed = partial(self._strings.renamed, left, database.name)
            await give_back(session, instance.ods_instance_id, kept, renamed)
            await reservations.leave_name(session, instance.id, left, database.name)
            await keep_versions(session, instance.id, max(self._trash, KEPT_IN_DOUBT))
            yield instance

    @staticmethod
    def go_on_after(instance: DbInstance, number: int) -> None:
        """Let the jobs of a live instance go on after `number`, which its restored registry has forgotten.

        If its number were given again, an earlier database of the instance would pass for a later one. A
        failed job keeps its number: it may be retried.
        """
        if instance.status == InstanceStatus.COMPLETED and number > instance.job_number:
            instance.job_number, instance.attempt = number + 1, 1
            instance.request, instance.cancelled_attempt = uuid4(), None
            instance.last_modified = UTC_NOW

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

    async def keep_replaced(
        self, instance: DbInstance, replaced: Sequence[ReplacedDatabase], known: Collection[str]
    ) -> None:
        """Record databases in the trash that the instance had before resets, unless their ids are `known`.

        To be called in the block that yields the instance: its transaction records them. Whatever the
        settings say, they can come back for a while at least: the operator may have confused them with the
        one that was handed over.
        """
        session = _session_of(instance)
        earliest = await end_of(session, KEPT_IN_DOUBT)
        for one in replaced:
            if one.database_id not in known:
                await record_version(session, instance, one, self._trash, earliest)
        await keep_versions(session, instance.id, KEPT_IN_DOUBT)
        for one in replaced:
            await record_revision(session, instance.id, UUID(one.database_id), one.revision, Role.RETAINED)

    @staticmethod
    async def record_revision(instance: DbInstance, revision: str) -> None:
        """Record the new revision of the instance's database, in the block that yields the instance."""
        session, database = _session_of(instance), instance.database_id
        await record_revision(session, instance.id, database, revision, Role.CURRENT)

    async def restore_lost(
        self, lost: ToldInstance, database: DatabaseName, replaced: Sequence[ReplacedDatabase] = ()
    ) -> DbInstance:
        """Record a completed instance that the registry has lost, as its database describes it.

        Its job numbers continue after all that the registry still knows of it. What its resets have
        `replaced` is recorded as well.

        Raises:
            NameTakenError: a live instance has its name or its database's, or an ODS instance has its name or
                its OdsInstanceId.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction(refusals.name_conflicts(lost.name, database.name)) as session:
            await reservations.require_free(session, lost.name, database.name)
            instance = await self._add(session, lost, database.name, RULES[Operation.CREATE].done)
            its = UUID(lost.database_id), lost.template_generation
            await self.hand_over(instance, *its, is_published=True)
            await self.record_revision(instance, lost.revision)
            await start_routing(session, self._factory.next_attempt(instance), database.connection_string)
            await self.keep_replaced(instance, replaced, known=())
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
        aside, as a delete does. The database can come back for a week at least.

        Args:
            database: the name that the database had before.
            trashed_at: since when it is in the trash, in UTC without a zone.
            replaced: what resets of the instance have put into the trash.

        Raises:
            RefusedError: a job of the instance waits or works, or others use its ODS instance.
            NameTakenError: the registry has lost it, and another one has its OdsInstanceId.
        """
        await self._factory.installation.require_confirmed()
        async with self._sessions.transaction() as session:
            its = select(DbInstance).where(DbInstance.mark == UUID(told.mark)).with_for_update()
            instance = await session.scalar(its)
            if instance is None:
                await reservations.require_free_number(session, told.ods_instance_id)
                instance = await self._add(session, told, database, InstanceStatus.DELETED)
            refusals.require_state(instance, FOLLOW_DELETE.sources, "recorded as deleted")
            if instance.is_live:
                await require_not_copied(session, instance)
                await lock_ods_instance(session, instance.ods_instance_id)
                refusal = await set_routing_aside(session, self._factory.last_attempt(instance))
                if refusal is not None:
                    raise RefusedError(instance.status, refusal, "Then recover again.")
            # As after a delete that is done, with a number above all others, also those forgotten here.
            instance.operation, instance.arguments_column = Operation.DELETE, asdict(KEEP)
            instance.job_number, instance.attempt = max(told.number, instance.job_number) + 1, 1
            instance.request, instance.cancelled_attempt = uuid4(), None
            instance.status, instance.error_message = FOLLOW_DELETE.target, None
            instance.replacement, instance.outages = None, 0
            instance.last_modified = UTC_NOW
            for name, value in NO_NEW_NAMES.items():
                setattr(instance, name, value)
            instance.name, instance.database_name = told.name, database
            instance.database_template = told.template or instance.database_template
            database_id = UUID(told.database_id)
            await self.hand_over(instance, database_id, told.template_generation, is_published=True)
            await record_revision(session, instance.id, database_id, told.revision, Role.RETAINED)
            own = instance.database
            own.reason, own.trashed_at, own.job_number = TrashReason.DELETED, trashed_at, told.number
            kept_until = await end_of(session, KEPT_IN_DOUBT)
            own.purge_after = max(trashed_at + self._trash, kept_until)
            versions = select(InstanceDatabase.database_id).where(*versions_of(instance.id))
            known = {str(one) for one in await session.scalars(versions)}
            await self.keep_replaced(instance, replaced, known)

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
                lost.number, await reservations.free_job_number(session, number, lost.ods_instance_id)
            ),
            attempt=1,
            mark=UUID(lost.mark),
            database_id=UUID(lost.database_id),
            last_refreshed=UTC_NOW,
            last_modified=UTC_NOW,
            is_protected=self._protect_new,
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


async def _follow_name(session: AsyncSession, instance: DbInstance, told: str | None) -> None:
    """Call an instance, and its ODS instance, as its database tells, unless another one has that name."""
    if told is None or told == instance.name or name_errors(told, instance.database_template):
        return
    await reservations.lock_name(session, told)
    if await reservations.name_is_taken(session, told, excluding=instance):
        return
    its = update(OdsInstance).where(OdsInstance.ods_instance_id == instance.ods_instance_id)
    await session.execute(its.values(name=told))
    instance.name = instance.ods_instance_name = told
    await session.flush()


def _session_of(instance: DbInstance) -> AsyncSession:
    if (session := async_object_session(instance)) is None:
        raise RuntimeError("The block that hands a database over to the instance has ended.")
    return session
