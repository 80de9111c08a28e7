"""What becomes of the database of an instance whose job has ended without success."""

import logging
from dataclasses import replace
from typing import assert_never
from uuid import UUID

import asyncpg

from ods.backups.backing_up import program_label
from ods.databases import activating, dropping, replacing, retiring, trash_backup
from ods.databases.errors import NotOursError
from ods.databases.left_names import record_left
from ods.databases.lookup import find_own, has_database, published_as
from ods.databases.ownership import KnownOwner
from ods.databases.scratch import end_scratch_programs
from ods.model.operations import InstanceStatus, Undo
from ods.model.revisions import Role
from ods.registry.instances.job_store import Position
from ods.registry.instances.jobs import InstanceJob
from ods.registry.instances.naming import is_trash_name
from ods.registry.storage.errors import NameTakenError
from ods.tenants.cancelling import CancelledDrops
from ods.tenants.job_owners import exchange_of, owner_of, trash_job
from ods.tenants.kept_databases import KeptDatabases
from ods.tenants.tenant import Tenant

_logger = logging.getLogger(__name__)


class Compensation:
    """Undoes what a failed or cancelled job has left, on a session with the fence of its instance."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._cancelled_drops = CancelledDrops(tenant.jobs)
        self._kept = KeptDatabases(tenant)

    async def undo(self, session: asyncpg.Connection, job: InstanceJob, position: Position) -> bool | None:
        """Undo what the job has left, as `Rules.undo` says; no published database is dropped.

        True if the create has failed after it had published the database: the instance is `Completed` now.
        """
        followed = await self._undo(session, job, position)
        await self._kept.write(session, job)
        return followed

    async def _undo(self, session: asyncpg.Connection, job: InstanceJob, position: Position) -> bool | None:
        reached, owner = position.status, owner_of(job).knowing(position.known, job.request, job.attempt)
        deleted = reached is InstanceStatus.DELETED
        if job.replacement is not None:
            return await self._end_replacement(session, job, owner, deleted=deleted)
        followed = None
        if await self._is_cancelled_purge(job, reached):
            await self._compensate(session, job, owner)
            await self._cancelled_drops.follow(session, job)
        elif reached == job.rules.fail.target:
            followed = await self._compensate(session, job, owner)
            if job.rules.drops and job.rules.is_live and position.is_cancelled:
                await self._cancelled_drops.follow(session, job)
        else:
            can_come_back = not deleted or position.is_in_trash
            await self._remove_private(session, job, deleted=deleted, can_come_back=can_come_back)
        await record_left(session, owner_of(job), None if deleted else job.database)
        await self._tenant.jobs.end_undo(job)
        return followed

    async def _is_cancelled_purge(self, job: InstanceJob, reached: InstanceStatus) -> bool:
        """Whether the job is a purge that is not done, of an instance that is in the trash as before."""
        is_back = reached == job.rules.cancel_running.target
        return not job.rules.is_live and is_back and not await self._tenant.jobs.is_done(job)

    async def _end_replacement(
        self, session: asyncpg.Connection, job: InstanceJob, owner: KnownOwner, *, deleted: bool
    ) -> bool | None:
        """Undo a reset, or its undo; or record it as done if the databases were exchanged.

        True if it is recorded, and is what the job was to do: not if a delete has overtaken the reset.
        """
        exchanged = await replacing.discard_other(session, exchange_of(job, owner), deleted=deleted)
        if exchanged is not None:
            done = replace(job, template_generation=exchanged.template_generation)
            followed = await self._tenant.jobs.follow_exchange(done)
            if followed:
                _logger.warning("%s had exchanged the databases: it is recorded as done.", job.job_id)
            return True if followed and job.rules.replaces else None
        await self._drop_staging(session, job)
        await self._tenant.jobs.end_replacement(job)
        return None

    async def _remove_private(
        self,
        session: asyncpg.Connection,
        job: InstanceJob,
        *,
        deleted: bool = False,
        can_come_back: bool = True,
    ) -> None:
        """Drop databases under private names that were made for the instance and that no job knows of.

        A database in the trash that any purge has opened is closed, even if that is not the last job by the
        registry, which may have been restored to before it.
        """
        await self._drop_staging(session, job, can_come_back=can_come_back)
        versions = await self._tenant.queries.versions_of(job.instance_id)
        known = {str(version.database_id) for version in versions}
        await replacing.drop_unknown(session, owner_of(job), known, deleted=deleted)
        await trash_backup.close_opened(session, owner_of(job), job.trash_database)

    @staticmethod
    async def _drop_staging(
        session: asyncpg.Connection, job: InstanceJob, *, can_come_back: bool = True
    ) -> None:
        """Drop the unfinished copy, unless it may be all that is left of the instance's database.

        It may be if the server was put back to before the database was published: the registry has one, the
        server has none.
        """
        must_have_one = job.published and can_come_back
        if not must_have_one or await has_database(session, owner_of(job)):
            await dropping.drop_staging(session, owner_of(job))

    async def _compensate(
        self, session: asyncpg.Connection, job: InstanceJob, owner: KnownOwner
    ) -> bool | None:
        match job.rules.undo:
            case Undo.REMOVE_STAGING:
                await dropping.drop_staging(session, owner)
                return await self._follow_database(session, job)
            case Undo.RENAME_BACK:
                await self._rename_back(session, job, owner)
                await self._remove_private(session, job)
            case Undo.OPEN_AGAIN:
                await self._rename_back(session, job, owner)
                await self._remove_private(session, job)
                await dropping.open_again(session, owner, job.databases)
            case Undo.BACK_TO_TRASH:
                if await self._has_taken_out(session, job, owner):
                    put_back = replace(trash_job(job, owner.as_confirmed()), put_back=True)
                    await retiring.retire(self._tenant.server, session, put_back)
                await trash_backup.close_opened(session, owner, job.trash_database)
            case Undo.REMOVE_SNAPSHOT:
                await self._remove_private(session, job)
                await self._tenant.snapshots.remove_abandoned(session, job)
            case Undo.END_BACKUP:
                await dropping.end_programs(session, program_label(UUID(job.mark)))
                await self._remove_private(session, job)
            case Undo.CLOSE_TRASH:
                await self._end_verification(session, job)
                await self._remove_private(session, job)
            case Undo.END_REPLACEMENT:  # the row shows what is left of a replacement
                await self._remove_private(session, job)
            case unknown:
                assert_never(unknown)
        return None

    @staticmethod
    async def _has_taken_out(session: asyncpg.Connection, job: InstanceJob, owner: KnownOwner) -> bool:
        """Whether the instance's database is not in the trash any more, where the job has found it.

        A copy of it that was made by hand, under a name that is none of the job's, is no sign of that. One
        that is half dropped is lost.
        """
        own = [row for row in await find_own(session, owner) if not row.is_invalid]
        out = [row for row in own if not (is_trash_name(row.name) and row.role is Role.RETAINED)]
        is_in_trash = len(out) < len(own)
        return any(not is_in_trash or row.name in job.databases for row in out)

    async def _rename_back(self, session: asyncpg.Connection, job: InstanceJob, owner: KnownOwner) -> None:
        """Undo a rename; if another database has the old name by now, record the new one instead.

        Otherwise the ODS/API would be led to that other database.
        """
        server = self._tenant.server
        try:
            await activating.rename_back(server, session, owner, job.database, job.final_database)
        except NotOursError:
            connection_string = self._tenant.connection_strings.encrypted(job.final_database)
            if not await self._tenant.jobs.follow_rename(job, connection_string):
                raise
            await record_left(session, owner, job.final_database)
            _logger.warning(
                "%s was not undone, for another database is named '%s': the instance's is '%s' from now on.",
                *(job.job_id, job.database, job.final_database),
            )
            if job.rules.renames:
                await self._tenant.jobs.explain_failure(
                    job,
                    f"The rename failed after it had named the database '{job.final_database}'. That stays,"
                    f" for another database is named '{job.database}' by now. The ODS/API is led to the"
                    " instance's own. Retry the rename, or rename the instance otherwise.",
                )

    async def _end_verification(self, session: asyncpg.Connection, job: InstanceJob) -> None:
        """End the pg_restore of a purge whose worker is suspended: each DROP DATABASE would wait for it."""
        if job.makes_backup is not None:
            installation = await self._tenant.jobs.installation.require_confirmed()
            await end_scratch_programs(session, installation.id, UUID(job.makes_backup))

    async def _follow_database(self, session: asyncpg.Connection, job: InstanceJob) -> bool | None:
        """Complete the row of a failed create if its database was published; true if that is done."""
        published = await published_as(session, owner_of(job), job.database)
        if published is None:
            return None
        jobs, connection_strings = self._tenant.jobs, self._tenant.connection_strings
        try:
            followed = await jobs.follow_database(
                replace(job, template_generation=published.template_generation),
                connection_strings.encrypted(job.database),
                published.revision,
            )
        except NameTakenError as error:
            await jobs.explain_failure(
                job,
                f"{error} The database '{job.database}' of this instance is there and was left. Retry when"
                " the name is free; or detach the instance, which leaves the database; or, unless"
                " ODS_TRASH_DAYS is 0, delete it, which moves the database to the trash.",
            )
            return None
        if followed:
            _logger.warning(
                "%s had failed, but its database is published: the instance is Completed.", job.job_id
            )
        return followed or None
