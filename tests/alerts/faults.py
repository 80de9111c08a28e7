"""For each alert, what is made wrong on the real servers; what its runbook does not mend is mended here.

A fault holds from the beginning of its block to the end, which mends it; it says what the operator finds out.
"""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import asyncpg
import httpx
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client

from ods.embedded.polling import wait_until
from tests.alerts.runbook import Case
from tests.alerts.site import Service, Site
from tests.servers import MINIMAL_TEMPLATE

Fault = Callable[[Site], AbstractAsyncContextManager[Case]]

_SECONDS = 60
_ASKED = DescribeWorkflowExecutionRequest(
    namespace="default", execution=WorkflowExecution(workflow_id="not there")
)
_ATTACKER = "127.0.0.9"
"""An address of this machine from which the operator's commands do not come."""
_TEN_GIGABYTES = 11 * 10**9
_MORE_THAN_POLLS = 5
"""So many tasks that some wait in Temporal: the two polls that a still worker has open get one each."""


@dataclass(frozen=True)
class Provocation:
    """How an alert is made to fire.

    Attributes:
        alert: its name.
        what: the fault, in words.
        fault: makes it.
    """

    alert: str
    what: str
    fault: Fault


PROVOCATIONS: list[Provocation] = []
"""In the order in which they are tried."""


def _provokes(alert: str, what: str) -> Callable[[Callable[[Site], AsyncIterator[Case]]], Fault]:
    def register(fault: Callable[[Site], AsyncIterator[Case]]) -> Fault:
        made = asynccontextmanager(fault)
        PROVOCATIONS.append(Provocation(alert, what, made))
        return made

    return register


# Instances


async def create(site: Site, name: str) -> str:
    """Request an instance; returns its id."""
    return str(json.loads(await site.ods("instance", "create", name, "--json"))["id"])


async def created(site: Site, name: str) -> str:
    """Have an instance made; returns its id."""
    await site.ods("instance", "create", name, "--wait")
    return str(await site.on_registry("SELECT id FROM adminapi.dbinstances WHERE name = $1", name))


async def reached(site: Site, name: str, status: str) -> None:
    query = "SELECT status FROM adminapi.dbinstances WHERE name = $1"

    async def has_reached() -> bool:
        return bool(await site.on_registry(query, name) == status)

    await wait_until(has_reached, _SECONDS)


async def _newest(site: Site, name: str, column: str) -> str:
    """A column of the newest job of an instance."""
    query = (
        f"SELECT {column} FROM adminapi.jobstatuses AS job JOIN adminapi.dbinstances AS row"  # noqa: S608
        " ON row.id = job.dbinstanceid WHERE row.name = $1 ORDER BY createdat DESC LIMIT 1"
    )
    return str(await site.on_registry(query, name))


@asynccontextmanager
async def _template_missing(site: Site) -> AsyncIterator[None]:
    await site.on_ods_server(f'ALTER DATABASE "{MINIMAL_TEMPLATE}" RENAME TO "elsewhere"')
    try:
        yield
    finally:
        await site.on_ods_server(f'ALTER DATABASE "elsewhere" RENAME TO "{MINIMAL_TEMPLATE}"')


@asynccontextmanager
async def _again_and_again(act: Callable[[], object]) -> AsyncIterator[None]:
    """Do something all the time meanwhile; what fails is part of the fault."""

    async def repeat() -> None:
        while True:
            with suppress(httpx.HTTPError, AssertionError):
                await act()  # type: ignore[misc]
            await asyncio.sleep(0.1)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# Processes


@_provokes("OdsApiDown", "the API's process is killed")
async def api_down(site: Site) -> AsyncIterator[Case]:
    await _kill(site.api)
    yield Case(mends=True)


@_provokes("OdsWorkerDown", "the worker's process is killed")
async def worker_down(site: Site) -> AsyncIterator[Case]:
    await _kill(site.worker)
    yield Case(mends=True)


async def _kill(service: Service) -> None:
    _signal(service, signal.SIGKILL)
    for child, _ in service.running:
        await child.wait()


@_provokes("OdsNotReady", "the server of the ODS databases is stopped")
async def server_stopped(site: Site) -> AsyncIterator[Case]:
    await site.down("postgres")
    yield Case(mends=True)


@_provokes("OdsRequestsFailing", "the registry admits no session of the service")
async def registry_closed(site: Site) -> AsyncIterator[Case]:
    headers = await site.bearer()
    async with _registry_closed(site), _again_and_again(lambda: site.get("/v2/dbInstances", headers=headers)):
        yield Case()


