"""What the pages *Backups* and of one backup show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query

from api.dependencies import BackupRecordsDep, InstanceQueriesDep, SettingsDep
from api.http.parsing import MAX_INT32, whole_number
from ods.backups.manifest import BackupKind
from ods.console.views.paging import PageNumber, Paging
from ods.console.views.progress import ProgressView
from ods.console.views.statuses import Badge, job_badge
from ods.model.operations import JOB_UNDER_WAY, JobStatus
from ods.registry.backups.records import BackupFilter, BackupState
from ods.registry.backups.rows import VERIFICATION_RUNS, VERIFICATION_WAITS
from ods.registry.storage.listing import Page
from ods.registry.storage.models import DbInstance

PER_PAGE = 25


@dataclass(frozen=True)
class BackupsQuery:
    """What the user wants to see; what makes no sense is as if it were not there.

    Attributes:
        kind: one of the kinds, or empty.
        status: one of the statuses, or empty.
        instance: the id of an instance as it was typed, or empty.
        page: counts from 1.
    """

    kind: str = ""
    status: str = ""
    instance: str = ""
    page: int = 1

    @property
    def chosen(self) -> BackupFilter:
        """All backups that fulfil the filter."""
        number = whole_number(self.instance)
        return BackupFilter(
            kinds=[kind for kind in BackupKind if kind == self.kind],
            instance_id=number if number is not None and number <= MAX_INT32 else None,
            statuses=[status for status in JobStatus if status == self.status],
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the address, without the number of the page."""
        return {"kind": self.kind, "status": self.status, "instance": self.instance}

    @property
    def number(self) -> int | None:
        """The number of the page in its address; the first one has none."""
        return self.page if self.page > 1 else None

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves backups out."""
        return bool(self.kind or self.status or self.instance)


async def _query(
    page: PageNumber = 1,
    kind: Annotated[str, Query()] = "",
    status: Annotated[str, Query()] = "",
    instance: Annotated[str, Query()] = "",
) -> BackupsQuery:
    return BackupsQuery(kind, status, instance.strip(), page)


BackupsQueryDep = Annotated[BackupsQuery, Depends(_query)]


@dataclass(frozen=True)
class BackupRow:
    """One backup, as lists and its own page show it.

    Attributes:
        state: the backup, and how far it is.
        badge: its status.
        progress: how far it is; None if it does not tell, or has ended.
        verification: how its last verification has ended, or that one is under way; None if there was none.
    """

    state: BackupState
    badge: Badge
    progress: ProgressView | None
    verification: Badge | None

    @property
    def is_stored(self) -> bool:
        """Whether it can be restored and verified."""
        return self.state.backup.stored_id is not None

    @property
    def is_being_verified(self) -> bool:
        """Whether a verification waits or runs."""
        return self.state.backup.verification in {VERIFICATION_WAITS, VERIFICATION_RUNS}


@dataclass(frozen=True)
class BackupsPage:
    """What the list shows.

    Attributes:
        query: what the user wants to see.
        rows: the backups.
        paging: which part of all these are.
        are_unencrypted: whether backups are made that are not encrypted.
        statuses: what can be chosen.
        kinds: what can be chosen.
    """

    query: BackupsQuery
    rows: Sequence[BackupRow]
    paging: Paging
    are_unencrypted: bool
    statuses: Sequence[str] = tuple(JobStatus)
    kinds: Sequence[str] = tuple(BackupKind)


@dataclass(frozen=True)
class BackupPage:
    """What the page of one backup shows.

    Attributes:
        row: the backup, as in the list.
        instance: its instance, which may be deleted; None if there is no row of it any more.
    """

    row: BackupRow
    instance: DbInstance | None


class BackupsView:
    """Reads what the pages show."""

    def __init__(self, records: BackupRecordsDep, queries: InstanceQueriesDep, settings: SettingsDep) -> None:
        self._settings = settings
        self._records = records
        self._queries = queries

    async def page(self, query: BackupsQuery) -> BackupsPage:
        """The part of the list that the user wants to see."""
        page = Page("Id", offset=(query.page - 1) * PER_PAGE, limit=PER_PAGE)
        states = await self._records.page(query.chosen, page)
        paging = Paging(query.page, PER_PAGE, await self._records.count(query.chosen))
        rows = [backup_row(state) for state in states]
        return BackupsPage(query, rows, paging, self._settings.stores_unencrypted)

    async def backup(self, backup_id: UUID) -> BackupPage:
        """One backup.

        Raises:
            BackupNotFoundError: there is none, or it is deleted.
        """
        state = await self._records.get(backup_id)
        return BackupPage(backup_row(state), await self._queries.any_instance(state.backup.instance_id))


BackupsViewDep = Annotated[BackupsView, Depends()]


def backup_row(state: BackupState) -> BackupRow:
    """How a backup is shown."""
    progress = None
    if state.status in JOB_UNDER_WAY and state.percent is not None:
        progress = ProgressView("", state.percent, state.eta_seconds)
    verification = state.backup.verification
    return BackupRow(
        state, job_badge(state.status), progress, None if verification is None else job_badge(verification)
    )
