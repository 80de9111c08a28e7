"""The API in this process, and what its clients need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from api.app import app_with
from api.security.tokens import Tokens
from ods.settings.settings import DEFAULT_TENANT, AnySettings
from tests.servers import delete_schedules
from worker import run

NOBODY = "127.0.0.1:1"
"""An address that refuses connections."""


@asynccontextmanager
async def running(settings: AnySettings, temporal_address: str) -> AsyncIterator[FastAPI]:
    """The API, started and stopped as a server does it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEMPORAL_ADDRESS", temporal_address)
        app = app_with(settings)
        async with app.router.lifespan_context(app):
            yield app


def client_of(app: FastAPI, address: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
    """A client at `address` that gets answers even to what the app raises, as from a server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://api", **options)


@asynccontextmanager
async def served(settings: AnySettings, temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API, with a worker behind it."""
    address, stop = temporal.service_client.config.target_host, asyncio.Event()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEMPORAL_ADDRESS", address)
        working = asyncio.create_task(run(settings, stop))
        try:
            async with running(settings, address) as app, client_of(app) as client:
                yield client
        finally:
            stop.set()
            await working
            for tenant in settings.tenants:
                await delete_schedules(temporal, tenant)


def bearer(settings: AnySettings, lifetime: int = 60, tenant: str = DEFAULT_TENANT) -> dict[str, str]:
    """Headers with a token that the API accepts for `lifetime` seconds."""
    return {"Authorization": f"Bearer {tokens(settings, lifetime, tenant).issue('a-client')}"}


def tokens(settings: AnySettings, lifetime: int = 60, tenant: str = DEFAULT_TENANT) -> Tokens:
    """Issues the API's tokens."""
    return Tokens(settings.token_signing_keys, lifetime, tenant)


def faults_of(answer: httpx.Response) -> dict[str, list[str]]:
    """What was wrong with which property, of a request that was refused for it."""
    assert answer.status_code == 400, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Validation failed"
    errors: dict[str, list[str]] = answer.json()["errors"]
    return errors


async def is_started(workflow: WorkflowHandle[Any, Any]) -> bool:
    """Whether Temporal has the workflow: an answer of the API does not wait for long until it has."""
    with suppress(RPCError):
        await workflow.describe()
        return True
    return False
