"""A recovery without the API: on the registry and the server that the settings of the service name.

Before API and worker are started on a registry that was restored or copied, no API answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from api.http.problems import explained
from api.schemas.recovery import RecoveryPlan, RecoveryReport
from ods.cli.client import Json, reason_of
from ods.cli.registry_access import operator, settings_of_environment, tenant_of_environment
from ods.embedded.errors import CommandError
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.recovery import Recovery
from ods.registry.audit import AuditTrail, command_entry
from ods.settings.settings import InvalidSettingsError
from ods.tenants.tenant import Tenant, open_tenants

_Result = TypeVar("_Result")


class Recoverer(Protocol):
    """What recovers: the API, or this process itself."""

    def recovery_plan(self, chosen: Sequence[str]) -> Json:
        """What a recovery would do, with these databases chosen."""

    def recover(self, chosen: Sequence[str], *, confirm: bool, accept_store: bool) -> Json:
        """Bring the registry in step with the server, as far as there is time for in one request."""

    def renew_installation(self) -> Json:
        """Make the registry, a copy, an installation of its own."""

    def take_installation_over(self, installation: str) -> Json:
        """Have the registry, which is new, go on as that installation, whose registry is lost."""

    def drift(self) -> list[Json]:
        """Where registry and server contradict each other."""


class RegistryRecovery:
    """Recovers the registry of one tenant; what it changes is recorded in the audit trail.

    Each method may raise `CommandError`, with the reason that the API would give.
    """

    def __init__(self, runner: asyncio.Runner, tenant: Tenant) -> None:
        self._runner = runner
        self._tenant = tenant
        self._recovery = Recovery(tenant)

    def recovery_plan(self, chosen: Sequence[str]) -> Json:
        """What a recovery would do, with these databases chosen."""
        return self._run(lambda: self._plan(chosen))

    def recover(self, chosen: Sequence[str], *, confirm: bool, accept_store: bool) -> Json:
        """Bring the registry in step with the server, as far as there is time for in one request."""

        async def recovered() -> Json:
            outcome = await self._recovery.apply(chosen, is_confirmed=confirm, accepts_store=accept_store)
            return _written(RecoveryReport.of(outcome, await self._recovery.identity()))

        words = (" --confirm" if confirm else "") + (" --accept-store" if accept_store else "")
        return self._run(recovered, f"ods recover --apply{words}")

    def renew_installation(self) -> Json:
        """Make the registry, a copy, an installation of its own."""

        async def renewed() -> Json:
            await self._recovery.renew()
            return {"done": [], "cancelled": [], "left": await self._plan(()), "isOver": True}

        return self._run(renewed, "ods recover --apply --as-new-installation")

    def take_installation_over(self, installation: str) -> Json:
        """Have the registry, which is new, go on as that installation, whose registry is lost."""

        async def taken_over() -> Json:
            await self._recovery.take_over(installation)
            return {"done": [], "cancelled": [], "left": await self._plan(()), "isOver": True}

        return self._run(taken_over, "ods recover --apply --as-installation")

    def drift(self) -> list[Json]:
        """Where registry and server contradict each other."""

        async def found() -> list[Json]:
            return [
                {"kind": one.kind, "subject": one.subject, "explanation": one.explanation}
                for one in await DriftDetector(self._tenant).detect()
            ]

        return self._run(found)

    async def _plan(self, chosen: Sequence[str]) -> Json:
        return _written(RecoveryPlan.of(await self._recovery.plan(chosen), await self._recovery.identity()))

    def _run(self, work: Callable[[], Awaitable[_Result]], command: str | None = None) -> _Result:
        async def done() -> _Result:
            result = await work()
            if command is not None:
                await AuditTrail(self._tenant.engine).record(command_entry(command, operator()))
            return result

        try:
            return self._runner.run(done())
        except Exception as error:
            problem = explained(error)
            if problem.status is HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            raise CommandError(reason_of(problem.content)) from None


@contextmanager
def registry_recovery() -> Iterator[RegistryRecovery]:
    """A recovery of the registry that the settings of the environment name, of the chosen tenant.

    Raises:
        CommandError: a setting cannot be used, or none says which tenant.
    """
    settings = settings_of_environment()
    name = tenant_of_environment(settings)
    with asyncio.Runner() as runner:
        opened = open_tenants(settings)
        try:
            tenants = runner.run(opened.__aenter__())
        except InvalidSettingsError as error:
            raise CommandError(str(error)) from None
        try:
            yield RegistryRecovery(runner, next(one for one in tenants if one.name == name))
        finally:
            runner.run(opened.__aexit__(None, None, None))


def _written(answer: RecoveryPlan | RecoveryReport) -> dict[str, Any]:
    return answer.model_dump(mode="json", by_alias=True)
