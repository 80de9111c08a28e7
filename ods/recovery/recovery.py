"""Carries a plan of recovery out: the registry follows the server, and nothing is dropped."""

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ods.databases.errors import DatabaseFaultError
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.confirmation import confirm
from ods.recovery.following import ChangedMeanwhileError, UnusableError, follow, leave_name
from ods.recovery.plan import InTheWay, Plan, RecoveryStep, make_plan, require_known
from ods.recovery.standing import Standing, read_standing
from ods.registry.backups.stores import BackupStores
from ods.registry.instances.jobs import InstanceJob
from ods.registry.storage.errors import (
    InstallationNotConfirmedError,
    InstanceError,
    InstanceNotFoundError,
    NameTakenError,
    RefusedError,
)
from ods.tenants.backup_store import open_store
from ods.tenants.known_store import accept_store, store_question
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
        cancelled: the jobs that waited to drop a database, which it has cancelled before.
    """

    done: Sequence[RecoveryStep]
    refused: Sequence[Refused]
    plan: Plan
    is_over: bool
    cancelled: Sequence[InstanceJob] = ()


class IdentityError(InstanceError):
    """The registry may not become that installation; the message says why."""


@dataclass(frozen=True)
class Identity:
    """What the operator is asked before the first step, with the facts of both sides.

    Attributes:
        standing: what registry and server say of the installation.
        store: what is to be decided about the store of backups; None if nothing.
    """

    standing: Standing
    store: str | None


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
        seen = await DriftDetector(self._tenant).read()
        require_known(seen, chosen)
        return make_plan(seen, chosen)

    async def identity(self) -> Identity:
        """What must be confirmed before, of the registry and of its store of backups; nothing is changed."""
        tenant = self._tenant
        standing = await read_standing(tenant.jobs.installation, tenant.installation, tenant.server)
        return Identity(standing, await store_question(tenant))

    async def renew(self) -> str:
        """Make the registry, a copy, an installation of its own; returns its id.

        No database on the server is its own then, so nothing of the original is changed.

        Raises:
            IdentityError: it is no copy, by all that registry and server tell.
        """
        store = self._tenant.jobs.installation
        store.forget()
        standing = await read_standing(store, self._tenant.installation, self._tenant.server)
        if standing.why_no_copy is not None:
            raise IdentityError(standing.why_no_copy)
        renewed = await store.renew()
        _logger.warning("Recovery: the registry is an installation of its own.")
        return renewed

    async def take_over(self, installation: str) -> None:
        """Have the registry, which is new, go on as the installation whose registry is lost.

        Its databases on the server say which it is. Nothing else is changed: the steps come after that.

        Raises:
            IdentityError: the registry has instances, or had; no database on the server is that
                installation's; or it is another tenant's, or may be.
            DatabaseFaultError: the server cannot be reached.
        """
        tenant, check, store = self._tenant, self._tenant.installation, self._tenant.jobs.installation
        async with tenant.server.session() as session:
            if (obstacle := await check.obstacle_to_take_over(session, installation)) is not None:
                raise IdentityError(obstacle)
        if not await store.take_over(installation):
            raise IdentityError(
                "This registry has instances, or had: it is an installation already. Nothing was done. Only a"
                " registry that is new can go on as another installation."
            )
        check.forget()
        _logger.warning("Recovery: the registry goes on as the installation %s.", installation)

    async def accept_store(self) -> None:
        """Let the registry know the store of backups as it is now, and be the one that cleans it.

        Raises:
            BackupFaultError: there is none, or it cannot be used.
        """
        tenant = self._tenant
        store = await open_store(tenant.settings)
        await accept_store(store, BackupStores(tenant.engine), tenant.name)
        _logger.warning("Recovery: the store of backups is accepted.")

    async def apply(
        self, chosen: Collection[str] = (), *, is_confirmed: bool = False, accepts_store: bool = False
    ) -> Outcome:
        """Do it; safe to repeat, and to interrupt.

        What is refused is tried again as long as other steps are done: one may free the name of another.
        Before the first, what waits to drop a database is called off, as a client may have called it off in
        what the registry has forgotten.

        Args:
            chosen: as for `plan`.
            is_confirmed: whether the operator says that no other service works on the original of this
                registry, and that its server is the right one. A registry that was restored in place asks
                for nothing, but what waits in it is called off then as well.
            accepts_store: whether the operator says that the store of backups is the right one, and that no
                copy of this registry uses it.

        Raises:
            InstallationNotConfirmedError: the registry was copied or moved, and the operator has not said
                that it goes on.
            BackupFaultError: the store cannot be accepted.
        """
        tenant = self._tenant
        plan = await self.plan(chosen)
        if plan.confirmation is not None and not is_confirmed:
            raise InstallationNotConfirmedError(plan.confirmation)
        cancelled: Sequence[InstanceJob] = ()
        if is_confirmed:
            cancelled = await self._confirm()
        elif not plan.is_empty:
            cancelled = await tenant.cancellations.hold_drops()
        if accepts_store:
            await self.accept_store()
        done, refused, is_over = await self._carry_out(plan, chosen)
        left = make_plan(await DriftDetector(tenant).read(), chosen)
        return Outcome(done, refused, left, is_over, cancelled)

    async def _carry_out(
        self, plan: Plan, chosen: Collection[str]
    ) -> tuple[Sequence[RecoveryStep], Sequence[Refused], bool]:
        """Carry the steps out, as long as there is time; also returns whether there was enough."""
        tenant = self._tenant
        await tenant.adoptions.pass_number(plan.highest_number)
        done: list[RecoveryStep] = []
        until = time.monotonic() + _PER_REQUEST_SECONDS
        while True:
            plan = make_plan(await DriftDetector(tenant).read(), chosen)
            for one in plan.in_the_way:
                await self._give_up_names(one)
            plan = await self._with_private_names(plan, chosen)
            refused: list[Refused] = []
            done_before = len(done)
            for step in plan.steps:
                if (reason := await self._reason_against(step)) is None:
                    done.append(step)
                else:
                    refused.append(Refused(step, reason))
                if done and time.monotonic() > until:
                    return done, refused, False
            if len(done) == done_before:
                return done, refused, True

    async def _give_up_names(self, one: InTheWay) -> None:
        """Have the instance give up its names, unless it has moved on meanwhile."""
        with suppress(InstanceNotFoundError, RefusedError):
            await self._tenant.adoptions.give_up_names(one.instance_id, one.revision)

    async def _with_private_names(self, plan: Plan, chosen: Collection[str]) -> Plan:
        """Give databases whose names others wait for private ones; returns what is to be done then."""
        if not plan.held_names:
            return plan
        for step in plan.held_names:
            with suppress(ChangedMeanwhileError, DatabaseFaultError):  # its step says why
                await leave_name(self._tenant, step)
        return make_plan(await DriftDetector(self._tenant).read(), chosen)

    async def _confirm(self) -> Sequence[InstanceJob]:
        """Confirm that this registry goes on as its installation, on this server; returns cancelled jobs.

        Raises:
            InstallationNotConfirmedError: the registry of another tenant is the same installation.
        """
        tenant, check = self._tenant, self._tenant.installation
        if (same := await check.same_installation()) is not None:
            raise InstallationNotConfirmedError(same.obstacle)
        tenant.jobs.installation.forget()
        state = await tenant.jobs.installation.state()
        async with tenant.server.session() as session:
            server, others = await check.system(session), await check.others(session)
        cancelled = await confirm(tenant.engine, tenant.cancellations, state, server, others)
        _logger.warning("Recovery: the installation is confirmed.")
        return cancelled

    async def _reason_against(self, step: RecoveryStep) -> str | None:
        """Carry the step out; returns why that cannot be done, or None if it was."""
        try:
            await follow(self._tenant, step)
        except RefusedError as refusal:
            return f"{refusal.reason} {refusal.next_step}"
        except NameTakenError as taken:
            return f"{taken} Or give the other one another name, then recover again."
        except (UnusableError, DatabaseFaultError) as refusal:
            return str(refusal)
        except (InstanceNotFoundError, ChangedMeanwhileError):
            return "It was changed meanwhile. Recover again."
        _logger.warning("Recovery: %s of the OdsInstanceId %s.", step.kind, step.ods_instance_id)
        return None