@asynccontextmanager
async def _registry_closed(site: Site) -> AsyncIterator[None]:
    admin = await asyncpg.connect(site.registry_server.dsn())
    try:
        await admin.execute('ALTER DATABASE "EdFi_Admin" CONNECTION LIMIT 0')
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'EdFi_Admin'"
            " AND usename = 'ods_service'"
        )
        yield
    finally:
        await admin.execute('ALTER DATABASE "EdFi_Admin" CONNECTION LIMIT -1')
        await admin.close()


@_provokes("OdsPoolExhausted", "another session locks the instances, and many clients ask for one of them")
async def one_asked_for_behind_a_lock(site: Site) -> AsyncIterator[Case]:
    async with _asked_for_behind_a_lock(site, "/v2/dbInstances/1"):
        yield Case()


@_provokes("OdsRequestsShed", "another session locks the instances, and many clients ask for lists of them")
async def lists_asked_for_behind_a_lock(site: Site) -> AsyncIterator[Case]:
    await site.ods("client", "add", "too-eager")
    async with _asked_for_behind_a_lock(site, "/v2/dbInstances") as blocking:
        yield Case({"PID": str(blocking), "CLIENT_ID": "too-eager"})


@asynccontextmanager
async def _asked_for_behind_a_lock(site: Site, path: str) -> AsyncIterator[int]:
    headers = await site.bearer()

    async def ask() -> None:
        await asyncio.gather(*(site.get(path, headers=headers) for _ in range(30)))

    admin = await asyncpg.connect(site.registry_server.dsn("EdFi_Admin"))
    try:
        await admin.execute("BEGIN; LOCK TABLE adminapi.managed_instances IN ACCESS EXCLUSIVE MODE")
        async with _again_and_again(ask):
            yield admin.get_server_pid()
    finally:
        await admin.close()


@_provokes("OdsRateLimitHit", "a client with a wrong secret asks for tokens again and again")
async def one_client_guesses(site: Site) -> AsyncIterator[Case]:
    await site.ods("client", "add", "guessed")
    async with _again_and_again(lambda: _guess(site, "guessed")):
        yield Case({"CLIENT_ID": "guessed"})


@_provokes("OdsLogInFailures", "tokens are asked for in the names of many clients")
async def many_clients_guess(site: Site) -> AsyncIterator[Case]:
    await site.ods("client", "add", "guessed-too")
    numbers = itertools.count()
    async with _again_and_again(lambda: _guess(site, f"no client {next(numbers)}")):
        yield Case({"CLIENT_ID": "guessed-too"})


async def _guess(site: Site, client_id: str) -> None:
    transport = httpx.AsyncHTTPTransport(local_address=_ATTACKER)
    async with httpx.AsyncClient(base_url=site.api_url, transport=transport) as client:
        login = {"client_id": client_id, "client_secret": "guessed", "scope": "edfi_admin_api/full_access"}
        await client.post("/connect/token", data=login | {"grant_type": "client_credentials"})


# Jobs


@_provokes("OdsJobsFailing", "the template is missing")
async def template_missing(site: Site) -> AsyncIterator[Case]:
    async with _template_missing(site):
        for name in ("Failing 1", "Failing 2"):
            failed = await create(site, name)
            await reached(site, name, "Error")
        yield Case({"ID": failed})


@_provokes("OdsPendingTooOld", "no worker runs, and an instance is requested")
async def no_worker(site: Site) -> AsyncIterator[Case]:
    await site.down("worker")
    await create(site, "Pending")
    yield Case(mends=True)


@_provokes("OdsInstancesStuck", "a workflow is terminated, and the reconcile pass does not run")
async def workflow_terminated(site: Site) -> AsyncIterator[Case]:
    name = "Stuck"
    await _pause(site)
    try:
        async with _databases_locked(site):
            instance = await create(site, name)
            await _waits_for_lock(site, expected=True)
            await site.temporal("workflow", "terminate", "--workflow-id", instance, "--reason", "a fault")
            await _waits_for_lock(site, expected=False)  # otherwise the worker would end the job after all
        await site.on_registry(
            "UPDATE adminapi.dbinstances SET lastmodifieddate = lastmodifieddate - interval '3 hours'"
            " WHERE name = $1",
            name,
        )
        yield Case({"JOB_ID": await _newest(site, name, "jobid"), "ID": instance}, mends=True)
    finally:
        await _resume(site)


@asynccontextmanager
async def _databases_locked(site: Site) -> AsyncIterator[None]:
    """No database can be made or renamed meanwhile."""
    admin = await asyncpg.connect(site.ods_server.dsn())
    try:
        await admin.execute("BEGIN; LOCK TABLE pg_catalog.pg_database IN SHARE MODE")
        yield
    finally:
        await admin.close()


async def _waits_for_lock(site: Site, *, expected: bool) -> None:
    """Wait until the worker waits to make the database of `Stuck`, or does not any more."""

    async def is_so() -> bool:
        waiting = await site.on_ods_server(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query ~ 'ods_staging|EdFi_Ods_Stuck'"
        )
        return bool(waiting) == expected

    await wait_until(is_so, _SECONDS)


