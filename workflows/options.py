"""Timeouts and retry policies of every activity, each with its reason."""

from collections.abc import Callable
from datetime import timedelta
from typing import assert_never

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import (
    ActivityCancellationType,
    ActivityConfig,
    ContinueAsNewVersioningBehavior,
    LocalActivityConfig,
)

from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, Origin, TemplateOrigin
from ods.registry.education_organizations.refreshes import RefreshPolicy
from ods.registry.instances.jobs import ExecutionPolicy

WORKFLOW_TASK_TIMEOUT = timedelta(seconds=3)
"""A workflow task takes milliseconds; after this, Temporal gives that of a killed worker to another."""

RPC_TIMEOUT = timedelta(seconds=2)
"""Temporal starts and signals within milliseconds; a request of the API does not wait for longer."""

NEXT_RUN = ContinueAsNewVersioningBehavior.AUTO_UPGRADE
"""Where versions of workers are told apart, a new run begins at the version that is current then."""


def status_write(policy: ExecutionPolicy | RefreshPolicy, summary: str) -> ActivityConfig:
    """Options of a guarded write to the registry."""
    return ActivityConfig(
        # It takes milliseconds, too few to heartbeat in: one that takes longer is considered lost.
        start_to_close_timeout=timedelta(seconds=policy.heartbeat_timeout),
        # Never give up: a status that is not written would leave the row stuck.
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5)
        ),
        summary=summary,
    )


def quick_write(summary: str) -> LocalActivityConfig:
    """Options of one try to write to the registry within a workflow task, without a task queue's delay."""
    return LocalActivityConfig(
        # Well within the workflow task's own timeout: a longer wait is an activity, which the Web UI shows.
        start_to_close_timeout=timedelta(seconds=1),
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary=summary,
    )


_LAST = Priority(priority_key=5)

_FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(seconds=10)
"""The longest pause between two tries: a server that is back is noticed within this time."""

_LONGEST_DDL = timedelta(hours=12)
"""Hundreds of gigabytes take hours; a dead worker is noticed by its heartbeats, not by this."""

_LONGEST_VERIFICATION = timedelta(days=1)
"""Waiting for a place and outages included; then another one may be requested."""


def ddl_try(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of one try to create, rename or drop a database: the workflow decides whether there is another.

    Temporal cannot distinguish an outage, which uses up no attempt, from an answer about the job.
    """
    return _on_server(policy, summary, 1)


def backup_try(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of one try to make, read or restore a backup, which takes no place of the jobs with DDL."""
    options = ddl_try(policy, summary)
    options["task_queue"] = policy.backup_queue
    return options


def making_try(origin: Origin) -> Callable[[ExecutionPolicy, str], ActivityConfig]:
    """The options of one try to make a database: what takes as long as a backup takes no place of DDL."""
    match origin:
        case TemplateOrigin() | CopyOrigin(mode=CopyMode.CLOSED):
            return ddl_try
        case CopyOrigin() | BackupOrigin():
            return backup_try
        case _:
            assert_never(origin)


def verification(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of verifying a backup: outages of store and server are waited for."""
    options = _on_server(policy, summary, 0)  # as many as there is time for
    options["task_queue"] = policy.backup_queue
    options["schedule_to_close_timeout"] = _LONGEST_VERIFICATION
    options["priority"] = _LAST
    return options


LONGEST_OUTAGE_TRY = timedelta(minutes=5)
"""A try that ran longer before it met an outage had worked: the outage before that try was over."""


def pause_after(failures: int) -> timedelta:
    """How long to wait after so many failures in a row, be it an outage or a fault."""
    return min(_FIRST_PAUSE * (1 << min(failures - 1, 10)), LONGEST_PAUSE)


def wait_record(policy: ExecutionPolicy) -> ActivityConfig:
    """Options of recording in the registry what a job waits for; if that is the registry, nothing is lost."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(seconds=policy.heartbeat_timeout),
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary="Record what the job waits for",
    )


def clean_up(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of the clean-up after a failure: a few tries, for the failure itself is recorded already."""
    return _on_server(policy, summary, 3)


def refill(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of work on spares, with the last priority: jobs that clients wait for come first."""
    options = _on_server(policy, summary, 3)  # what cannot be done now is left to the next pass
    options["priority"] = _LAST
    return options


def _on_server(policy: ExecutionPolicy, summary: str, attempts: int) -> ActivityConfig:
    return ActivityConfig(
        task_queue=policy.ddl_queue,
        start_to_close_timeout=_LONGEST_DDL,
        heartbeat_timeout=timedelta(seconds=policy.heartbeat_timeout),
        # Waits double up to half a minute, so that the usual eight tries outlast a restart of PostgreSQL.
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=200),
            maximum_interval=timedelta(seconds=30),
            maximum_attempts=attempts,
        ),
        # What there is to clean up is known only when the server has ended the statement.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )


def sweep_page(summary: str) -> ActivityConfig:
    """Options of dispatching one page of waiting rows."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=10),
        heartbeat_timeout=timedelta(minutes=1),
        # The rest of the sweep must not be lost to an outage.
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)
        ),
        summary=summary,
    )


def restart(summary: str) -> ActivityConfig:
    """Options of restarting a job: one that cannot be restarted now is left to the next pass.

    Another session may have locked the row of its instance, which is no reason to stop for the others.
    """
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=summary,
    )


def comparison(summary: str) -> ActivityConfig:
    """Options of comparing registry and server: what cannot be done now is left to the next pass."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=summary,
    )


def snapshot_removal(summary: str) -> ActivityConfig:
    """Options of dropping snapshots that are due: what cannot be dropped now is left to the next pass."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=10),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary=summary,
    )


def cleaning(summary: str) -> ActivityConfig:
    """Options of cleaning a store of backups, which may be slow: the next pass goes on."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=30),
        heartbeat_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary=summary,
    )


def scheduled_requests(summary: str) -> ActivityConfig:
    """Options of requesting what is due of all instances, a few at a time, which may take a day.

    A worker that dies is noticed by its heartbeats, and another one goes on.
    """
    return ActivityConfig(
        schedule_to_close_timeout=timedelta(days=1),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
        summary=summary,
    )


def daily_record(summary: str) -> ActivityConfig:
    """Options of recording what is so today: outages are waited for, but not until the next day."""
    return ActivityConfig(
        schedule_to_close_timeout=timedelta(hours=12),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
        summary=summary,
    )


def read_page(policy: RefreshPolicy, summary: str) -> ActivityConfig:
    """Options of reading a page of ODS databases, each of which is given up after seconds."""
    return ActivityConfig(
        task_queue=policy.queue,
        start_to_close_timeout=timedelta(minutes=15),
        heartbeat_timeout=timedelta(seconds=policy.heartbeat_timeout),
        # It fails with the registry or its worker. Ten minutes are enough: the next refresh will come.
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=200),
            maximum_interval=timedelta(seconds=30),
            maximum_attempts=25,
        ),
        summary=summary,
    )
