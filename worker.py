"""The worker: connects activities and workflows to Temporal, and runs them until SIGTERM or SIGINT.

Four task queues are served for each tenant. Workflows and status writes share one; databases are created and
dropped on another, with a concurrency of its own, so that a burst of clones never delays a status; ODS
databases, which may hang, are read on the third; and backups, which take hours, are made on the fourth.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import Runtime
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities.backup_cleaning import BackupCleaning
from activities.backup_verification import VerificationActivities
from activities.backups import BackupActivities
from activities.context import ActivityContext
from activities.databases import DatabaseActivities
from activities.education_organizations import EducationOrganizationActivities, RefreshActivities
from activities.job_fence import ConcurrencyLimit
from activities.passes import Housekeeping, ReconcileActivities, SweepActivities
from activities.scheduled_requests import ScheduledRequests
from activities.spares import RefillRequests, SpareActivities
from activities.statuses import StatusActivities
from ods.observability.logs import configure_logging, fault_name, switch_debug_on_hangup
from ods.observability.loop_watchdog import watched_loop
from ods.observability.metrics import server as metrics_server
from ods.observability.metrics.catalog import DRIFT
from ods.observability.metrics.exposition import Exposition
from ods.observability.metrics.figures import Figures
from ods.observability.tracing import provider
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.compare.findings import Drift, DriftKind
from ods.registry.education_organizations.refreshes import RefreshPolicy
from ods.registry.education_organizations.store import EducationOrganizations
from ods.registry.storage.dsn_check import DsnCheck
from ods.registry.storage.errors import InstallationNotConfirmedError
from ods.settings.settings import (
    AnySettings,
    InvalidSettingsError,
    LogFormat,
    Settings,
    load_settings,
    warn_of_unknown_variables,
)
from ods.temporal import client, schedules
from ods.temporal.job_starter import JobStarter, started_jobs
from ods.temporal.namespace import register_search_attributes
from ods.temporal.refresh_starter import RefreshStarter
from ods.temporal.sdk_metrics import measuring_runtime
from ods.temporal.verification_starter import VerificationStarter
from ods.temporal.worker_probes import WorkerProbes
from ods.tenants.figures import pool_samples
from ods.tenants.known_store import backup_obstacle
from ods.tenants.tenant import Tenant, open_tenants
from workflows.jobs import JOB_WORKFLOWS, VerifyBackup
from workflows.passes import (
    PendingSweep,
    Reconcile,
    RecordSizes,
    RefillSpares,
    ScheduledBackups,
    ScheduledRefresh,
    ScheduledSnapshots,
)
from workflows.refresh_education_organizations import RefreshEducationOrganizations

WORKFLOWS = [
    *JOB_WORKFLOWS,
    VerifyBackup,
    PendingSweep,
    Reconcile,
    RefillSpares,
    RefreshEducationOrganizations,
    ScheduledRefresh,
    ScheduledBackups,
    ScheduledSnapshots,
    RecordSizes,
]

_RECONNECT_SECONDS = 1
_NAMESPACE_SECONDS = 60
"""How often a worker looks whether the namespace still has what it has prepared."""
_STICKY_TIMEOUT = timedelta(milliseconds=500)
"""How long a workflow task waits for the worker that has the workflow cached, before any worker gets it."""
_HEARTBEAT_THROTTLE = timedelta(seconds=1)
_PASSES_THAT_WAIT = 2
"""Activities that request what is due by the schedules of backups and of snapshots, one of each. They wait
for the ends of jobs, which other activities of the same worker record."""
_POLLERS = 2
"""Polls that a worker has open on a queue. If the process is suspended, the task of each poll is delayed."""

_CACHED_WORKFLOWS = 200
"""Workflows kept in memory; one that was evicted is replayed from its short history when it goes on."""

_WORKFLOW_TASKS = 8
"""Workflow tasks that a worker has under way. Each may write to the registry, and must end in time; after a
restart, all workflows that wait go on at once (docs/performance.md)."""

_LOOKS_MISSED = 3
"""Reconcile intervals after which what a look has found is not told any more: another worker may look."""

_logger = logging.getLogger("worker")


def registry_worker(temporal: Client, tenant: Tenant, workflow_tasks: int = _WORKFLOW_TASKS) -> Worker:
    """The worker of a tenant's workflows and status writes.

    Args:
        temporal: the client.
        tenant: the tenant.
        workflow_tasks: how many workflow tasks it has under way at most.
    """
    settings, jobs = tenant.settings, tenant.jobs
    statuses, housekeeping = StatusActivities(tenant), Housekeeping(tenant)
    starter = JobStarter(temporal, settings.registry_queue)
    sweep = SweepActivities(jobs, starter.start_unrequested, tenant.begin_pass, tenant.admin_api_rows.adopt)
    detect = partial(_detect_drift, temporal, tenant)
    reconcile = ReconcileActivities(
        tenant.begin_pass,
        jobs,
        tenant.server,
        detect,
        starter.is_at_work,
        starter.start_unrequested,
        tenant.remove_template_leftovers,
        tenant.instances,
        tenant.versions,
        tenant.cancellations,
        partial(backup_obstacle, tenant) if settings.final_backup else None,
    )
    refresh = RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings))
    refreshes = RefreshActivities(tenant.refreshes, refresh.start)
    verifications = VerificationStarter(temporal, tenant.name, settings)
    scheduled = ScheduledRequests(tenant, starter.start_unrequested)
    return Worker(
        temporal,
        interceptors=[ActivityContext(tenant.name, jobs_first=True)],
        task_queue=settings.registry_queue,
        workflows=WORKFLOWS,
        # The sandbox would load each workflow's module anew for each run; the tests run workflows in it.
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=_CACHED_WORKFLOWS,
        activities=[
            statuses.begin,
            statuses.is_due,
            statuses.next_attempt,
            statuses.finish,
            statuses.request_purge_after,
            statuses.call_off_purge,
            statuses.finish_backup,
            statuses.fail,
            statuses.record_wait,
            sweep.dispatch_page,
            reconcile.find_stuck,
            reconcile.restart,
            reconcile.find_leftovers,
            reconcile.report_drift,
            reconcile.purge_due,
            housekeeping.remove_old_answers,
            housekeeping.remove_snapshots,
            reconcile.claim_due_versions,
            refreshes.request_refresh,
            refreshes.request_refresh_of,
            refreshes.dispatch_refreshes,
            refreshes.begin_refresh,
            refreshes.finish_refresh,
            BackupCleaning(tenant, verifications.start, detect).clean_backups,
            statuses.finish_verification,
            scheduled.request_scheduled_backups,
            scheduled.request_scheduled_snapshots,
            housekeeping.record_sizes,
        ],
        max_concurrent_workflow_tasks=workflow_tasks,
        max_concurrent_activities=settings.registry_concurrency + _PASSES_THAT_WAIT,
        max_concurrent_local_activities=settings.registry_concurrency,
        max_concurrent_workflow_task_polls=_POLLERS,
        max_concurrent_activity_task_polls=_POLLERS,
        sticky_queue_schedule_to_start_timeout=_STICKY_TIMEOUT,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_timeout),
        deployment_config=_deployment(settings),
    )


async def _detect_drift(temporal: Client, tenant: Tenant) -> list[Drift]:
    found = await DriftDetector(tenant).detect(await started_jobs(temporal, tenant.name))
    _tell_drift(tenant, (drift.kind for drift in found))
    return found


def _tell_drift(tenant: Tenant, found: Iterable[DriftKind]) -> None:
    kinds = Counter(found)
    seconds = _LOOKS_MISSED * tenant.settings.reconcile_interval
    DRIFT.replace(tenant.name, {kind: kinds[kind] for kind in DriftKind}, seconds)


def ddl_worker(temporal: Client, tenant: Tenant) -> Worker:
    """The worker that creates and drops a tenant's databases."""
    settings = tenant.settings
    refill = RefillRequests(partial(schedules.trigger, temporal, tenant.name, schedules.SPARE_REFILL))
    limit = ConcurrencyLimit(settings.ddl_concurrency, tenant.name)
    databases = DatabaseActivities(tenant, limit, refill if settings.spares else None)
    spares = SpareActivities(tenant.spares, limit)
    return Worker(
        temporal,
        interceptors=[ActivityContext(tenant.name, jobs_first=True)],
        task_queue=settings.ddl_queue,
        activities=[
            databases.provision,
            databases.drop,
            databases.rename,
            databases.trash,
            databases.detach,
            databases.undelete,
            databases.purge,
            databases.purge_backed_up,
            databases.snapshot,
            databases.reset,
            databases.drop_replaced,
            databases.purge_version,
            databases.compensate,
            spares.prune_spares,
            spares.replenish_spare,
        ],
        max_concurrent_activities=settings.ddl_concurrency + settings.ddl_prefetch,
        max_concurrent_activity_task_polls=1,
        # By default heartbeats are sent after four fifths of their timeout, which leaves little time.
        max_heartbeat_throttle_interval=_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_timeout),
        deployment_config=_deployment(settings),
    )


