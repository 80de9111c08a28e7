"""Checks that run at once, each with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ods.doctor.findings import Finding, fault
from ods.observability.logs import fault_name

DEADLINE = 12.0
"""Seconds after which a check is given up, whatever it waits for."""


@dataclass(frozen=True)
class Check:
    """Something to be examined.

    Attributes:
        subject: what it is.
        examine: finds out how it is; it changes nothing.
    """

    subject: str
    examine: Callable[[], Awaitable[Sequence[Finding]]]


async def run_all(checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks, in their order; one that fails or takes too long is a fault itself."""
    found = await asyncio.gather(*(_run(check) for check in checks))
    return [finding for findings in found for finding in findings]


async def _run(check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(DEADLINE):
            return await check.examine()
    except TimeoutError:
        found, remedy = f"It did not answer within {DEADLINE:.0f} s", "see whether it is overloaded"
    except Exception as error:  # noqa: BLE001 - the other checks go on, and an exception's text may hold secrets
        found, remedy = f"It could not be examined: {fault_name(error)}", "report this line"
    return [fault(check.subject, found, remedy)]
