"""The least that a POST to a FastAPI service with a registry does: one insert, one commit, 202."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from time import monotonic, sleep

import asyncpg
import httpx
from fastapi import FastAPI, Request
from pydantic import BaseModel

from ods.embedded.ports import free_port

_DSN = "BENCH_BARE_DSN"
_TABLE = "CREATE TABLE IF NOT EXISTS bench_requests (id serial PRIMARY KEY, name text, template text)"
_INSERT = "INSERT INTO bench_requests (name, template) VALUES ($1, $2) RETURNING id"
_ROOT = Path(__file__).parents[1]
_START_SECONDS = 30


class BareInstanceRequest(BaseModel):
    """The body that the service's own POST takes."""

    name: str
    databaseTemplate: str  # noqa: N815 - on the wire


@asynccontextmanager
async def _connected(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ[_DSN]) as pool:
        await pool.execute(_TABLE)
        app.state.pool = pool
        yield


def create_app() -> FastAPI:
    """The application, for uvicorn."""
    app = FastAPI(lifespan=_connected)

    @app.post("/", status_code=HTTPStatus.ACCEPTED)
    async def create(new: BareInstanceRequest, request: Request) -> dict[str, int]:
        pool: asyncpg.Pool = request.app.state.pool
        return {"id": await pool.fetchval(_INSERT, new.name, new.databaseTemplate)}

    return app


@contextmanager
def bare_api(dsn: str) -> Iterator[str]:
    """Run the application in another process, on the database `dsn`; gives its address."""
    port = free_port()
    options = ("--factory", "benchmarks.bare_api:create_app", "--port", str(port), "--log-level", "warning")
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "uvicorn", *options], cwd=_ROOT, env=os.environ | {_DSN: dsn}
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_answers(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = monotonic() + _START_SECONDS
    while monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            sleep(0.05)
        else:
            return
    raise RuntimeError("The bare API does not answer.")