def refresh_worker(temporal: Client, tenant: Tenant) -> Worker:
    """The worker that reads a tenant's ODS databases."""
    settings = tenant.settings
    organizations = EducationOrganizationActivities(
        EducationOrganizations(tenant.reading_engine, tenant.connection_strings),
        tenant.connection_strings,
        settings.refresh_concurrency,
    )
    return Worker(
        temporal,
        interceptors=[ActivityContext(tenant.name)],
        task_queue=settings.refresh_queue,
        activities=[organizations.read_page],
        max_concurrent_activities=settings.refresh_concurrency,
        max_concurrent_activity_task_polls=1,
        max_heartbeat_throttle_interval=_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_timeout),
        deployment_config=_deployment(settings),
    )


def backup_worker(temporal: Client, tenant: Tenant) -> Worker:
    """The worker that makes and reads a tenant's backups, and makes databases of these and of copies online.

    These take hours, and delay no other job.
    """
    settings = tenant.settings
    backups = BackupActivities(tenant)
    verifications = VerificationActivities(tenant)
    databases = DatabaseActivities(tenant, ConcurrencyLimit(settings.backup_concurrency))
    return Worker(
        temporal,
        interceptors=[ActivityContext(tenant.name)],
        task_queue=settings.backup_queue,
        activities=[
            backups.back_up,
            verifications.verify_backup,
            verifications.verify_final_backup,
            databases.provision,
            databases.reset,
            databases.back_up_trash,
        ],
        max_concurrent_activities=settings.backup_concurrency,
        max_concurrent_activity_task_polls=1,
        max_heartbeat_throttle_interval=_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_timeout),
        deployment_config=_deployment(settings),
    )


