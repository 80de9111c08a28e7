"""Handing a database over to an instance that did not make it, or that the registry has lost.

Registry and server decide together: the row of the instance; and the mark (the comment that names an owner),
owner and name of the database.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import asyncpg

from ods.databases import adoption
from ods.databases.activating import take_out
from ods.databases.adoption import Candidate
from ods.databases.inspection import listing
from ods.databases.inspection.listing import Database
from ods.databases.lookup import FoundDatabase, find_own
from ods.databases.ownership import KnownOwner, LeftName, Owner
from ods.databases.server import leave_to_job
from ods.model.arguments import drops_database
from ods.model.operations import InstanceStatus, Operation
from ods.model.revisions import KnownRevisions, Revision, RevisionState, Role
from ods.registry.instances.adoptions import DatabaseName, ToldInstance
from ods.registry.instances.naming import (
    database_name,
    instance_named,
    is_reset_name,
    is_trash_name,
    name_errors,
)
from ods.registry.storage.errors import InstanceNotFoundError, NameTakenError
from ods.registry.storage.models import DbInstance, InstanceDatabase
from ods.tenants.drift.own_databases import listed, not_exchanged, of_instance
from ods.tenants.drift.trash import KNOWN_BY_REGISTRY, out_of_trash_by_hand
from ods.tenants.tenant import Tenant

_JOB = "adopted"
"""In the mark, in place of the job that made the database."""

_NO_INSTANCES_NAME = "No instance has a database of this name: rename it to EdFi_Ods_NAME_TEMPLATE."


class DatabaseNotFoundError(Exception):
    """The server has no database of this name, or one that clients are told nothing of."""

    def __init__(self, database: str) -> None:
        super().__init__(f"there is no database {database}")
        self.database = database


class AdoptionRefusedError(Exception):
    """The database cannot be handed over to the instance; `status` is empty if the registry has lost that."""

    def __init__(self, status: str, obstacle: str) -> None:
        super().__init__(obstacle)
        self.status = status
        self.obstacle = obstacle


@dataclass(frozen=True)
class AdoptionCandidate:
    """A database, and the instance that has it or would get it."""

    id: int  # of an instance that the registry has lost, its OdsInstanceId
    name: str  # empty if it is lost, and the database's name has none
    status: str  # empty if it is lost
    ods_instance_id: int
    database_name: str
    owner: str
    size_bytes: int | None  # None if our role may not see it
    sessions: int
    comment: str | None
    adopted: bool  # the database carries the instance's mark
    obstacle: str | None  # why it cannot be handed over, and what to do; None if it can, or was


class DatabaseAdoption:
    """Inspects and adopts databases for the instances of one tenant."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    async def inspect(
        self, instance_id: int, database: str | None = None, *, earlier: bool = False
    ) -> AdoptionCandidate:
        """The database of an instance, or `database` as the instance would get it; nothing is changed.

        Raises:
            InstanceNotFoundError: there is no such instance, and `database` is not that of a lost one.
            DatabaseNotFoundError: there is no such database.
        """
        async with self._tenant.server.session() as session:
            instance = await self._instance(session, instance_id, database)
            if instance is None:
                return await self._lost_instance(session, instance_id, str(database), earlier=earlier)
            name = database or instance.database_name
            found = await adoption.inspect(session, await self._owner(instance), name, await self._needed())
        return await self._judged(found, instance, name, earlier=earlier)

    async def adopt(
        self, instance_id: int, database: str | None = None, *, earlier: bool = False
    ) -> AdoptionCandidate:
        """Write the mark of an instance on its database, or on `database`, which the registry records then.

        An instance that the registry has lost is recorded again. One in the trash comes back if `database`
        became its own after the state to which the registry was restored.

        With `earlier`, the database is meant even if it, or the instance, is in the trash, and another
        database of the instance was published later, or may have been.

        Raises:
            InstanceNotFoundError: there is no such instance, and `database` is not that of a lost one.
            DatabaseNotFoundError: there is no such database.
            AdoptionRefusedError: the database is not one that the instance may get.
            RefusedError: the instance has a job under way, or never had a database.
            NameTakenError: another instance has a database of that name.
        """
        tenant = self._tenant
        async with tenant.server.session() as session:
            instance = await self._instance(session, instance_id, database)
        if instance is None:
            return await self._restore(instance_id, str(database), earlier=earlier)
        if instance.is_in_trash:
            return await self._bring_back(instance, str(database), earlier=earlier)
        owner, needed = await self._owner(instance), await self._needed()
        name = database or instance.database_name
        async with tenant.server.session() as session:
            found = await adoption.inspect(session, owner, name, needed)
        marked = found is not None and found.is_of_instance
        # It gets its own name again: the registry was restored to before that, or its own database is gone.
        is_taken_out = marked and database is not None and is_trash_name(database)
        recorded = None if database is None or is_taken_out else self._database_name(database)
        told = None if found is None else await self._told_name(found, instance)
        # Before the fence is taken, which would end the session of a running job.
        async with tenant.adoptions.adopting(instance.id, marked=marked):
            if not is_taken_out:
                _require_adoptable(await self._judged(found, instance, name))
        async with (
            tenant.server.fenced(owner) as session,
            tenant.adoptions.adopting(instance.id, recorded, marked=marked, told=told) as row,
        ):
            await tenant.installation.require_confirmed(session)
            if is_taken_out:
                # No job, and no other adoption, changes any more which of its databases was published last.
                found = await adoption.inspect(session, await self._owner(row), name, needed)
                _require_adoptable(await self._judged(found, row, name, earlier=earlier))
            tenant.adoptions.go_on_after(row, await self._last_number(session, row))
            former = instance.database_name
            if is_taken_out:
                await self._name_as_its_own(session, row, name)
                name = former = row.database_name
            return await self._marked(session, row, name, former)

    async def _marked(
        self, session: asyncpg.Connection, row: DbInstance, name: str, former: str
    ) -> AdoptionCandidate:
        """Write the mark of the instance, which leaves the name `former`, on the database of this name."""
        left = () if name == former else (LeftName(former),)
        owner = replace(await self._owner(row), left=left, revision=str(uuid4()))
        found = await adoption.adopt(session, owner, name, await self._needed())
        return await self._adopted(session, row, name, found)

    async def require_usable(self, session: asyncpg.Connection, owner: Owner, database: str) -> None:
        """Check that the service can work on the database that carries the mark of `owner`'s instance.

        Raises:
            AdoptionRefusedError: it cannot, and why.
            DatabaseNotFoundError: there is none.
        """
        found = await adoption.inspect(session, owner, database, await self._needed())
        if found is None:
            raise DatabaseNotFoundError(database)
        if found.obstacle is not None:
            raise AdoptionRefusedError("", found.obstacle)

    async def _told_name(self, found: Candidate, instance: DbInstance) -> str | None:
        """What the comment calls the instance, if that is later than the registry; None if it is not."""
        marked = Owner.read(found.comment)
        if marked is None or marked.mark != str(instance.mark):
            return None
        known = await self._tenant.queries.revisions_of(instance.id)
        is_later = known.state_of(marked.database_id, marked.revision) is None
        return marked.name if is_later else None

    async def _last_number(self, session: asyncpg.Connection, instance: DbInstance) -> int:
        """The last job that has published one of the instance's databases, as their comments say."""
        its = of_instance(await listing.databases(session), await self._owner(instance))
        return max((one.owner.number for one in its if one.owner), default=0)

    async def _name_as_its_own(self, session: asyncpg.Connection, row: DbInstance, trash: str) -> None:
        marked = await adoption.owner_of(session, trash)
        its = await self._owner(row)
        if marked is not None and marked.revision is not None:  # known by the operator's word
            known = KnownRevisions((Revision(marked.revision, marked.database_id, RevisionState.CONFIRMED),))
            its = replace(its, database_id=marked.database_id, known=known, revision=marked.revision)
        await take_out(self._tenant.server, session, its, trash, row.database_name)

    async def _bring_back(self, instance: DbInstance, database: str, *, earlier: bool) -> AdoptionCandidate:
        """Take an instance out of the trash whose undelete the registry has forgotten.

        Its database is one that a reset has given it since; what is in the trash becomes a version.
        """
        tenant, needed = self._tenant, await self._needed()
        async with tenant.server.fenced(await self._owner(instance), before_waiting=leave_to_job) as session:
            await tenant.installation.require_confirmed(session)
            # Read again: no job changes any more which databases it has.
            trashed = await tenant.queries.any_instance(instance.id)
            if trashed is None or not trashed.is_in_trash:
                raise InstanceNotFoundError(instance.id)
            found = await adoption.inspect(session, await self._owner(trashed), database, needed)
            _require_adoptable(await self._judged(found, trashed, database, earlier=earlier))
            name = trashed.database_name if is_trash_name(database) else database
            number, former = await self._last_number(session, trashed), trashed.database_name
            told = None if found is None else await self._told_name(found, trashed)
            its = (self._database_name(name), number, told)
            async with tenant.adoptions.bringing_back(trashed.id, *its) as row:
                if name != database:
                    await self._name_as_its_own(session, row, database)
                return await self._marked(session, row, name, former)

    async def _adopted(
        self, session: asyncpg.Connection, row: DbInstance, database: str, found: Candidate | None
    ) -> AdoptionCandidate:
        """What was handed over; the row gets what the comment says, and versions what is in the trash."""
        candidate = _require_adoptable(_candidate(row, database, found))
        marked = Owner.read(candidate.comment)
        if marked is not None:
            row.database_template = marked.template or row.database_template
            its = UUID(marked.database_id), marked.template_generation
            # Another product may have made its ODS instance.
            is_published = row.is_published or row.status == InstanceStatus.COMPLETED
            await self._tenant.adoptions.hand_over(row, *its, is_published=is_published)
            if marked.revision is not None:
                await self._tenant.adoptions.record_revision(row, marked.revision)
        # Whatever a reset or a rename has begun, this is the database now, and this its name. A delete that
        # an outage has ended is not tried again without a client: it would drop what was handed over.
        row.replacement, row.undo_due, row.outages = None, False, 0
        if row.status != InstanceStatus.COMPLETED:
            # A worker that was suspended does not go on with the job that has failed. One that a client has
            # cancelled stays cancelled, and one that drops was to drop another database: only a request, no
            # signal, has either tried again.
            is_ended = row.is_called_off or drops_database(Operation(row.operation), row.arguments)
            row.request = uuid4()
            row.cancelled_attempt = row.attempt if is_ended else None
        known = {str(version.database_id) for version in await self._tenant.queries.versions()}
        replaced = await adoption.replaced_databases(session, await self._owner(row), database)
        await self._tenant.adoptions.keep_replaced(row, replaced, known)
        return candidate

    async def _instance(
        self, session: asyncpg.Connection, instance_id: int, database: str | None
    ) -> DbInstance | None:
        """The instance; None if there is none, and a database is named that may be that of a lost one.

        With a database that carries its mark, it may be in the trash. With a database, the id may also be an
        OdsInstanceId, which is all that drift and the reasons of failed jobs know: the mark, or else the name
        that the registry has, says which instance that is.
        """
        queries = self._tenant.queries
        if database is None:
            return await queries.instance(instance_id)
        owner = await adoption.owner_of(session, database)
        if owner is not None and owner.ods_instance_id == instance_id:
            return await queries.marked_instance(owner.mark)
        behind = await queries.instance_behind(instance_id)
        if owner is None and behind is not None and behind.database_name == database:
            return behind
        instance = await queries.any_instance(instance_id)
        if instance is None or instance.is_live:
            return instance
        is_its = owner is not None and owner.mark == str(instance.mark)
        return instance if is_its and instance.is_in_trash else None

    async def _restore(self, ods_instance_id: int, database: str, *, earlier: bool) -> AdoptionCandidate:
        """Record the instance again that the registry has lost and `database` belongs to."""
        tenant = self._tenant
        async with tenant.server.session() as session:
            _require_adoptable(await self._lost_instance(session, ods_instance_id, database, earlier=earlier))
            owner = await adoption.owner_of(session, database)
        if owner is None or (named := self._name_of_lost(owner, database)) is None:
            raise DatabaseNotFoundError(database)
        its = (*named, ods_instance_id, owner.mark, max(owner.number, 1), owner.template_generation)
        lost = ToldInstance(*its, owner.database_id, str(uuid4()))
        own = replace(
            owner,
            tenant=tenant.name,
            number=lost.number,
            name=lost.name,
            template=lost.template,
            trashed_name=None,
            revision=lost.revision,
        )
        async with tenant.server.fenced(own) as session:
            await tenant.installation.require_confirmed(session)
            await adoption.adopt(session, own, database, await self._needed())
            try:
                row = await tenant.adoptions.restore_lost(lost, self._database_name(database))
            except NameTakenError as taken:
                obstacle = _by_another_name(str(taken), ods_instance_id, database)
                raise AdoptionRefusedError("", obstacle) from None
        # The mark gets the number that the row has; what resets have put into the trash is recorded by that.
        return await self.adopt(row.id, database)

    async def _lost_instance(
        self, session: asyncpg.Connection, ods_instance_id: int, database: str, *, earlier: bool
    ) -> AdoptionCandidate:
        """The database of an instance that the registry does not know, as the instance would get it."""
        owner = await adoption.owner_of(session, database)
        found = await adoption.inspect(session, owner, database, await self._needed()) if owner else None
        if owner is None or found is None:
            raise InstanceNotFoundError(ods_instance_id)
        installation = (await self._tenant.instances.installation.state()).id
        if owner.ods_instance_id != ods_instance_id or owner.installation != installation:
            raise InstanceNotFoundError(ods_instance_id)
        named = self._name_of_lost(owner, database)
        obstacle = await self._obstacle_of_lost(owner, ods_instance_id, database) or found.obstacle
        if obstacle is None and not earlier:
            its = of_instance(await listing.databases(session), owner)
            obstacle = _later_obstacle(its, database, ods_instance_id)
        whose = (ods_instance_id, named[0] if named else "", "", owner.ods_instance_id)
        return _shown(whose, replace(found, adopted=False, obstacle=obstacle))

    async def _obstacle_of_lost(self, owner: Owner, ods_instance_id: int, database: str) -> str | None:
        """Why the instance that `owner` describes cannot be recorded again under `ods_instance_id`."""
        queries = self._tenant.queries
        if await queries.known_marks([owner.mark]):
            return KNOWN_BY_REGISTRY
        if (taken_by := await queries.holder_of(ods_instance_id)) is not None:
            return (
                f"The OdsInstanceId {ods_instance_id} was given to '{taken_by}' since the registry lost the"
                " instance. Remove the comment of the database (COMMENT ON DATABASE … IS NULL), and let the"
                " ODS/API route to it under another id: POST /v2/odsInstances."
            )
        if is_trash_name(database):
            return out_of_trash_by_hand(database, owner)
        return None if self._name_of_lost(owner, database) else _NO_INSTANCES_NAME

    def _name_of_lost(self, owner: Owner, database: str) -> tuple[str, str] | None:
        """The name and template of the instance that `owner` describes; None if nothing tells them.

        An operator who has given the database another name means the instance by that.
        """
        is_told = owner.role is Role.CURRENT and not name_errors(owner.name, owner.template)
        if is_told and database_name(owner.name, owner.template) == database:
            return owner.name, owner.template
        return self._named(database) or ((owner.name, owner.template) if is_told else None)

    def _database_name(self, database: str) -> DatabaseName:
        return DatabaseName(database, self._tenant.connection_strings.encrypted(database))

    async def _owner(self, row: DbInstance) -> KnownOwner:
        """The instance, with the revisions that the registry knows of its databases."""
        known, installation = await self._tenant.queries.revisions_of(row.id), self._tenant.installation
        its = (self._tenant.name, row.ods_instance_id, _JOB, str(row.mark), await installation.id())
        owner = Owner(
            *its,
            row.job_number,
            name=row.name,
            template=row.database_template,
            database_id=str(row.database_id),
        )
        return owner.knowing(known)

    def _named(self, database: str) -> tuple[str, str] | None:
        return instance_named(database, self._tenant.settings.template_databases)

    async def _judged(
        self, found: Candidate | None, instance: DbInstance, name: str, *, earlier: bool = False
    ) -> AdoptionCandidate:
        """The database `name` as the instance would get it.

        Other tenants may have databases and registries of the same role on the server. An obstacle is also
        that a reset was to put the database in place; that the instance had it before a reset, unless its own
        is gone; and, unless the `earlier` one is meant, that another one was published later.

        Raises:
            DatabaseNotFoundError: there is none, or clients of the instance are told nothing of it.
        """
        if found is None or self._is_foreign(found, instance):
            raise DatabaseNotFoundError(name)
        obstacle = await self._version_obstacle(found, instance)
        if obstacle is None and found.is_of_instance:
            obstacle = await self._choice_obstacle(found, instance, earlier=earlier)
        return _candidate(instance, name, replace(found, obstacle=found.obstacle or obstacle))

    def _is_foreign(self, found: Candidate, instance: DbInstance) -> bool:
        """Whether clients of the instance are told nothing of the database, not even that there is one.

        One with the name that the registry has for the instance's is foreign only if another instance's mark
        is on it. Any other one is, unless it has the instance's mark or is there to be adopted.
        """
        if found.is_of_instance:
            return False
        if found.name == instance.database_name:
            return Owner.read(found.comment) is not None
        return found.is_foreign or self._named(found.name) is None

    async def _version_obstacle(self, found: Candidate, instance: DbInstance) -> str | None:
        """Why a database that a reset has made, or replaced, is not given to the instance."""
        async with self._tenant.server.session() as session:
            own = await find_own(session, await self._owner(instance))
        waiting = [row.name for row in own if is_reset_name(row.name) and not row.is_invalid]
        if waiting and (found.name in waiting or not found.adopted):
            return not_exchanged(instance, waiting[0])
        if is_reset_name(found.name):
            return f"The database '{found.name}' was made for a reset that did not end. It is removed."
        versions = await self._tenant.queries.versions()
        version = next((one for one in versions if one.trash_name == found.name), None)
        # One that is all that is left of the instance can be exchanged with nothing.
        return None if version is None or not own else _way_back(instance, version, own)

    async def _choice_obstacle(self, found: Candidate, instance: DbInstance, *, earlier: bool) -> str | None:
        """Why this one of its databases is not given to the instance."""
        if not is_trash_name(found.name) and not instance.is_in_trash:
            return None
        async with self._tenant.server.session() as session:
            its = of_instance(await listing.databases(session), await self._owner(instance))
        last = listing.published_last(its)
        was_replaced = last is not None and last.name != found.name
        if instance.is_in_trash and found.name == instance.database.trash_name and not was_replaced:
            return f"It is in the trash: `ods instance undelete {instance.id}` brings it back."
        if instance.is_in_trash and (copies := _same(its, found.name)):
            return (
                f"{' and '.join(copies)} carry the mark of one database of the instance: one is a copy."
                " Remove the comment of that (COMMENT ON DATABASE … IS NULL), then try again."
            )
        return None if earlier else _later_obstacle(its, found.name, instance.id)

    async def _needed(self) -> set[str]:
        """Databases that are no instance's: the templates and the registry."""
        return {*self._tenant.settings.template_databases.values(), await self._tenant.queries.database()}


