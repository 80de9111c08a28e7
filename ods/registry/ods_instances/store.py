"""Changes of ODS instances that clients ask for: each is one transaction.

An ODS instance may have been made by the job of an instance. That instance is renamed with it, and deleted
with it by a job.
"""

from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ods.model.arguments import rules_of_way
from ods.model.operations import DELETABLE
from ods.registry.connection_strings.npgsql import connection_string_errors
from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.registry.education_organizations.store import forget
from ods.registry.instances.copies import hold_refusal
from ods.registry.instances.deletes import Delete
from ods.registry.instances.naming import name_errors
from ods.registry.instances.ods_routing import (
    OTHERS_NEXT_STEP,
    keep_parts,
    lasting_relations_of,
    others_reason,
    relations_of,
)
from ods.registry.instances.refusals import not_adopted, protection_refusal
from ods.registry.instances.reservations import lock_name, name_is_taken, reserved_id
from ods.registry.instances.store import InstanceStore, Requested
from ods.registry.snapshots.rows import retire_all
from ods.registry.storage import models
from ods.registry.storage.errors import InvalidError, require_valid
from ods.registry.storage.models import DbInstance, OdsInstance
from ods.registry.storage.rules import is_blank, required_text_errors, text_errors
from ods.registry.storage.sessions import FOREIGN_KEY_VIOLATION, UNIQUE_VIOLATION, RegistrySessions, locked

ODS_INSTANCE = "odsInstance"
"""What clients call an ODS instance."""

LONGEST_ODS_INSTANCE_TEXT = 100
"""Characters of an ODS instance's name, and of its type."""
_TAKEN = "An ODS instance or an instance with this name already exists. Choose another name."
_CONFLICTS = {
    UNIQUE_VIOLATION: partial(InvalidError, {"Name": [_TAKEN]}),
    FOREIGN_KEY_VIOLATION: partial(
        InvalidError, {"Id": ["Rows of another table refer to this ODS instance. Can not be deleted."]}
    ),
}


@dataclass(frozen=True)
class OdsInstanceDraft:
    """An ODS instance as a client wants it: nothing is checked yet but the types of the properties.

    Attributes:
        name: its name.
        instance_type: its type, any text.
        connection_string: how the ODS/API connects to its database; blank keeps that of an existing one.
        type_errors: what is wrong with the types of the properties, by their names in PascalCase.
    """

    name: str | None
    instance_type: str | None
    connection_string: str | None
    type_errors: dict[str, list[str]] = field(default_factory=dict)


