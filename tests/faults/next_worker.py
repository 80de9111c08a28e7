"""`python -m tests.faults.next_worker`: a worker whose `CreateInstance` has one step more.

The step has no patch, so this release cannot carry on what the one before it has begun.
"""

import asyncio

import worker
from ods.observability.logs import configure_logging
from tests.workflows.next_version import Unpatched

if __name__ == "__main__":
    configure_logging()
    worker.WORKFLOWS[0] = Unpatched
    asyncio.run(worker.main())