@_provokes("OdsWaitingForOutage", "the server of the ODS databases is stopped in the middle of a job")
async def server_away(site: Site) -> AsyncIterator[Case]:
    await site.down("postgres")
    instance = await create(site, "Waiting")
    yield Case({"ID": instance})
    await site.up("postgres")


# Data


@_provokes("OdsRegistrySuspect", "the registry is a copy of the one that was there")
async def registry_copied(site: Site) -> AsyncIterator[Case]:
    await _copy_registry(site)
    yield Case(answers="y\n", mends=True)


async def _copy_registry(site: Site) -> None:
    await site.down("api", "worker")
    admin = await asyncpg.connect(site.registry_server.dsn())
    try:
        await admin.execute('ALTER DATABASE "EdFi_Admin" RENAME TO "EdFi_Admin_before"')
        await admin.execute('CREATE DATABASE "EdFi_Admin" TEMPLATE "EdFi_Admin_before" OWNER ods_service')
        await admin.execute('DROP DATABASE "EdFi_Admin_before"')
    finally:
        await admin.close()
    await site.up()


@_provokes("OdsDrift", "the mark of a database is removed")
async def mark_removed(site: Site) -> AsyncIterator[Case]:
    instance = await created(site, "Drifting")
    await site.on_ods_server('COMMENT ON DATABASE "EdFi_Ods_Drifting_Minimal" IS NULL')
    yield Case({"ID": instance}, answers="y\n", mends=True)


@_provokes("OdsSparesMissing", "the spares are dropped, and the service may not create databases")
async def spares_dropped(site: Site) -> AsyncIterator[Case]:
    await site.on_ods_server("ALTER ROLE ods_service NOCREATEDB")
    await _drop_spares(site)
    try:
        yield Case()
    finally:
        await site.on_ods_server("ALTER ROLE ods_service CREATEDB")


