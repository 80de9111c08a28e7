"""Carries a plan of recovery out: the registry follows the server, and nothing is dropped."""

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ods.databases.errors import DatabaseFaultError
from ods.recovery.following import ChangedMeanwhileError, UnusableError, follow
from ods.recovery.plan import InTheWay, Plan, RecoveryStep, make_plan, require_known
from ods.registry.storage.errors import (
    InstallationNotConfirmedError,
    InstanceNotFoundError,
    NameTakenError,
    RefusedError,
)
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

    async def plan(self, chosen: Collection[str] = ()) -> Plan:
        """What is to be done; nothing is changed.

        Args:
            chosen: names of databases that the operator says their instances had last.

        Raises:
            InvalidError: one of them is no instance's.
        """
        seen = await self._tenant.drift.read()
        require_known(seen, chosen)
        return make_plan(seen, chosen)

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
        tenant = self._tenant
        plan = await self.plan(chosen)
        if plan.confirmation is not None:
            if not is_confirmed:
                raise InstallationNotConfirmedError(plan.confirmation)
            await self._confirm()
        if not plan.is_empty:
            await tenant.cancellations.hold_drops()
        await tenant.adoptions.pass_number(plan.highest_number)
        done: list[RecoveryStep] = []
        until = time.monotonic() + _PER_REQUEST_SECONDS
        while True:
            plan = make_plan(await tenant.drift.read(), chosen)
            for one in plan.in_the_way:
                await self._give_up_names(one)
            refused: list[Refused] = []
            done_before = len(done)
            for step in plan.steps:
                if (reason := await self._reason_against(step)) is None:
                    done.append(step)
                else:
                    refused.append(Refused(step, reason))
                if done and time.monotonic() > until:
                    return Outcome(done, refused, make_plan(await tenant.drift.read(), chosen), is_over=False)
            if len(done) == done_before:
                return Outcome(done, refused, make_plan(await tenant.drift.read(), chosen), is_over=True)

    async def _give_up_names(self, one: InTheWay) -> None:
        """Have the instance give up its names, unless it has moved on meanwhile."""
        with suppress(InstanceNotFoundError, RefusedError):
            await self._tenant.adoptions.give_up_names(one.instance_id, one.revision)

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
            await follow(self._tenant, step)
        except RefusedError as refusal:
            return f"{refusal.reason} {refusal.next_step}"
        except (UnusableError, NameTakenError, DatabaseFaultError) as refusal:
            return str(refusal)
        except (InstanceNotFoundError, ChangedMeanwhileError):
            return "It was changed meanwhile. Recover again."
        _logger.warning("Recovery: %s of the OdsInstanceId %s.", step.kind, step.ods_instance_id)
        return None