def _deployment(settings: Settings) -> WorkerDeploymentConfig | None:
    """The version of the tenant's deployment that this process is; None if its versions are not told apart.

    What a version has begun, it ends. What continues as a new run may continue at another version: a job that
    is tried again, its successor, a long pass (`workflows.options.NEXT_RUN`).
    """
    if settings.worker_deployment_version is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.task_queue, settings.worker_deployment_version),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


WORKERS = (registry_worker, ddl_worker, refresh_worker, backup_worker)
"""The workers of each tenant."""


async def run(settings: AnySettings, stop: asyncio.Event) -> None:
    """Serve every tenant's task queues until `stop` is set, then let running activities finish.

    Raises:
        InvalidSettingsError: a DSN leads to a pooler in transaction mode, or names a superuser; or the port
            for metrics is taken.
        ExceptionGroup: of InvalidSettingsError, if that is found later because the server was away at first.
    """
    dsns = DsnCheck(settings)
    await dsns.check()
    async with open_tenants(settings) as tenants, _observed(settings, tenants, stop) as (probes, runtime):
        temporal = await _connected(settings, stop, runtime)
        if temporal is None:
            return
        probes.serve(temporal, tenants)
        async with asyncio.TaskGroup() as running:
            for tenant in tenants:
                running.create_task(_serve(temporal, tenant, stop))
            dsn_check = running.create_task(dsns.keep_checking())
            await stop.wait()
            dsn_check.cancel()


@asynccontextmanager
async def _observed(
    settings: AnySettings, tenants: Sequence[Tenant], stop: asyncio.Event
) -> AsyncIterator[tuple[WorkerProbes, Runtime | None]]:
    """Serve metrics and probes, if there is a port for them, until the last activity has ended.

    Gives what the probes are told, and what measures the calls to Temporal.
    """
    runtime, sdk = measuring_runtime(settings)
    probes = WorkerProbes(stop)
    exposition = Exposition(Figures(()), partial(pool_samples, tenants), sdk)
    async with metrics_server.serving(settings, exposition.text, probes):
        try:
            yield probes, runtime
        finally:
            await probes.close()


