"""The activity that reads the education organizations of ODS databases into the registry."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities.errors import is_locked
from activities.heartbeats import heartbeats
from databases.education_organizations import Address, UnreadableError, education_organizations, reading
from logs import fault_name
from registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from registry.education_organizations.refreshes import Scope
from registry.education_organizations.store import EducationOrganizations, OdsDatabase, Organization

_MAX_NAMED = 20
_DATA_CLASSES = ("22", "23")
"""Classes of SQLSTATEs about values: too long, out of range, missing."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageToRead:
    """Up to `size` ODS instances of `scope` with ids above `after`."""

    scope: Scope
    after: int
    size: int


@dataclass(frozen=True)
class PageRead:
    """The result of reading a page.

    Attributes:
        read: how many ODS instances were read.
        unreadable: how many could not be read.
        faults: why not, for the first of them.
        last_id: the id of the page's last ODS instance; None if the page was empty.
    """

    read: int
    unreadable: int
    faults: list[str]
    last_id: int | None


class EducationOrganizationActivities:
    """Reads ODS databases into the registry.

    Args:
        organizations: the education organizations in the registry.
        connection_strings: decrypts the connection strings of the ODS databases.
        at_once: how many databases are read at once, by all activities of this worker together.
    """

    def __init__(
        self, organizations: EducationOrganizations, connection_strings: OdsConnectionStrings, at_once: int
    ) -> None:
        self._organizations = organizations
        self._connection_strings = connection_strings
        self._slots = asyncio.Semaphore(at_once)

    @activity.defn
    async def read_page(self, page: PageToRead) -> PageRead:
        """Read a page of ODS databases; one that cannot be read does not keep the others from being read.

        When a page of all ODS instances is empty, organizations of deleted ODS instances are removed.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry is away.
        """
        only = page.scope.ods_instance_id
        async with heartbeats():
            sources = await self._organizations.databases(page.after, page.size, only)
            faults = await self._read_all(sources)
            if not sources and only is None:
                await self._organizations.forget_deleted()
        return PageRead(
            read=len(sources) - len(faults),
            unreadable=len(faults),
            faults=faults[:_MAX_NAMED],
            last_id=sources[-1].ods_instance_id if sources else None,
        )

    async def _read_all(self, sources: Sequence[OdsDatabase]) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._try_to_read(source)) for source in sources]
        return [fault for task in tasks if (fault := task.result())]

    async def _try_to_read(self, source: OdsDatabase) -> str | None:
        """Read one ODS database; returns why it cannot be read, None if it was.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry is away, which is no fault of the ODS database.
        """
        async with self._slots:
            try:
                await self._read(source)
            except UnreadableError as error:
                reason = str(error)
            except (SQLAlchemyError, OSError) as error:
                state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
                if is_locked(error):
                    reason = "another session has locked its row in the registry"
                elif state.startswith(_DATA_CLASSES):
                    reason = f"the registry cannot hold what is there (SQLSTATE {state})"
                else:
                    raise
            except Exception as error:  # noqa: BLE001 - one database shall not keep the others from being read
                _logger.warning("ODS instance %s: %s", source.ods_instance_id, fault_name(error))
                reason = "what is there was not understood"
            else:
                return None
        return f"'{source.name}' (id {source.ods_instance_id}): {reason}"

    async def _read(self, source: OdsDatabase) -> None:
        address = self._address(source)
        async with reading(address) as session:

            async def read() -> Sequence[Organization]:
                return [Organization(**row) for row in await education_organizations(session)]

            await self._organizations.replace(source, address.database, read)

    def _address(self, source: OdsDatabase) -> Address:
        try:
            found = self._connection_strings.decrypted(source.connection_string)
            user, password = found.login
            if user:  # the driver would fill in what the worker's own environment says
                return Address(found.endpoints, found.database or user, user, password, found.ssl_mode)
        except ValueError:
            pass
        raise UnreadableError("its connection string cannot be read")
