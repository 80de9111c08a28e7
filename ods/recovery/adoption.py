"""Handing a database over to an instance that did not make it.

Registry and server decide together: the row of the instance; and the mark (the comment that names an owner),
owner and name of the database.
"""

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from ods.databases import adoption
from ods.databases.adoption import Candidate
from ods.databases.errors import HOW_TO_RECOVER
from ods.databases.ownership import KnownOwner, LeftName, Owner
from ods.model.arguments import drops_database
from ods.model.operations import InstanceStatus, Operation
from ods.registry.instances.adoptions import DatabaseName
from ods.registry.instances.naming import (
    instance_named,
)
from ods.registry.storage.models import DbInstance
from ods.tenants.tenant import Tenant
from ods.tenants.usage import DatabaseNotFoundError

_JOB = "adopted"
"""In the mark, in place of the job that made the database."""

_NO_INSTANCES_NAME = "No instance has a database of this name: rename it to EdFi_Ods_NAME_TEMPLATE."


class AdoptionRefusedError(Exception):
    """The database cannot be handed over to the instance."""

    def __init__(self, status: str, obstacle: str) -> None:
        super().__init__(obstacle)
        self.status = status
        self.obstacle = obstacle


@dataclass(frozen=True)
class AdoptionCandidate:
    """A database, and the instance that has it or would get it."""

    id: int
    name: str
    status: str
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

    async def inspect(self, instance_id: int, database: str | None = None) -> AdoptionCandidate:
        """The database of an instance, or `database` as the instance would get it; nothing is changed.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            DatabaseNotFoundError: there is no such database.
        """
        instance = await self._instance(instance_id, database)
        name, owner = database or instance.database_name, await self._owner(instance)
        async with self._tenant.server.session() as session:
            found = await adoption.inspect(session, owner, name, await needed_databases(self._tenant))
        return await self._judged(found, instance, name)

    async def adopt(self, instance_id: int, database: str | None = None) -> AdoptionCandidate:
        """Write the mark of an instance on its database, or on `database`, which the registry records then.

        Raises:
            InstanceNotFoundError: there is no such live instance.
            DatabaseNotFoundError: there is no such database.
            AdoptionRefusedError: the database is not one that the instance may get.
            RefusedError: the instance has a job under way, or never had a database.
            NameTakenError: another instance has a database of that name.
        """
        tenant = self._tenant
        instance = await self._instance(instance_id, database)
        owner, needed = await self._owner(instance), await needed_databases(self._tenant)
        name = database or instance.database_name
        async with tenant.server.session() as session:
            found = await adoption.inspect(session, owner, name, needed)
        marked = found is not None and found.is_of_instance
        recorded = None if database is None else self._database_name(database)
        # Before the fence is taken, which would end the session of a running job.
        async with tenant.adoptions.adopting(instance.id, marked=marked):
            _require_adoptable(await self._judged(found, instance, name))
        async with (
            tenant.server.fenced(owner) as session,
            tenant.adoptions.adopting(instance.id, recorded, marked=marked) as row,
        ):
            await tenant.installation.require_confirmed(session)
            former = instance.database_name
            left = () if name == former else (LeftName(former),)
            its = replace(await self._owner(row), left=left, revision=str(uuid4()))
            return await self._adopted(row, name, await adoption.adopt(session, its, name, needed))

    async def _adopted(self, row: DbInstance, database: str, found: Candidate | None) -> AdoptionCandidate:
        """What was handed over; the row gets what the comment says."""
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
        return candidate

    async def _instance(self, instance_id: int, database: str | None) -> DbInstance:
        """The live instance.

        With a database, the id may also be the OdsInstanceId, which is all that the reasons of failed jobs
        know, of the instance whose database has that name by the registry.
        """
        queries = self._tenant.queries
        behind = None if database is None else await queries.instance_behind(instance_id)
        if behind is not None and behind.database_name == database:
            return behind
        return await queries.instance(instance_id)

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

    async def _judged(self, found: Candidate | None, instance: DbInstance, name: str) -> AdoptionCandidate:
        """The database `name` as the instance would get it.

        Other tenants may have databases and registries of the same role on the server.

        Raises:
            DatabaseNotFoundError: there is none, or clients of the instance are told nothing of it.
        """
        if found is None or self._is_foreign(found, instance):
            raise DatabaseNotFoundError(name)
        obstacle = found.obstacle
        versions = {version.trash_name for version in await self._tenant.queries.versions()}
        if obstacle is None and found.is_of_instance and name in versions:
            obstacle = (
                f"The instance had the database '{name}' before a reset."
                f" `ods instance undo-reset {instance.id} --database {name}` brings it back; first `ods"
                " recover`, if its own is not as the registry knows it."
            )
        elif obstacle is None and found.is_of_instance and not _is_as_recorded(found, instance):
            obstacle = (
                f"The database '{name}' carries the mark of the instance, but not as the registry knows it:"
                " registry or server was restored to an earlier state, or it was changed by hand."
                f" {HOW_TO_RECOVER}"
            )
        return _candidate(instance, name, replace(found, obstacle=obstacle))

    def _is_foreign(self, found: Candidate, instance: DbInstance) -> bool:
        """Whether clients of the instance are told nothing of the database, not even that there is one.

        One with the name that the registry has for the instance's is foreign only if another instance's mark
        is on it. Any other one is, unless it has the instance's mark or is there to be adopted.
        """
        if found.is_of_instance:
            return False
        if found.name == instance.database_name:
            return Owner.read(found.comment) is not None
        named = instance_named(found.name, self._tenant.settings.template_databases)
        return found.is_foreign or named is None


async def needed_databases(tenant: Tenant) -> set[str]:
    """Databases that are no instance's: the templates and the registry."""
    return {*tenant.settings.template_databases.values(), await tenant.queries.database()}


def _is_as_recorded(found: Candidate, instance: DbInstance) -> bool:
    """Whether it is the instance's own database, under the name that the registry has."""
    return found.adopted and found.name == instance.database_name


def _require_adoptable(candidate: AdoptionCandidate) -> AdoptionCandidate:
    if candidate.obstacle:
        raise AdoptionRefusedError(candidate.status, candidate.obstacle)
    return candidate


def _candidate(instance: DbInstance, database: str, found: Candidate | None) -> AdoptionCandidate:
    if found is None:
        raise DatabaseNotFoundError(database)
    return AdoptionCandidate(
        id=instance.id,
        name=instance.name,
        status=instance.status,
        ods_instance_id=instance.ods_instance_id,
        database_name=found.name,
        owner=found.owner,
        size_bytes=found.size_bytes,
        sessions=found.sessions,
        comment=found.comment,
        adopted=found.adopted,
        obstacle=found.obstacle,
    )
