"""Services that stand in for others, in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port

_SECONDS = 10


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The address at which `app` is served, as `http://127.0.0.1:8000`."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, lifespan="off", proxy_headers=False, log_config=None)
    )
    task = asyncio.create_task(server.serve())

    async def has_started() -> bool:
        return server.started

    try:
        await wait_until(has_started, _SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task