async def _serve(temporal: Client, tenant: Tenant, stop: asyncio.Event) -> None:
    """Serve a tenant once its registry is confirmed: with a copy, the original's jobs would run here."""
    await until_done(partial(_require_own, temporal, tenant), f"The tenant {tenant.name}", stop)
    if stop.is_set():
        return
    workers = [worker(temporal, tenant) for worker in WORKERS]
    async with asyncio.TaskGroup() as running:
        for worker in workers:
            running.create_task(worker.run())
        _logger.info("Serving %s.", ", ".join(worker.task_queue for worker in workers))
        await until_done(partial(_prepare_namespace, temporal, tenant), "The namespace", stop)
        while not stop.is_set():
            await _pause(stop, _NAMESPACE_SECONDS)
            await until_done(partial(_restore_namespace, temporal, tenant), "The namespace", stop)
        _logger.info("Stopping %s; running activities may finish.", tenant.name)
        await asyncio.gather(*(worker.shutdown() for worker in workers))


async def _require_own(temporal: Client, tenant: Tenant) -> None:
    """Check that the tenant's registry and its schedules belong to one installation.

    Raises:
        InstallationNotConfirmedError: the registry is a copy, or was restored, and is not confirmed.
        ForeignScheduleError: the schedules belong to another installation.
    """
    try:
        installation = await tenant.jobs.installation.require_confirmed()
    except InstallationNotConfirmedError:
        _tell_drift(tenant, [DriftKind.INSTALLATION_NOT_CONFIRMED])  # there are no passes that would look
        raise
    await schedules.require_own(temporal, installation.id, tenant.name)
    await tenant.begin_pass()  # before a worker goes on with the jobs of a registry that was put back


async def _prepare_namespace(temporal: Client, tenant: Tenant) -> None:
    """Register search attributes, and create or update the tenant's schedules."""
    await register_search_attributes(temporal)
    installation = await tenant.jobs.installation.require_confirmed()
    await schedules.ensure(temporal, tenant.settings, installation.id, tenant.name)


async def _restore_namespace(temporal: Client, tenant: Tenant) -> None:
    """Prepare the namespace again if it was deleted and created anew, or Temporal's database was."""
    if await schedules.are_missing(temporal, tenant.name):
        _logger.warning("The namespace has lost the schedules of %s, which are made again.", tenant.name)
        await _prepare_namespace(temporal, tenant)


async def _connected(settings: AnySettings, stop: asyncio.Event, runtime: Runtime | None) -> Client | None:
    while not stop.is_set():
        try:
            return await client.connect(settings, runtime=runtime)
        except ValueError:
            raise InvalidSettingsError("TEMPORAL_ADDRESS: must look like host:port") from None
        except RuntimeError as error:
            _logger.warning("Temporal cannot be reached (%s); trying again.", fault_name(error))
            await _pause(stop, _RECONNECT_SECONDS)
    return None


async def until_done(step: Callable[[], Awaitable[None]], subject: str, stop: asyncio.Event) -> None:
    """Try `step` once a second until it succeeds or the worker is stopped; log each new reason once."""
    logged = ""
    while not stop.is_set():
        try:
            await step()
        except (InstallationNotConfirmedError, schedules.ForeignScheduleError) as obstacle:
            level, reason = logging.ERROR, str(obstacle)  # the operator must act
        except Exception as error:  # noqa: BLE001 - the registry or Temporal is away, which ends
            level, reason = logging.WARNING, f"trying again ({fault_name(error)})."
        else:
            return
        if reason != logged:
            _logger.log(level, "%s is not ready: %s", subject, reason)
            logged = reason
        await _pause(stop, _RECONNECT_SECONDS)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until the worker is stopped."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = load_settings()
    configure_logging(settings.log_level.number, as_json=settings.log_format is LogFormat.JSON)
    switch_debug_on_hangup(settings.log_level.number)
    warn_of_unknown_variables(_logger)
    # Fields of the line say this (`ods.observability.logs.FIELDS`).
    activity.logger.activity_info_on_message = workflow.logger.workflow_info_on_message = False
    provider.start("ods-worker")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gc.freeze()  # what is loaded by now stays: garbage collections need not visit it while jobs run
    try:
        async with watched_loop():
            await run(settings, stop)
    finally:
        provider.stop()


if __name__ == "__main__":
    configure_logging()
    try:
        asyncio.run(main())
    except InvalidSettingsError as invalid:
        sys.exit(f"The worker cannot start.\n{invalid}")
    except Exception as error:  # noqa: BLE001 - its text may hold secrets
        faults = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        reasons = [str(one) if isinstance(one, InvalidSettingsError) else fault_name(one) for one in faults]
        sys.exit(f"The worker cannot go on: {', '.join(reasons)}")
