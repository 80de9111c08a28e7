"""Confirming that a registry goes on as its installation, where it is now and on its server."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from ods.registry.clock import RegistryClock
from ods.registry.installation import InstallationState
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.jobs import InstanceJob


async def confirm(
    engine: AsyncEngine,
    cancellations: JobCancellations,
    state: InstallationState,
    server: str | None,
    others: Collection[str],
) -> Sequence[InstanceJob]:
    """Record that the operator has confirmed the installation; safe to repeat.

    Jobs that would drop a database are cancelled: a restored registry may have forgotten that they were.

    Args:
        state: where the registry is.
        server: system identifier of its server's cluster; None while that is away.
        others: installations that may have databases on the server as well.

    Returns:
        The cancelled jobs.
    """
    cancelled = await cancellations.hold_drops()
    store = cancellations.installation
    await store.confirm(state)
    await RegistryClock(engine, timedelta()).observe()  # so that a pass does not call off what follows
    if server is not None:
        await store.accept_server(server, sorted(others))
    return cancelled
