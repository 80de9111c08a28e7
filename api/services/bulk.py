"""Requests for several instances at once: all of them are accepted, or none."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends

from api.dependencies import InstanceStoreDep
from api.faults import REFUSALS, WHOLE, EntryFaults, faults_of
from api.final_backups import FinalBackupsDep
from api.http.audit_context import AuditContextDep
from api.http.parsing import Properties, unknown_members, whole_number
from api.http.problems import explained, pascal
from api.schemas.plans import Plan
from api.services.instances import MOST_AT_ONCE, CreateRequest, CreateRequestReaderDep, InstanceServiceDep
from api.services.plans import PlanServiceDep
from ods.backups.errors import BackupFaultError
from ods.model.origins import CopyMode, CopyOrigin
from ods.registry.instances.deletes import Delete
from ods.registry.instances.naming import database_name, doubled_parts
from ods.registry.instances.store import Requested
from ods.registry.storage.errors import InvalidError
from ods.registry.storage.models import DbInstance


class BulkService:
    """Carries such requests out, or tells what they would do.

    The entries of a request are judged before the first of them is carried out, so that all their faults are
    reported together.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        instances: InstanceStoreDep,
        service: InstanceServiceDep,
        reader: CreateRequestReaderDep,
        plans: PlanServiceDep,
        audit: AuditContextDep,
        final_backups: FinalBackupsDep,
    ) -> None:
        self._final_backups = final_backups
        self._instances = instances
        self._service = service
        self._reader = reader
        self._plans = plans
        self._delete = Delete(by=audit.client)

    async def create(self, body: Properties[Any]) -> list[Requested]:
        """Request the instances that the body lists.

        Raises:
            InvalidError: telling everything that is wrong with any of them.
        """
        faults = EntryFaults("instances")
        new = await self._read(body, faults)
        requested = []
        async with self._instances.together():
            await self._lock(list(new.values()))
            await self._judge(new, faults)
            faults.require_none()
            for number, one in new.items():
                with faults.of(number):
                    requested.append(await self._service.create(one))
            faults.require_none()
        return requested

    async def plan_creates(self, body: Properties[Any]) -> Plan:
        """What `create` would do."""
        faults = EntryFaults("instances")
        new = await self._read(body, faults)
        await self._judge(new, faults)
        return await self._plans.of_creates(list(new.values()), faults.errors)

    async def plan_create(self, body: Properties[Any]) -> Plan:
        """What a request for the one instance that the body describes would do."""
        try:
            new = await self._reader.read(body)
        except InvalidError as refusal:
            return await self._plans.of_creates([], faults_of(refusal))
        try:
            await self._service.judge(new)
        except REFUSALS as refusal:
            return await self._plans.of_creates([new], faults_of(refusal), explained(refusal).status)
        return await self._plans.of_creates([new], {})

    async def delete(self, body: Properties[Any]) -> list[Requested]:
        """Request that the instances are deleted whose ids the body lists.

        Raises:
            InvalidError: telling everything for which any of them cannot be deleted.
            BackupFaultError: one is to be backed up before its database is dropped, and cannot be.
        """
        faults = EntryFaults("ids")
        ids = _ids(body, faults)
        if self._instances.deletes.may_back_up(self._delete):
            # Before the transaction, which would hold its locks while the server is asked.
            rows = await self._deletable(ids, faults)
            faults.require_none()
            await self._final_backups.require_ready(rows, self._delete)
        requested = []
        async with self._instances.together():
            await self._instances.lock(list(ids.values()))
            await self._deletable(ids, faults)
            faults.require_none()
            for number, instance_id in ids.items():
                with faults.of(number):
                    deleted = await self._instances.request_delete(instance_id, self._delete)
                    requested.append(await self._service.launched(deleted))
            faults.require_none()
        return requested

    async def plan_deletes(self, body: Properties[Any]) -> Plan:
        """What `delete` would do."""
        faults = EntryFaults("ids")
        rows = await self._deletable(_ids(body, faults), faults)
        try:
            await self._final_backups.require_ready(rows, self._delete)
        except BackupFaultError as fault:
            errors = {**faults.errors, "Ids": [fault.reason]}
            status = HTTPStatus.BAD_REQUEST if faults.errors else explained(fault).status
            return await self._plans.of_deletes(rows, self._delete, errors, status)
        return await self._plans.of_deletes(rows, self._delete, faults.errors)

    async def _read(self, body: Properties[Any], faults: EntryFaults) -> dict[int, CreateRequest]:
        """Those entries that keep all rules, by their numbers."""
        new = {}
        for number, entry in enumerate(_entries(body, "instances", "objects")):
            if not isinstance(entry, dict):
                faults.add(number, WHOLE, ["It must be an object."])
                continue
            with faults.of(number):
                new[number] = await self._reader.read(Properties(entry))
        _refuse_doubled(new, faults)
        _refuse_exclusive_copies(new, faults)
        return new

    async def _lock(self, new: Sequence[CreateRequest]) -> None:
        origins = [one.origin for one in new]
        await self._instances.lock_parts(
            [origin.instance_id for origin in origins if isinstance(origin, CopyOrigin)],
            [name for one in new for name in (one.name, database_name(one.name, one.template))],
            [one.attributes.contexts for one in new if one.attributes.contexts],
        )

    async def _judge(self, new: Mapping[int, CreateRequest], faults: EntryFaults) -> None:
        for number, one in new.items():
            with faults.of(number):
                await self._service.judge(one)

    async def _deletable(self, ids: Mapping[int, int], faults: EntryFaults) -> list[DbInstance]:
        rows = []
        for number, instance_id in ids.items():
            with faults.of(number):
                rows.append(await self._instances.require_deletable(instance_id, self._delete))
        return rows


