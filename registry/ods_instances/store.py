"""Changing ODS instances from outside the life of an instance: each change is one transaction.

Behind an ODS instance there may be an instance, which made it; its row and its job change with it then.
"""

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from registry.connection_strings.npgsql import connection_string_faults
from registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from registry.education_organizations.store import forget
from registry.instances import status
from registry.instances.naming import name_faults
from registry.instances.relations import relations_of
from registry.instances.reservations import lock_name, reserved_id, somebody_has_name
from registry.instances.status import InstanceStatus
from registry.instances.store import InstanceStore, Requested
from registry.storage import models
from registry.storage.models import DbInstance, OdsInstance
from registry.storage.rules import is_blank, required_text_faults, text_faults
from registry.storage.transactions import (
    FOREIGN_KEY_VIOLATION,
    UNIQUE_VIOLATION,
    locked,
    require_none,
    transaction,
)

ODS_INSTANCE = "odsInstance"
"""What clients call an ODS instance."""

_LONGEST = 100
_TAKEN = "An ODS instance or an instance with this name already exists. Choose another name."
_CONFLICTS = {
    UNIQUE_VIOLATION: {"Name": [_TAKEN]},
    FOREIGN_KEY_VIOLATION: {"Id": ["Rows of another table refer to this ODS instance. Can not be deleted."]},
}


@dataclass(frozen=True)
class OdsInstanceDraft:
    """An ODS instance as somebody wants it; nothing of it has been checked but what is told in `misread`."""

    name: str | None
    instance_type: str | None
    connection_string: str | None
    type_errors: dict[str, list[str]] = field(default_factory=dict)


class OdsInstances:
    """Creates, changes and deletes one tenant's ODS instances."""

    def __init__(
        self, engine: AsyncEngine, instances: InstanceStore, connection_strings: OdsConnectionStrings
    ) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._instances = instances
        self._connection_strings = connection_strings

    async def create(self, draft: OdsInstanceDraft) -> OdsInstance:
        """Record an ODS instance, whose database somebody else looks after.

        Raises:
            InvalidError: the draft breaks rules.
        """
        faults = {
            "InstanceType": _type_faults(draft),
            "ConnectionString": connection_string_faults(draft.connection_string),
        }
        async with transaction(self._sessions, _CONFLICTS) as session:
            name = draft.name or ""
            faults["Name"] = await _new_name_faults(session, name)
            require_none(faults | draft.type_errors)
            row = OdsInstance(ods_instance_id=await reserved_id(session), name=name)
            session.add(row)
            return self._filled(row, draft)

    async def update(self, ods_instance_id: int, draft: OdsInstanceDraft) -> OdsInstance:
        """Make the ODS instance as the draft says; without a connection string, it keeps its own.

        Raises:
            RowNotFoundError: there is no such ODS instance.
            InvalidError: the draft breaks rules, or a job of the instance behind it is under way.
        """
        async with transaction(self._sessions, _CONFLICTS) as session:
            instance = await _locked_instance_behind(session, ods_instance_id)
            row = await locked(session, OdsInstance, ods_instance_id, ODS_INSTANCE)
            name = _wanted_name(draft, instance)
            faults = {"Id": _job_faults(instance, "changed"), "InstanceType": _type_faults(draft)}
            if not is_blank(draft.connection_string):
                faults["ConnectionString"] = connection_string_faults(draft.connection_string)
            if name != row.name:
                faults["Name"] = await _new_name_faults(session, name, instance)
            require_none(faults | draft.type_errors)
            if name != row.name:
                _rename(row, name, instance)
            return self._filled(row, draft)

    async def delete(self, ods_instance_id: int) -> Requested | None:
        """Remove the ODS instance; returns the delete of the instance behind it, if there is one.

        Raises:
            RowNotFoundError: there is no such ODS instance.
            InvalidError: other rows refer to it, or a job of the instance behind it is under way.
        """
        async with transaction(self._sessions, _CONFLICTS) as session:
            instance = await _locked_instance_behind(session, ods_instance_id)
            row = await locked(session, OdsInstance, ods_instance_id, ODS_INSTANCE)
            relations = await relations_of(session, ods_instance_id)
            faults = [f"{relation} refer to this ODS instance. Can not be deleted." for relation in relations]
            require_none({"Id": faults + _job_faults(instance, "deleted")})
            await session.delete(row)
            await forget(session, ods_instance_id)
            return await self._instances.request_delete_in(session, instance) if instance else None

    def _filled(self, row: OdsInstance, draft: OdsInstanceDraft) -> OdsInstance:
        row.instance_type = draft.instance_type
        if draft.connection_string is not None and not is_blank(draft.connection_string):
            row.connection_string = self._connection_strings.encrypted_text(draft.connection_string)
        return row


def _type_faults(draft: OdsInstanceDraft) -> list[str]:
    return text_faults("Instance Type", draft.instance_type or "", _LONGEST)


def _wanted_name(draft: OdsInstanceDraft, instance: DbInstance | None) -> str:
    """The name in the draft; names of instances have no outer blanks."""
    name = draft.name or ""
    return name if instance is None else name.strip()


async def _new_name_faults(session: AsyncSession, name: str, instance: DbInstance | None = None) -> list[str]:
    """What is wrong with `name` as a new name; the rules of `instance`, if it is behind, are stricter."""
    faults = required_text_faults("Name", name, _LONGEST) if instance is None else name_faults(name)
    if faults:
        return faults
    await lock_name(session, name)
    return [_TAKEN] if await somebody_has_name(session, name, excluding=instance) else []


def _job_faults(instance: DbInstance | None, verb: str) -> list[str]:
    if instance is None or instance.status in status.REQUEST_DELETE.sources:
        return []
    return [f"A job of its instance is under way ({instance.status}). Can not be {verb}. Try again later."]


def _rename(row: OdsInstance, name: str, instance: DbInstance | None) -> None:
    """Give the name to both rows; the database keeps its own."""
    row.name = name
    if instance is not None:
        instance.name = instance.ods_instance_name = name
        instance.last_modified = models.UTC_NOW


async def _locked_instance_behind(session: AsyncSession, ods_instance_id: int) -> DbInstance | None:
    """The live instance with this id. It is locked before the ODS instance is, as the steps of jobs do it."""
    live = DbInstance.status != InstanceStatus.DELETED
    query = select(DbInstance).where(DbInstance.ods_instance_id == ods_instance_id, live)
    return (await session.scalars(query.with_for_update())).one_or_none()