def _way_back(instance: DbInstance, version: InstanceDatabase, own: Sequence[FoundDatabase]) -> str:
    """How an instance gets a database from before a reset again, while it has one of its own."""
    if all(row.is_invalid for row in own):
        name = own[0].name
        return f"A DROP of the instance's database '{name}' was interrupted. Drop it again, by hand."
    had = f"The instance {version.instance_id} had the database '{version.trash_name}' before a reset."
    names = [row.name for row in own if not row.is_invalid]
    if instance.is_live and instance.database_name not in names:
        had += (
            " Its own carries its mark under another name than the registry has: first"
            f" `ods instance adopt {instance.id} --database {names[0]}`."
        )
    if version.purging_since is not None:
        return f"{had} Its time is over, and it is being dropped."
    return (
        f"{had} `ods instance undo-reset {version.instance_id} --database {version.trash_name}` brings it"
        " back."
    )


def _require_adoptable(candidate: AdoptionCandidate) -> AdoptionCandidate:
    if candidate.obstacle:
        raise AdoptionRefusedError(candidate.status, candidate.obstacle)
    return candidate


def _candidate(instance: DbInstance, database: str, found: Candidate | None) -> AdoptionCandidate:
    if found is None:
        raise DatabaseNotFoundError(database)
    return _shown((instance.id, instance.name, instance.status, instance.ods_instance_id), found)