BulkServiceDep = Annotated[BulkService, Depends()]


def _entries(body: Properties[Any], member: str, kind: str) -> Sequence[object]:
    if errors := unknown_members(body, (member,)):
        raise InvalidError(errors)
    entries = body.get(member)
    if isinstance(entries, list) and 1 <= len(entries) <= MOST_AT_ONCE:
        return entries
    name = pascal(member)
    raise InvalidError({name: [f"'{name}' must be a list of 1 to {MOST_AT_ONCE} {kind}."]})


def _ids(body: Properties[Any], faults: EntryFaults) -> dict[int, int]:
    """The ids in the body, by their numbers."""
    ids: dict[int, int] = {}
    known: dict[int, int] = {}
    for number, entry in enumerate(_entries(body, "ids", "ids")):
        instance_id = whole_number(entry)
        if instance_id is None:
            faults.add(number, WHOLE, ["It must be the id of an instance."])
        elif instance_id in known:
            faults.add(number, WHOLE, [f"It is the same as {faults.entry(known[instance_id])}."])
        else:
            known[instance_id] = number
            ids[number] = instance_id
    return ids


def _refuse_doubled(new: Mapping[int, CreateRequest], faults: EntryFaults) -> None:
    """File under each entry what an earlier one has as well, although only one instance can have it."""
    entries = {number: (one.name, one.template, one.attributes.contexts or {}) for number, one in new.items()}
    for number, earlier, part in doubled_parts(entries):
        faults.add(number, part.member, [f"{part.words} is that of {faults.entry(earlier)} as well."])


def _refuse_exclusive_copies(new: Mapping[int, CreateRequest], faults: EntryFaults) -> None:
    """File under each copy that an earlier entry copies the same instance, if one of both closes it."""
    copies = {number: one.origin for number, one in new.items() if isinstance(one.origin, CopyOrigin)}
    for number, copy in copies.items():
        for earlier, other in copies.items():
            is_exclusive = CopyMode.CLOSED in {copy.mode, other.mode}
            if earlier < number and copy.instance_id == other.instance_id and is_exclusive:
                reason = (
                    f"{faults.entry(earlier)} copies the instance {copy.instance_id} as well, and one of both"
                    " closes it. Copy it online, or by a later request."
                )
                faults.add(number, "CopyOf", [reason])
                break
