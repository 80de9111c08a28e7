"""What the page of one instance shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.dependencies import (
    BackupRecordsDep,
    InstanceQueriesDep,
    InstanceUsageDep,
    JobListDep,
    RecentChangesDep,
    SnapshotStoreDep,
)
from api.http.parsing import path_id
from api.http.problems import found
from api.schemas.instances import Instance, InstanceContext
from api.services.instances import InstanceServiceDep
from ods.console.views.backups import BackupRow, backup_row
from ods.console.views.progress import ProgressView, progress_of
from ods.console.views.statuses import Badge, instance_badge, job_badge
from ods.console.views.trends import SizesView, TrendsViewDep
from ods.model.operations import CAN_BE_BACKED_UP, InstanceStatus, Product
from ods.registry.backups.records import BackupFilter
from ods.registry.instances.job_list import JobFilter
from ods.registry.snapshots.store import SNAPSHOT, ListedSnapshot
from ods.registry.storage.listing import Page
from ods.registry.storage.models import (
    DbInstance,
    EducationOrganization,
    InstanceDatabase,
    Job,
    OdsInstanceDerivative,
)
from ods.tenants.usage import InstanceFigures

InstanceId = Annotated[int, path_id("instance")]
"""The id of an instance in the path of a page."""

_SHOWN_JOBS = 10
_SHOWN_BACKUPS = 5
_SHOWN_ORGANIZATIONS = 50


@dataclass(frozen=True)
class InstanceActions:
    """What a client can ask for now, as far as the status of the instance decides it.

    The request itself is judged by the same rules as the API's, and may be refused for other reasons.
    """

    rename: bool
    delete: bool
    retry: bool
    undelete: bool
    copy: bool
    reset: bool
    back_up: bool


@dataclass(frozen=True)
class InstanceHead:
    """The beginning of the page, which changes while a job runs.

    Attributes:
        row: the instance, which may be deleted.
        badge: its status.
        progress: what is under way; None if nothing is.
        described: the instance as the API shows it.
        can: what a client can ask for now.
    """

    row: DbInstance
    badge: Badge
    progress: ProgressView | None
    described: Instance
    can: InstanceActions

    @property
    def was_not_created(self) -> bool:
        """Whether its creation has failed, so that there is nothing to lose by a delete."""
        return self.row.status == InstanceStatus.ERROR and self.row.rules.makes is Product.DATABASE


@dataclass(frozen=True)
class JobLine:
    """One job of the instance."""

    job: Job
    badge: Badge


@dataclass(frozen=True)
class InstanceCopies:
    """What there is beside the instance's database, which changes when jobs end.

    Attributes:
        row: the instance.
        can: what a client can ask for now.
        backups: its newest backups.
        snapshots: its read-only copies.
        versions: the databases that it had before resets, the newest first.
    """

    row: DbInstance
    can: InstanceActions
    backups: Sequence[BackupRow]
    snapshots: Sequence[ListedSnapshot]
    versions: Sequence[InstanceDatabase]


@dataclass(frozen=True)
class InstanceContexts:
    """By what the ODS/API chooses the instance, and what may be read instead of it.

    Attributes:
        row: the instance.
        contexts: its contexts.
        derivatives: what may be read instead of it.
    """

    row: DbInstance
    contexts: Sequence[InstanceContext]
    derivatives: Sequence[OdsInstanceDerivative]

    @property
    def can_set(self) -> bool:
        """Whether contexts can be set now."""
        return self.row.status == InstanceStatus.COMPLETED


@dataclass(frozen=True)
class InstanceOrganizations:
    """The education organizations of an instance.

    Attributes:
        row: the instance.
        rows: the first of them.
        has_more: whether there are more.
        can_refresh: whether they can be read anew now.
    """

    row: DbInstance
    rows: Sequence[EducationOrganization]
    has_more: bool
    can_refresh: bool


@dataclass(frozen=True)
class InstancePage:
    """What the page shows.

    Attributes:
        head: its beginning.
        usage: how its database is used; a text says why that is not known.
        sizes: how large its database was on the days before.
        jobs: its newest jobs.
        contexts: by what the ODS/API chooses it.
        source: the instance that it is a copy of; None if it is none.
        organizations: its education organizations.
        copies: what was made of it, or kept.
    """

    head: InstanceHead
    usage: InstanceFigures | str
    sizes: SizesView
    jobs: Sequence[JobLine]
    contexts: InstanceContexts
    source: DbInstance | None
    organizations: InstanceOrganizations
    copies: InstanceCopies


class InstanceView:
    """Reads what the page shows."""

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        service: InstanceServiceDep,
        queries: InstanceQueriesDep,
        usage: InstanceUsageDep,
        job_list: JobListDep,
        changes: RecentChangesDep,
        backups: BackupRecordsDep,
        snapshots: SnapshotStoreDep,
        trends: TrendsViewDep,
    ) -> None:
        self._service = service
        self._queries = queries
        self._usage = usage
        self._job_list = job_list
        self._changes = changes
        self._backups = backups
        self._snapshots = snapshots
        self._trends = trends

    async def row(self, instance_id: int) -> DbInstance:
        """The instance, which may be deleted.

        Raises:
            ProblemError: 404, there is none.
        """
        return found(await self._queries.any_instance(instance_id), "instance", instance_id)

    async def head(self, instance_id: int) -> InstanceHead:
        """The beginning of the page.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        row = await self.row(instance_id)
        (described,) = await self._service.described([row])
        jobs = await self._changes.jobs_under_way() if described.progress else {}
        progress = progress_of(described, jobs.get(described.job_id or ""))
        return InstanceHead(row, instance_badge(row), progress, described, _actions(row))

    async def page(self, instance_id: int) -> InstancePage:
        """The whole page.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        head = await self.head(instance_id)
        usage = await self.usage(head.row)
        size = None if isinstance(usage, str) else usage.database.size_bytes
        return InstancePage(
            head,
            usage,
            await self._trends.sizes_of(instance_id, size),
            await self.jobs(instance_id),
            await self._contexts(head.row, head.described),
            await self.source(head.row),
            await self._organizations(head.row),
            await self._copies(head.row),
        )

    async def source(self, row: DbInstance) -> DbInstance | None:
        """The instance that this one is a copy of; None if it is none."""
        copy_of = row.database.copy_of
        return None if copy_of is None else await self._queries.any_instance(copy_of)

    async def contexts(self, instance_id: int) -> InstanceContexts:
        """By what the ODS/API chooses it.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        row = await self.row(instance_id)
        (described,) = await self._service.described([row])
        return await self._contexts(row, described)

    async def _contexts(self, row: DbInstance, described: Instance) -> InstanceContexts:
        derivatives = await self._queries.derivatives_of(row.ods_instance_id)
        return InstanceContexts(row, described.contexts, derivatives)

    async def organizations(self, instance_id: int) -> InstanceOrganizations:
        """Its education organizations.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        return await self._organizations(await self.row(instance_id))

    async def _organizations(self, row: DbInstance) -> InstanceOrganizations:
        rows = await self._queries.education_organizations(row.ods_instance_id, _SHOWN_ORGANIZATIONS + 1)
        has_more = len(rows) > _SHOWN_ORGANIZATIONS
        can_refresh = row.status == InstanceStatus.COMPLETED
        return InstanceOrganizations(row, rows[:_SHOWN_ORGANIZATIONS], has_more, can_refresh)

    async def copies(self, instance_id: int) -> InstanceCopies:
        """What there is beside the instance's database.

        Raises:
            ProblemError: 404, there is no such instance.
        """
        return await self._copies(await self.row(instance_id))

    async def _copies(self, row: DbInstance) -> InstanceCopies:
        newest = Page("Id", limit=_SHOWN_BACKUPS)
        backups = await self._backups.page(BackupFilter(instance_id=row.id), newest)
        return InstanceCopies(
            row,
            _actions(row),
            [backup_row(state) for state in backups],
            await self._snapshots.snapshots_of(row.id),
            await self._queries.versions_of(row.id),
        )

    async def snapshot(self, instance_id: int, snapshot_id: int) -> ListedSnapshot:
        """One snapshot of the instance.

        Raises:
            ProblemError: 404, it has no such snapshot.
        """
        listed = await self._snapshots.snapshots_of(instance_id)
        its = (one for one in listed if one.snapshot.id == snapshot_id)
        return found(next(its, None), SNAPSHOT, snapshot_id)

    async def usage(self, row: DbInstance) -> InstanceFigures | str:
        """How the instance's database is used; a text says why that is not known."""
        return (await self._usage.of_page([row]))(row)

    async def jobs(self, instance_id: int) -> list[JobLine]:
        """The newest jobs of the instance."""
        jobs = await self._job_list.page(JobFilter(instance_id=instance_id), offset=0, limit=_SHOWN_JOBS)
        return [JobLine(job, job_badge(job.status)) for job in jobs]


InstanceViewDep = Annotated[InstanceView, Depends()]


def _actions(row: DbInstance) -> InstanceActions:
    status = InstanceStatus(row.status)
    has_failed = status in {InstanceStatus.ERROR, InstanceStatus.DELETE_FAILED}
    return InstanceActions(
        rename=status is InstanceStatus.COMPLETED,
        delete=row.is_live and (has_failed or status is InstanceStatus.COMPLETED),
        retry=status in row.rules.retry.sources,
        undelete=row.is_in_trash and status in {InstanceStatus.DELETED, InstanceStatus.DELETE_FAILED},
        copy=status is InstanceStatus.COMPLETED,
        reset=status is InstanceStatus.COMPLETED,
        back_up=status in CAN_BE_BACKED_UP,
    )