def _shown(whose: tuple[int, str, str, int], found: Candidate) -> AdoptionCandidate:
    """A database, and the id, name, status and OdsInstanceId of its instance."""
    return AdoptionCandidate(
        *(*whose, found.name, found.owner, found.size_bytes, found.sessions, found.comment),
        adopted=found.adopted,
        obstacle=found.obstacle,
    )


def _later_obstacle(its: Collection[Database], database: str, instance_id: int) -> str | None:
    """Why the operator must say that this one is meant: another was published later, or may have been."""
    last = listing.published_last(its)
    if last is not None and last.name == database:
        return None
    adopt = f"`ods instance adopt {instance_id} --database"
    which = f"'{last.name}' was" if last else "By the comments, another one may have been"
    first = f"If that was in use last: {adopt} {last.name}`. " if last else ""
    return (
        f"The instance has several databases: {listed(its)}. {which} published later than '{database}'."
        f" {first}To choose this one all the same: {adopt} {database} --earlier`. Closed ones in the trash"
        " are versions of the instance then, and are dropped when their time is over."
    )


def _same(its: Collection[Database], name: str) -> list[str]:
    """The databases that carry the mark of this one, if there are several: all but one are copies."""
    marks = {one.name: one.owner.database_id for one in its if one.owner}
    same = sorted(f"'{other}'" for other, mark in marks.items() if mark == marks.get(name))
    return same if len(same) > 1 else []


def _by_another_name(reason: str, ods_instance_id: int, database: str) -> str:
    """How a lost instance is recorded again if another one has its name by now."""
    other = "EdFi_Ods_NAME_TEMPLATE"
    return (
        f"{reason.removesuffix(' Choose another name.')} It may have been deleted since the registry was"
        " saved, and this one have got its name. Give this database another name: ALTER DATABASE"
        f' "{database}" RENAME TO "{other}"; then `ods instance adopt {ods_instance_id} --database {other}`.'
        " The other one comes back after that."
    )
