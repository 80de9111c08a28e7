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

from ods.model.origins import BackupOrigin, CopyMode, CopyOrigin, EarlierDatabase, Origin, TemplateOrigin
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
    """Options of one try to create, rename or drop a database: the workflow decides about another one.

    Temporal cannot distinguish an outage, which uses up no attempt, from an answer about the job.
    """
    return _on_server(policy, summary, 1)


def backup_try(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of one try to make, read or restore a backup, which takes no place of the jobs with DDL."""
    return {**ddl_try(policy, summary), "task_queue": policy.backup_queue}


def making_try(origin: Origin | EarlierDatabase) -> Callable[[ExecutionPolicy, str], ActivityConfig]:
    """The options of one try to make a database: what takes as long as a backup takes no place of DDL."""
    match origin:
        case TemplateOrigin() | CopyOrigin(mode=CopyMode.CLOSED) | EarlierDatabase():
            return ddl_try
        case CopyOrigin() | BackupOrigin():
            return backup_try
        case _:
            assert_never(origin)


def verification(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of verifying a backup: outages of store and server are waited for."""
    return {
        **_on_server(policy, summary, 0),  # as many attempts as there is time for
        "task_queue": policy.backup_queue,
        "schedule_to_close_timeout": _LONGEST_VERIFICATION,
        "priority": _LAST,
    }


LONGEST_OUTAGE_TRY = timedelta(minutes=5)
"""A try that ran longer before it met an outage had worked: the outage before that try was over."""


def pause_after(failures: int) -> timedelta:
    """How long to wait after so many failures in a row, be it an outage or a fault."""
    return min(_FIRST_PAUSE * (1 << min(failures - 1, 10)), LONGEST_PAUSE)


def wait_record(policy: ExecutionPolicy) -> ActivityConfig:
    """Options of recording in the registry what a job waits for; nothing is lost if the registry is away."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(seconds=policy.heartbeat_timeout),
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary="Record what the job waits for",
    )


def clean_up(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of the clean-up after a failure: a few tries, for the failure itself is already recorded."""
    return _on_server(policy, summary, 3)


def refill(policy: ExecutionPolicy, summary: str) -> ActivityConfig:
    """Options of work on spares, with the last priority: jobs that clients wait for come first."""
    return {**_on_server(policy, summary, 3), "priority": _LAST}  # the next pass does what is left


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
    """Options of dispatching a page of waiting rows: outages are waited out, so that no page is lost."""
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=10),
        heartbeat_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)
        ),
        summary=summary,
    )


def pass_step(summary: str) -> ActivityConfig:
    """Options of a short step of a pass: the next pass does what cannot be done now.

    Another session may have locked a row, which is no reason to stop for the other rows.
    """
    return ActivityConfig(
        start_to_close_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=summary,
    )


def snapshot_removal(summary: str) -> ActivityConfig:
    """Options of dropping snapshots that are due: the next pass drops those that are left."""
    return _once(summary, timedelta(minutes=10), timedelta(seconds=30))


def cleaning(summary: str) -> ActivityConfig:
    """Options of cleaning a store of backups, which may be slow: the next pass goes on."""
    return _once(summary, timedelta(minutes=30), timedelta(minutes=1))


def _once(summary: str, timeout: timedelta, heartbeat_timeout: timedelta) -> ActivityConfig:
    return ActivityConfig(
        start_to_close_timeout=timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=RetryPolicy(maximum_attempts=1),
        summary=summary,
    )


def until_done(summary: str, within: timedelta) -> ActivityConfig:
    """Options of a step for all instances: outages, and workers that die, are waited out for so long."""
    return ActivityConfig(
        schedule_to_close_timeout=within,
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
