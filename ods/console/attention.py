"""What needs a person, for the top of every page: never a look at the server, but what the last one found."""

from dataclasses import dataclass

from api.tenant_services import Services
from ods.model.operations import InstanceStatus
from ods.recovery.compare.findings import is_suspect
from ods.registry.instances.instance_list import InstanceFilter

FAILED = (InstanceStatus.ERROR, InstanceStatus.DELETE_FAILED)
"""Instances with these need a person."""
NEEDS_PERSON = "failed"
"""What the filter of the list has for all of these statuses together."""


@dataclass(frozen=True)
class Attention:
    """What needs a person.

    Attributes:
        failed: how many instances have failed.
        drift: how many contradictions of registry and server the last look has found.
        spares: how many spares were missing at the last look.
        unconfirmed: what the operator must confirm before jobs go on; None if nothing.
        is_suspected: whether the registry may be wrong about what is due, so that nothing is purged.
        hold: until when drops are held back after a restore, and why; None if they are not.
    """

    failed: int
    drift: int
    spares: int
    unconfirmed: str | None
    is_suspected: bool
    hold: str | None

    @property
    def is_any(self) -> bool:
        """Whether a person is needed for anything at all."""
        return bool(self.failed or self.drift or self.spares or self.unconfirmed)


async def attention_of(services: Services) -> Attention:
    """What needs a person, of one tenant; looks that are old are renewed after this, in the background."""
    looks = services.looks
    looks.renew()
    failed = await services.tenant.queries.count(InstanceFilter(statuses=FAILED))
    found = looks.drift.found if looks.drift else ()
    spares = looks.spares.found.missing if looks.spares else 0
    unconfirmed = await _unconfirmed(services)
    hold = (await services.tenant.instances.installation.state()).hold
    return Attention(failed, len(found), spares, unconfirmed, is_suspect(found) is not None, hold)


async def _unconfirmed(services: Services) -> str | None:
    """What the operator must confirm: what a job has found counts only while the last look is old."""
    store, seen = services.tenant.instances.installation, services.looks.installation
    if seen is None:
        return await store.awaited()
    return seen.found or await store.obstacle()