async def _drop_spares(site: Site) -> None:
    for name in await site.rows("SELECT datname FROM pg_database WHERE datname LIKE 'ods\\_spare%'"):
        await site.on_ods_server(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
        await site.on_ods_server(f'DROP DATABASE "{name}" WITH (FORCE)')


@_provokes("OdsTrashFilling", "the database of a deleted instance has 11 GB, a sparse file")
async def trash_large(site: Site) -> AsyncIterator[Case]:
    instance = await created(site, "Large")
    await site.ods("instance", "delete", instance, "--wait")
    oid = await site.on_ods_server("SELECT max(oid) FROM pg_database WHERE datname LIKE 'ods\\_trash%'")
    with (site.ods_data / "base" / str(oid) / "sparse").open("wb") as sparse:
        sparse.truncate(_TEN_GIGABYTES)
    yield Case({"ID": instance}, answers="Large\n", mends=True)


@_provokes("OdsBackupLate", "the newest backup was stored 27 hours ago, by the registry")
async def backup_old(site: Site) -> AsyncIterator[Case]:
    await _backed_up(site, "Late")
    await site.on_registry("UPDATE adminapi.backups SET finishedat = finishedat - interval '27 hours'")
    yield Case({"NAME": "Late"}, mends=True)


@_provokes("OdsBackupFailed", "the database of an instance is closed to connections")
async def database_closed(site: Site) -> AsyncIterator[Case]:
    instance = await created(site, "Unsaved")
    await site.on_ods_server('ALTER DATABASE "EdFi_Ods_Unsaved_Minimal" ALLOW_CONNECTIONS false')
    await site.ods("backup", "create", "Unsaved")

    async def has_failed() -> bool:
        return await _newest(site, "Unsaved", "job.status") == "Error"

    await wait_until(has_failed, _SECONDS)
    yield Case({"ID": instance})
    await site.on_ods_server('ALTER DATABASE "EdFi_Ods_Unsaved_Minimal" ALLOW_CONNECTIONS true')


@_provokes("OdsBackupNotVerified", "bytes of a stored backup are changed")
async def backup_damaged(site: Site) -> AsyncIterator[Case]:
    backup = await _backed_up(site, "Damaged")
    for dump in site.backups.rglob("database.dump"):
        with dump.open("r+b") as file:
            file.seek(dump.stat().st_size // 2)
            file.write(b"damaged!")
    with suppress(AssertionError):
        await site.ods("backup", "verify", str(backup), "--wait")
    yield Case({"BACKUP_ID": str(backup), "NAME": "Damaged"}, answers="Damaged\n", mends=True)


async def _backed_up(site: Site, name: str) -> object:
    """Have a new instance and a backup of it; returns the id of the backup."""
    await created(site, name)
    await site.ods("backup", "create", name, "--wait")
    return await site.on_registry("SELECT id FROM adminapi.backups WHERE name = $1", name)


# Temporal


@_provokes("OdsScheduleLate", "the schedule of the reconcile pass is paused")
async def schedule_paused(site: Site) -> AsyncIterator[Case]:
    await _pause(site)
    yield Case(mends=True)


async def _pause(site: Site) -> None:
    await site.temporal("schedule", "toggle", "--pause", "--schedule-id", "reconcile", "--reason", "a fault")


async def _resume(site: Site) -> None:
    await site.temporal("schedule", "toggle", "--unpause", "--schedule-id", "reconcile", "--reason", "mended")


@_provokes("OdsNoPollers", "the worker is started on a copy of the registry")
async def worker_waits(site: Site) -> AsyncIterator[Case]:
    await _copy_registry(site)
    yield Case()
    printed = await site.shell("ods recover --apply --yes --confirm")
    assert "Confirmed." in printed.text, printed


@_provokes("OdsNonDeterminism", "the worker has code that takes a step more than a job that is open")
async def other_code(site: Site) -> AsyncIterator[Case]:
    async with _template_missing(site):
        instance = await create(site, "Changed")
        await reached(site, "Changed", "Error")
    async with _deployed(site, "tests.faults.next_worker"):
        await site.ods("instance", "retry", instance)
        yield Case({"ID": instance})


@_provokes("OdsMessageTooLarge", "the worker has code that hands five megabytes to a step")
async def large_step(site: Site) -> AsyncIterator[Case]:
    async with _deployed(site, "tests.alerts.large_worker"):
        instance = await create(site, "Too large")
        yield Case({"ID": instance, "JOB_ID": f"CreateInstanceJob-{instance}-1"}, mends=True)
    await site.up("worker")


@asynccontextmanager
async def _deployed(site: Site, module: str) -> AsyncIterator[None]:
    """Another release of the worker runs meanwhile, and none afterwards."""
    before = site.worker.module
    await site.down("worker")
    site.worker.module = (module,)
    await site.up("worker")
    try:
        yield
    finally:
        await site.down("worker")
        site.worker.module = before


@_provokes("OdsTaskLatency", "the worker is held still for most of the time, and jobs are requested")
async def worker_slow(site: Site) -> AsyncIterator[Case]:
    headers, numbers = await site.bearer(), itertools.count()

    async def hold() -> None:
        _signal(site.worker, signal.SIGSTOP)
        for _ in range(_MORE_THAN_POLLS):
            request = {"name": f"Slow {next(numbers)}", "databaseTemplate": "Minimal"}
            await site.post("/v2/dbInstances", json=request, headers=headers)
        await asyncio.sleep(8)
        _signal(site.worker, signal.SIGCONT)
        await asyncio.sleep(1)

    try:
        async with _template_missing(site), _again_and_again(hold):
            yield Case()
    finally:
        _signal(site.worker, signal.SIGCONT)


def _signal(service: Service, number: int) -> None:
    for pid in service.pids:
        os.kill(pid, number)


@_provokes("OdsResourceExhausted", "Temporal admits few calls a second, and another client makes many")
async def temporal_limited(site: Site) -> AsyncIterator[Case]:
    try:
        await _restart_temporal(site, "--dynamic-config-value", "frontend.namespaceRPS=5")
        other = await Client.connect(site.worker.variables["TEMPORAL_ADDRESS"], lazy=True)

        async def ask() -> None:
            asked = (
                other.workflow_service.describe_workflow_execution(_ASKED, retry=False) for _ in range(20)
            )
            await asyncio.gather(*asked, return_exceptions=True)

        async with _again_and_again(ask):
            yield Case()
    finally:
        await _restart_temporal(site)


async def _restart_temporal(site: Site, *options: str) -> None:
    await site.down("temporal")
    site.temporal_options = options
    await site.up("temporal")


# Around it


@_provokes("OdsCertificateEnds", "the certificate of the reverse proxy ends in two days")
async def certificate_ends(site: Site) -> AsyncIterator[Case]:
    site.proxy.renew(days=2)
    try:
        yield Case(host=f"localhost:{site.proxy.port}")
    finally:
        site.proxy.renew(days=90)


@_provokes("OdsDiskNearlyFull", "a file takes nearly all of the file system of the ODS databases")
async def disk_filled(site: Site) -> AsyncIterator[Case]:
    instance = await created(site, "Purged")
    await site.ods("instance", "delete", instance, "--wait")
    with filled(site, leaving=100_000_000):
        yield Case({"ID": instance}, answers="Purged\n")


@contextmanager
def filled(site: Site, leaving: int) -> Iterator[None]:
    """A file takes all of the file system of the ODS databases but for so many bytes."""
    disk = os.statvfs(site.ods_data)
    filler = site.ods_data.parent / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leaving)
    try:
        yield
    finally:
        filler.unlink()
