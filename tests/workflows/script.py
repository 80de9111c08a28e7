"""Stand-ins for the activities.

The activities' own behaviour is tested on real servers elsewhere; here they follow a script, so that every
step can be made to fail at will.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.backup_cleaning import CleaningReport
from activities.backup_verification import Verdict, Verification
from activities.education_organizations import PageRead, PageToRead, RefreshResult
from activities.endings import JobEnd, Outcome
from activities.passes import (
    DriftReport,
    Leftovers,
    PurgeReport,
    StuckPage,
    SweepPage,
    SweepResult,
    VersionsDue,
)
from activities.scheduled_requests import ScheduledReport
from ods.databases.templates.spare_pool import PruneResult, SpareOrder
from ods.recovery.compare.findings import Drift
from ods.registry.backups.stored import FinishedBackup, RecordedBackup, StoredBackup
from ods.registry.education_organizations.refreshes import Scope
from ods.registry.instances.jobs import BeginResult, InstanceJob, JobFailure, JobWait
from ods.registry.instances.versions import VersionPurge


class Script:
    """What the activities do: by default they succeed. `calls` tells which ran, in order.

    `faults[name]` holds the errors of the next calls of the activity `name`, one each; None is a success.
    `holds[name]` is awaited within the call.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reasons: list[str] = []
        self.outages: list[bool] = []
        self.waits: list[JobWait] = []
        self.followed: bool | None = None
        self.attempts: list[int] = []
        self.requests: list[str] = []
        self.faults: dict[str, list[Exception | None]] = defaultdict(list)
        self.holds: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.begun = BeginResult(held=True)
        self.finished_on_the_way = False
        self.generation: int | None = None
        self.recorded = True
        self.due = False
        self.next_request: str | None = None
        self.pages: list[SweepResult] = []
        self.stuck: list[StuckPage] = []
        self.leftovers: list[Leftovers] = []
        self.drifts: list[Drift] = []
        self.kept = True
        self.following: InstanceJob | None = None
        self.finished: list[JobEnd] = []
        self.purges = PurgeReport(0)
        self.scheduled = ScheduledReport()
        self.due_times: list[datetime] = []
        self.stored = StoredBackup(
            "7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f11",
            "s3://bucket/default/7/7f2a7b1e-52f4-4f3c-8a43-0e8d7f4f3f11",
            *(10, 20, "0" * 64, "1" * 64, "18.6"),
            encrypted=False,
            taken_at=datetime(2027, 1, 1, tzinfo=UTC),
            finished_at=datetime(2027, 1, 1, 0, 1, tzinfo=UTC),
        )
        self.finished_backups: list[FinishedBackup] = []
        self.verify = False
        self.difference: str | None = None
        self.verdicts: list[Verdict] = []
        self.cleaned = CleaningReport()
        self.removed_snapshots = 0
        self.versions = VersionsDue([])
        self.pruned = PruneResult(0, [])
        self.refreshes: list[str] = []
        self.read: list[PageRead] = []
        self.results: list[RefreshResult] = []

    async def _follow(self, name: str) -> None:
        self.calls.append(name)
        if hold := self.holds.get(name):
            await hold()
        if self.faults[name] and (fault := self.faults[name].pop(0)):
            raise fault

    @activity.defn
    async def begin(self, job: InstanceJob) -> BeginResult:
        self.attempts.append(job.attempt)
        self.requests.append(job.request)
        await self._follow("begin")
        return self.begun

    @activity.defn
    async def is_due(self, job: InstanceJob) -> bool:
        await self._follow("is_due")
        return self.due

    @activity.defn
    async def next_attempt(self, job: InstanceJob) -> InstanceJob | None:
        if hold := self.holds.get("next_attempt"):
            await hold()
        return replace(job, attempt=job.attempt + 1, request=self.next_request or job.request)

    @activity.defn
    async def provision(self, job: InstanceJob) -> Outcome:
        await self._follow("provision")
        return Outcome(self.finished_on_the_way, template_generation=self.generation, size_bytes=1)

    @activity.defn
    async def finish(self, end: JobEnd) -> bool:
        self.finished.append(end)
        await self._follow("finish")
        return self.recorded

    @activity.defn
    async def drop(self, job: InstanceJob) -> Outcome:
        await self._follow("drop")
        return Outcome(self.finished_on_the_way)

    @activity.defn
    async def trash(self, job: InstanceJob) -> Outcome:
        await self._follow("trash")
        return Outcome(self.finished_on_the_way, had_database=self.kept)

    @activity.defn
    async def detach(self, job: InstanceJob) -> Outcome:
        await self._follow("detach")
        return Outcome(self.finished_on_the_way)

    @activity.defn
    async def undelete(self, job: InstanceJob) -> Outcome:
        await self._follow("undelete")
        return Outcome()

    @activity.defn
    async def purge(self, job: InstanceJob) -> Outcome:
        await self._follow("purge")
        return Outcome(self.finished_on_the_way)

    @activity.defn
    async def request_purge_after(self, trashed: InstanceJob) -> InstanceJob | None:
        await self._follow("request_purge_after")
        return self.following

    @activity.defn
    async def call_off_purge(self, purge: InstanceJob) -> None:
        await self._follow("call_off_purge")

    @activity.defn
    async def back_up_trash(self, job: InstanceJob) -> bool:
        await self._follow("back_up_trash")
        return self.kept

    @activity.defn
    async def verify_final_backup(self, job: InstanceJob) -> None:
        await self._follow("verify_final_backup")

    @activity.defn
    async def purge_backed_up(self, job: InstanceJob) -> Outcome:
        await self._follow("purge_backed_up")
        return Outcome(self.finished_on_the_way)

    @activity.defn
    async def remove_old_answers(self) -> None:
        await self._follow("remove_old_answers")

    @activity.defn
    async def back_up(self, job: InstanceJob) -> StoredBackup:
        await self._follow("back_up")
        return self.stored

    @activity.defn
    async def finish_backup(self, finished: FinishedBackup) -> RecordedBackup:
        self.finished_backups.append(finished)
        await self._follow("finish_backup")
        return RecordedBackup(self.recorded, self.verify)

    @activity.defn
    async def verify_backup(self, verification: Verification) -> str | None:
        await self._follow("verify_backup")
        return self.difference

    @activity.defn
    async def finish_verification(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        await self._follow("finish_verification")

    @activity.defn
    async def clean_backups(self) -> CleaningReport:
        await self._follow("clean_backups")
        return self.cleaned

    @activity.defn
    async def snapshot(self, job: InstanceJob) -> Outcome:
        await self._follow("snapshot")
        return Outcome(self.finished_on_the_way)

    @activity.defn
    async def remove_snapshots(self) -> int:
        await self._follow("remove_snapshots")
        return self.removed_snapshots

    @activity.defn
    async def purge_due(self) -> PurgeReport:
        await self._follow("purge_due")
        return self.purges

    @activity.defn
    async def reset(self, job: InstanceJob) -> Outcome:
        await self._follow("reset")
        return Outcome(self.finished_on_the_way, template_generation=self.generation)

    @activity.defn
    async def request_refresh_of(self, ods_instance_id: int) -> None:
        await self._follow("request_refresh_of")

    @activity.defn
    async def drop_replaced(self, job: InstanceJob) -> bool:
        await self._follow("drop_replaced")
        return True

    @activity.defn
    async def claim_due_versions(self) -> VersionsDue:
        await self._follow("claim_due_versions")
        return self.versions

    @activity.defn
    async def purge_version(self, purge: VersionPurge) -> None:
        await self._follow(f"purge_version {purge.version_id}")

    @activity.defn
    async def rename(self, job: InstanceJob) -> Outcome:
        await self._follow("rename")
        return Outcome()

    @activity.defn
    async def compensate(self, job: InstanceJob) -> bool | None:
        await self._follow("compensate")
        return self.followed

    @activity.defn
    async def record_wait(self, wait: JobWait) -> None:
        self.waits.append(wait)
        await self._follow("record_wait")

    @activity.defn
    async def fail(self, failure: JobFailure) -> bool:
        self.reasons.append(failure.reason)
        self.outages.append(failure.outage)
        await self._follow("fail")
        return self.recorded

    @activity.defn
    async def dispatch_page(self, page: SweepPage) -> SweepResult:
        await self._follow(f"dispatch_page after {page.after}")
        return self.pages.pop(0)

    @activity.defn
    async def find_stuck(self, page: SweepPage) -> StuckPage:
        await self._follow(f"find_stuck after {page.after}")
        return self.stuck.pop(0)

    @activity.defn
    async def restart(self, job: InstanceJob) -> bool:
        await self._follow(f"restart {job.instance_id}")
        return self.recorded

    @activity.defn
    async def find_leftovers(self, after: int | None = None) -> Leftovers:
        await self._follow(f"find_leftovers after {after}" if after else "find_leftovers")
        return self.leftovers.pop(0) if self.leftovers else Leftovers([], more=False)

    @activity.defn
    async def report_drift(self) -> DriftReport:
        await self._follow("report_drift")
        return DriftReport(self.drifts, len(self.drifts))

    @activity.defn
    async def request_scheduled_backups(self, due_at: datetime) -> ScheduledReport:
        self.due_times.append(due_at)
        await self._follow("request_scheduled_backups")
        return self.scheduled

    @activity.defn
    async def request_scheduled_snapshots(self, due_at: datetime) -> ScheduledReport:
        self.due_times.append(due_at)
        await self._follow("request_scheduled_snapshots")
        return self.scheduled

    @activity.defn
    async def record_sizes(self) -> int:
        await self._follow("record_sizes")
        return 3

    @activity.defn
    async def prune_spares(self) -> PruneResult:
        await self._follow("prune_spares")
        return self.pruned

    @activity.defn
    async def replenish_spare(self, order: SpareOrder) -> None:
        await self._follow(f"replenish_spare {order.name}")

    @activity.defn
    async def request_refresh(self) -> None:
        await self._follow("request_refresh")

    @activity.defn
    async def dispatch_refreshes(self) -> int:
        await self._follow("dispatch_refreshes")
        return 0

    @activity.defn
    async def begin_refresh(self, scope: Scope) -> str | None:
        due = self.refreshes[:1]
        await self._follow("begin_refresh")
        del self.refreshes[: len(due)]
        return due[0] if due else None

    @activity.defn
    async def read_page(self, page: PageToRead) -> PageRead:
        await self._follow(f"read_page after {page.after}")
        return self.read.pop(0)

    @activity.defn
    async def finish_refresh(self, result: RefreshResult) -> None:
        await self._follow("finish_refresh")
        self.results.append(result)

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """For a worker."""
        return [
            self.begin,
            self.is_due,
            self.next_attempt,
            self.provision,
            self.finish,
            self.drop,
            self.rename,
            self.trash,
            self.detach,
            self.undelete,
            self.purge,
            self.request_purge_after,
            self.call_off_purge,
            self.back_up_trash,
            self.verify_final_backup,
            self.purge_backed_up,
            self.purge_due,
            self.remove_old_answers,
            self.back_up,
            self.finish_backup,
            self.verify_backup,
            self.finish_verification,
            self.clean_backups,
            self.snapshot,
            self.remove_snapshots,
            self.reset,
            self.request_refresh_of,
            self.drop_replaced,
            self.claim_due_versions,
            self.purge_version,
            self.compensate,
            self.fail,
            self.record_wait,
            self.dispatch_page,
            self.find_stuck,
            self.restart,
            self.find_leftovers,
            self.report_drift,
            self.request_scheduled_backups,
            self.request_scheduled_snapshots,
            self.record_sizes,
            self.prune_spares,
            self.replenish_spare,
            self.request_refresh,
            self.dispatch_refreshes,
            self.begin_refresh,
            self.read_page,
            self.finish_refresh,
        ]


def refused(reason: str) -> ApplicationError:
    """A fault that trying again does not mend."""
    return ApplicationError(reason, non_retryable=True)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition in this process."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
