"""Confirms a registry that was put back, or its store of backups, as `ods recover` does first; no more.

The matrix, and a campaign of faults, judge what is true before the operator recovers the databases.
"""

import asyncio
import sys
from collections.abc import Collection

from ods.recovery.confirmation import confirm
from ods.recovery.recovery import Recovery
from ods.settings.settings import load_settings
from ods.tenants.tenant import open_tenants


async def _confirm(words: Collection[str]) -> None:
    async with open_tenants(load_settings()) as (tenant,):
        if "--confirm" in words:
            state, check = await tenant.jobs.installation.state(), tenant.installation
            async with tenant.server.session() as session:
                server, others = await check.system(session), await check.others(session)
            await confirm(tenant.engine, tenant.cancellations, state, server, others)
        if "--accept-store" in words:
            await Recovery(tenant).accept_store()


if __name__ == "__main__":
    asyncio.run(_confirm(sys.argv[1:]))