class OdsInstances:
    """Creates, changes and deletes one tenant's ODS instances.

    If there is none, `RowNotFoundError` is raised; `InvalidError`, if a draft breaks rules, or a job of its
    instance is under way.
    """

    def __init__(
        self, engine: AsyncEngine, instances: InstanceStore, connection_strings: OdsConnectionStrings
    ) -> None:
        self._sessions = RegistrySessions(engine)
        self._instances = instances
        self._connection_strings = connection_strings

    async def create(self, draft: OdsInstanceDraft) -> OdsInstance:
        """Add an ODS instance whose database this service does not manage."""
        errors = {
            "InstanceType": _type_errors(draft),
            "ConnectionString": connection_string_errors(draft.connection_string),
        }
        async with self._sessions.transaction(_CONFLICTS) as session:
            name = draft.name or ""
            errors["Name"] = await _new_name_errors(session, name)
            require_valid(errors | draft.type_errors)
            row = OdsInstance(ods_instance_id=await reserved_id(session), name=name)
            session.add(row)
            return self._filled(row, draft)

    async def update(self, ods_instance_id: int, draft: OdsInstanceDraft) -> OdsInstance:
        """Give the ODS instance the values of the draft; without a connection string, it keeps its own."""
        async with self._sessions.transaction(_CONFLICTS) as session:
            instance = await _locked_instance_of(session, ods_instance_id)
            row = await locked(session, OdsInstance, ods_instance_id, ODS_INSTANCE)
            name = _wanted_name(draft, instance)
            errors = {"Id": _job_errors(instance, "changed"), "InstanceType": _type_errors(draft)}
            if not is_blank(draft.connection_string):
                errors["ConnectionString"] = connection_string_errors(draft.connection_string)
            if name != row.name:
                errors["Id"] += await _hold_errors(session, instance, "renamed")
                errors["Name"] = await _new_name_errors(session, name, instance)
            require_valid(errors | draft.type_errors)
            if name != row.name:
                _rename(row, name, instance)
            return self._filled(row, draft)

    async def delete(self, ods_instance_id: int, by: str | None = None) -> Requested | None:
        """Remove the ODS instance; returns the delete of its instance, if it has one.

        Args:
            ods_instance_id: the ODS instance.
            by: the client that requests it.

        Raises:
            RowNotFoundError: there is no such ODS instance.
            InvalidError: other rows refer to it, a job of its instance is under way, that is protected, or
                other ODS instances lead to its database.
        """
        async with self._sessions.transaction(_CONFLICTS) as session:
            instance = await _locked_instance_of(session, ods_instance_id)
            row = await locked(session, OdsInstance, ods_instance_id, ODS_INSTANCE)
            delete = Delete(by=by)
            # An ODS instance that has the id of one which was never created is another product's.
            managed = instance if instance and instance.is_published else None
            to_trash = managed and rules_of_way(self._instances.deletes.way(managed, delete)).to_trash
            stays = instance and self._instances.deletes.can_come_back(instance, delete)
            relations = await (lasting_relations_of if stays else relations_of)(session, ods_instance_id)
            in_use = [f"{relation} refer to this ODS instance. Can not be deleted." for relation in relations]
            obstacles = (
                _job_errors(instance, "deleted")
                + _protection_errors(instance)
                + await _hold_errors(session, instance, "deleted")
                + await self._others_errors(session, instance, delete)
            )
            require_valid({"Id": in_use + obstacles})
            if instance:
                await retire_all(session, instance.id, ods_instance_id)
            if instance and to_trash:
                await keep_parts(session, instance.id, ods_instance_id)
            await session.delete(row)
            await forget(session, ods_instance_id)
            return await self._instances.request_delete_in(session, instance, delete) if instance else None

    async def _others_errors(
        self, session: AsyncSession, instance: DbInstance | None, delete: Delete
    ) -> list[str]:
        others = instance and await self._instances.others_in_the_way(session, instance, delete)
        return [f"{others_reason(others)} Can not be deleted. {OTHERS_NEXT_STEP}"] if others else []

    def _filled(self, row: OdsInstance, draft: OdsInstanceDraft) -> OdsInstance:
        row.instance_type = draft.instance_type
        if draft.connection_string is not None and not is_blank(draft.connection_string):
            row.connection_string = self._connection_strings.encrypted_text(draft.connection_string)
        return row


def _type_errors(draft: OdsInstanceDraft) -> list[str]:
    return text_errors("Instance Type", draft.instance_type or "", LONGEST_ODS_INSTANCE_TEXT)


def _wanted_name(draft: OdsInstanceDraft, instance: DbInstance | None) -> str:
    """The name in the draft; names of instances have no outer blanks."""
    name = draft.name or ""
    return name if instance is None else name.strip()


async def _new_name_errors(session: AsyncSession, name: str, instance: DbInstance | None = None) -> list[str]:
    """What is wrong with `name` as the new name of an ODS instance, and of its `instance` if it has one."""
    errors = (
        required_text_errors("Name", name, LONGEST_ODS_INSTANCE_TEXT)
        if instance is None
        else name_errors(name)
    )
    if errors:
        return errors
    await lock_name(session, name)
    return [_TAKEN] if await name_is_taken(session, name, excluding=instance) else []


def _job_errors(instance: DbInstance | None, verb: str) -> list[str]:
    if instance is None:
        return []
    if not instance.is_adopted:
        refusal = not_adopted(instance)
        return [f"{refusal.reason} Can not be {verb}. {refusal.next_step}"]
    if instance.status in DELETABLE:
        return []
    return [f"A job of its instance is under way ({instance.status}). Can not be {verb}. Try again later."]


def _protection_errors(instance: DbInstance | None) -> list[str]:
    refusal = None if instance is None else protection_refusal(instance)
    return [] if refusal is None else [f"{refusal.reason} Can not be deleted. {refusal.next_step}"]


async def _hold_errors(session: AsyncSession, instance: DbInstance | None, verb: str) -> list[str]:
    refusal = None if instance is None else await hold_refusal(session, instance)
    return [] if refusal is None else [f"{refusal.reason} Can not be {verb}. {refusal.next_step}"]


def _rename(row: OdsInstance, name: str, instance: DbInstance | None) -> None:
    """Give the name to both rows; the database keeps its own."""
    row.name = name
    if instance is not None:
        instance.name = instance.ods_instance_name = name
        instance.last_modified = models.UTC_NOW


async def _locked_instance_of(session: AsyncSession, ods_instance_id: int) -> DbInstance | None:
    """The live instance with this id; it is locked before the ODS instance, as the steps of jobs do it."""
    query = select(DbInstance).where(DbInstance.ods_instance_id == ods_instance_id, DbInstance.is_live)
    return (await session.scalars(query.with_for_update())).one_or_none()
