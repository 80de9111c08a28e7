"""Carries a plan of recovery out: the registry follows the server, and nothing is dropped."""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import assert_never

from ods.databases.adoption import owner_of, replaced_databases
from ods.databases.errors import DatabaseFaultError
from ods.databases.lookup import find
from ods.databases.ownership import trashed_at
from ods.model.revisions import Role
from ods.recovery.plan import Plan, RecoveryStep, StepKind, make_plan
from ods.registry.backups.rows import without_zone
from ods.registry.instances.adoptions import DatabaseName, ToldInstance
from ods.registry.storage.errors import (
    InstallationNotConfirmedError,
    InstanceNotFoundError,
    NameTakenError,
    RefusedError,
)
from ods.tenants.adoption import AdoptionRefusedError, DatabaseAdoption, DatabaseNotFoundError
from ods.tenants.confirmation import confirm
from ods.tenants.tenant import Tenant

_logger = logging.getLogger(__name__)
_PER_REQUEST_SECONDS = 20
"""How long one request carries steps out; the next one goes on."""


@dataclass(frozen=True)
class Refused:
    """A step that could not be done, and why."""

    step: RecoveryStep
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What was done, and what is left.

    Attributes:
        done: the steps that this call has carried out.
        refused: those that it could not.
        plan: what is left, with the refused ones.
        is_over: whether another call would do no more; false if the time of this one was over.
    """

    done: Sequence[RecoveryStep]
    refused: Sequence[Refused]
    plan: Plan
    is_over: bool


class Recovery:
    """Brings the registry of one tenant in step with its server."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._adoption = DatabaseAdoption(tenant)

    async def plan(self, chosen: Collection[str] = ()) -> Plan:
        """What is to be done; nothing is changed.

        Args:
            chosen: names of databases that the operator says their instances had last.
        """
        return make_plan(await self._tenant.drift.read(), chosen)

    async def apply(self, chosen: Collection[str] = (), *, is_confirmed: bool = False) -> Outcome:
        """Do it; safe to repeat, and to interrupt.

        What is refused is tried again as long as other steps are done: one may free the name of another.
        Before the first, what waits to drop a database is called off, as a client may have called it off in
        what the registry has forgotten.

        Args:
            chosen: as for `plan`.
            is_confirmed: whether the operator says that no other service works on the original of this
                registry, and that its server is the right one.

        Raises:
            InstallationNotConfirmedError: the registry was copied or moved, and the operator has not said
                that it goes on.
        """
        tenant, until = self._tenant, time.monotonic() + _PER_REQUEST_SECONDS
        plan = await self.plan(chosen)
        if plan.confirmation is not None and is_confirmed:
            await self._confirm()
        elif plan.confirmation is not None:
            raise InstallationNotConfirmedError(plan.confirmation)
        elif plan.steps:
            await tenant.cancellations.hold_drops()
        await tenant.adoptions.pass_number(plan.highest_number)
        done: list[RecoveryStep] = []
        while True:
            refused: list[Refused] = []
            done_before = len(done)
            for step in plan.steps:
                if time.monotonic() > until:
                    return Outcome(done, refused, await self.plan(chosen), is_over=False)
                if (reason := await self._reason_against(step)) is None:
                    done.append(step)
                else:
                    refused.append(Refused(step, reason))
            plan = await self.plan(chosen)
            if not refused or len(done) == done_before:
                return Outcome(done, refused, plan, is_over=True)

    async def _confirm(self) -> None:
        """Confirm that this registry goes on as its installation, on this server.

        Raises:
            InstallationNotConfirmedError: the registry of another tenant is the same installation.
        """
        tenant, check = self._tenant, self._tenant.installation
        if (same := await check.same_installation()) is not None:
            raise InstallationNotConfirmedError(same.obstacle)
        state = await tenant.jobs.installation.state()
        async with tenant.server.session() as session:
            server, others = await check.system(session), await check.others(session)
        await confirm(tenant.engine, tenant.cancellations, state, server, others)
        _logger.warning("Recovery: the installation is confirmed.")

    async def _reason_against(self, step: RecoveryStep) -> str | None:
        """Carry the step out; returns why that cannot be done, or None if it was."""
        try:
            await self._carry_out(step)
        except RefusedError as refusal:
            return f"{refusal.reason} {refusal.next_step}"
        except (AdoptionRefusedError, NameTakenError, DatabaseFaultError) as refusal:
            return str(refusal)
        except (InstanceNotFoundError, DatabaseNotFoundError):
            return "It was changed meanwhile. Recover again."
        _logger.warning("Recovery: %s of the OdsInstanceId %s.", step.kind, step.ods_instance_id)
        return None

    async def _carry_out(self, step: RecoveryStep) -> None:
        match step.kind:
            case StepKind.HAND_OVER | StepKind.TAKE_BACK:
                number = step.ods_instance_id if step.instance_id is None else step.instance_id
                await self._adoption.adopt(number, step.database, earlier=step.is_chosen)
            case StepKind.DELETE | StepKind.RECORD | StepKind.RECORD_DELETED:
                await self._record(step)
            case _:
                assert_never(step.kind)

    async def _record(self, step: RecoveryStep) -> None:
        """Record an instance as the comment of its database describes it by now; that stays as it is.

        Raises:
            DatabaseNotFoundError: it does not say any more what the step says.
            AdoptionRefusedError: the service could not work on the database.
        """
        tenant = self._tenant
        async with tenant.server.session() as session:
            owner = await owner_of(session, step.database)
        if owner is None:
            raise DatabaseNotFoundError(step.database)
        async with tenant.server.fenced(owner) as session:
            await tenant.installation.require_confirmed(session)
            row = (await find(session, owner, step.database)).get(step.database)
            told = None if row is None else row.marked
            if row is None or told is None or told.revision is None or told.mark != owner.mark:
                raise DatabaseNotFoundError(step.database)
            its = (told.ods_instance_id, told.mark, told.number, told.template_generation, told.database_id)
            instance = ToldInstance(told.name, told.template, *its, told.revision)
            replaced = await replaced_databases(session, told, step.database)
            since = trashed_at(row.comment)
            if step.kind is StepKind.RECORD and told.role is Role.CURRENT:
                await self._adoption.require_usable(session, told, step.database)
                connection_string = tenant.connection_strings.encrypted(step.database)
                named = DatabaseName(step.database, connection_string)
                await tenant.adoptions.restore_lost(instance, named, replaced)
            elif step.kind is not StepKind.RECORD and told.trashed_name is not None and since is not None:
                deleted_at = without_zone(since)
                await tenant.adoptions.record_deleted(instance, told.trashed_name, deleted_at, replaced)
            else:
                raise DatabaseNotFoundError(step.database)
