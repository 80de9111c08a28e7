"""Confirms a registry that was put back, and its store of backups, as `ods recover` does first; no more.

The matrix plays what happens before the operator recovers the databases.
"""

import asyncio
import sys

from ods.recovery.confirmation import confirm
from ods.recovery.recovery import Recovery
from ods.settings.settings import load_settings
from ods.tenants.tenant import open_tenants


async def _confirm(*, accepts_store: bool) -> None:
    async with open_tenants(load_settings()) as (tenant,):
        state = await tenant.jobs.installation.state()
        check = tenant.installation
        async with tenant.server.session() as session:
            server, others = await check.system(session), await check.others(session)
        await confirm(tenant.engine, tenant.cancellations, state, server, others)
        if accepts_store:
            await Recovery(tenant).accept_store()


if __name__ == "__main__":
    asyncio.run(_confirm(accepts_store="--accept-store" in sys.argv[1:]))
