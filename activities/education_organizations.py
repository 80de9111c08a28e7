"""Refreshes of education organizations: requested, started, read from ODS databases, and finished."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities.errors import is_locked
from activities.following import heartbeats
from activities.passes import accepted
from ods.databases.education_organizations.processes import ReadingProcesses, reading_processes
from ods.databases.education_organizations.reading import Address, UnreadableError
from ods.model.operations import JobStatus
from ods.observability.logs import fault_name
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.education_organizations.refreshes import RefreshJobs, Scope
from ods.registry.education_organizations.store import EducationOrganizations, OdsDatabase, Organization

_MAX_NAMED = 20
_FOREIGN_SHARE = 4
"""One in so many databases that are read at once may be on a server of others, which may not answer."""
_UNREADABLE_STRING = "its connection string cannot be read"
_NOT_ALLOWED = (
    "its connection string names a server that is not one of this installation's servers: name it in"
    " ODS_ALLOWED_ODS_HOSTS if it is to be read"
)
_FOREIGN_FAULT = (
    "it cannot be read from its server, which is not one of this installation's servers"
    " (the log of the worker says why)"
)
"""The same for every fault: otherwise a client could explore the network of the worker."""
_DATA_CLASSES = ("22", "23")
"""Classes of SQLSTATEs about values: too long, out of range, missing."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Database:
    """Where a database is, and which servers that may lead to; None for the installation's own."""

    address: Address
    allowed: str | None


@dataclass(frozen=True)
class PageToRead:
    """Up to `size` ODS instances of `scope` with ids above `after`."""

    scope: Scope
    after: int
    size: int


@dataclass(frozen=True)
class PageRead:
    """What became of a page; `last_id` is None if it was empty, `faults` are the first that were met."""

    read: int
    unreadable: int
    faults: list[str]
    last_id: int | None


class EducationOrganizationActivities:
    """Reads ODS databases into the registry, `at_once` of them in all activities of this worker."""

    def __init__(
        self, organizations: EducationOrganizations, connection_strings: OdsConnectionStrings, at_once: int
    ) -> None:
        self._organizations = organizations
        self._connection_strings = connection_strings
        self._slots = asyncio.Semaphore(at_once)
        self._foreign_slots = asyncio.Semaphore(max(1, at_once // _FOREIGN_SHARE))

    @activity.defn
    async def read_page(self, page: PageToRead) -> PageRead:
        """Read a page of ODS databases; one that cannot be read does not keep the others from being read.

        When a page of all ODS instances is empty, organizations of deleted ODS instances are removed.
        """
        only = page.scope.ods_instance_id
        async with heartbeats():
            sources = await self._organizations.databases(page.after, page.size, only)
            if not sources:
                if only is None:
                    await self._organizations.forget_deleted()
                return PageRead(read=0, unreadable=0, faults=[], last_id=None)
            async with reading_processes() as processes, asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._try_to_read(source, processes)) for source in sources]
        faults = [fault for task in tasks if (fault := task.result())]
        read, last_id = len(sources) - len(faults), sources[-1].ods_instance_id
        return PageRead(read, len(faults), faults[:_MAX_NAMED], last_id)

    async def _try_to_read(self, source: OdsDatabase, processes: ReadingProcesses) -> str | None:
        """Read one ODS database; returns why it cannot be read, None if it was."""
        try:
            database = self._database(source)
            async with nullcontext() if database.allowed is None else self._foreign_slots:
                reason = await self._read(source, database, processes)
        except UnreadableError as error:
            reason = str(error)
        return reason and f"'{source.name}' (id {source.ods_instance_id}): {reason}"

    async def _read(
        self, source: OdsDatabase, database: _Database, processes: ReadingProcesses
    ) -> str | None:
        async def read() -> Sequence[Organization]:
            found = await processes.read(database.address, database.allowed)
            return [Organization(*row) for row in found]

        async with self._slots:
            try:
                await self._organizations.replace(source, database.address.database, read)
            except (UnreadableError, SQLAlchemyError, OSError) as error:
                if is_locked(error):
                    return "another session has locked its row in the registry"
                if (reason := _reason(error)) is None:
                    raise
            except Exception as error:  # noqa: BLE001 - one database shall not keep the others from being read
                _logger.warning("ODS instance %s: %s", source.ods_instance_id, fault_name(error))
                reason = "what is there was not understood"
            else:
                return None
        if database.allowed is None:
            return reason
        _logger.warning("ODS instance %s: %s", source.ods_instance_id, reason)
        return _FOREIGN_FAULT

    def _database(self, source: OdsDatabase) -> _Database:
        strings = self._connection_strings
        try:
            found = strings.decrypted(source.connection_string)
        except ValueError:
            raise UnreadableError(_UNREADABLE_STRING) from None
        user, password = found.login
        if not user:  # the driver would fill in what the environment says
            raise UnreadableError(_UNREADABLE_STRING)
        address = Address(found.endpoints, found.database or user, user, password, found.ssl_mode)
        if strings.names_own_servers(found):
            return _Database(address, None)
        if all(map(strings.allowed.allow, found.endpoints)):
            return _Database(address, strings.allowed.text)
        raise UnreadableError(_NOT_ALLOWED)


def _reason(error: Exception) -> str | None:
    """Why a database cannot be read; None if the registry is away instead."""
    if isinstance(error, UnreadableError):
        return str(error)
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    held = state.startswith(_DATA_CLASSES)
    return f"the registry cannot hold what is there (SQLSTATE {state})" if held else None


@dataclass(frozen=True)
class RefreshResult:
    """How a refresh job has ended: its status, and what could not be read, in words."""

    scope: Scope
    job_id: str
    status: JobStatus
    message: str | None


class RefreshActivities:
    """Requests, starts, begins and finishes refreshes."""

    def __init__(self, jobs: RefreshJobs, start: Callable[[Scope], Awaitable[None]]) -> None:
        self._jobs = jobs
        self._start = start

    @activity.defn
    async def request_refresh(self) -> None:
        """Request a refresh of all ODS instances, unless one is waiting or running."""
        await self._jobs.request_unless_unfinished(Scope(None, self._jobs.tenant))
        await self.dispatch_refreshes()

    @activity.defn
    async def request_refresh_of(self, ods_instance_id: int) -> None:
        """Request a refresh of one ODS instance, unless one waits."""
        scope = Scope(ods_instance_id, self._jobs.tenant)
        await self._jobs.request(scope)
        await accepted(self._start(scope), scope.workflow_id)

    @activity.defn
    async def dispatch_refreshes(self) -> int:
        """Start the workflows of scopes whose jobs wait, or lost their workflow; returns how many.

        The next pass tries again what Temporal has refused.
        """
        dispatched = 0
        for scope in await self._jobs.unfinished():
            dispatched += await accepted(self._start(scope), scope.workflow_id)
            activity.heartbeat(scope.ods_instance_id)
        return dispatched

    @activity.defn
    async def begin_refresh(self, scope: Scope) -> str | None:
        """Move the due job of `scope` to `InProgress`; returns its id, or None if no job is due."""
        return await self._jobs.begin(scope)

    @activity.defn
    async def finish_refresh(self, result: RefreshResult) -> None:
        """Record how a job has ended."""
        await self._jobs.finish(result.job_id, result.status, result.message)
