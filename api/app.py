"""The API: composes its parts and its endpoints.

Run it with `uvicorn --factory api.app:create_app --http api.http.server_protocol:TimedProtocol`; as many
processes as wanted may serve one registry.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from api.health import HealthMonitor
from api.http import problems
from api.instance_service import document_templates
from api.middleware.admission import ProtocolMiddleware
from api.middleware.audit import AuditMiddleware
from api.middleware.hosts import AllowedHosts
from api.middleware.route_table import RouteTable
from api.middleware.tenancy import Tenancy
from api.routes import (
    adoption,
    audit,
    backups,
    bulk,
    connect,
    documentation,
    drift,
    information,
    instances,
    jobs,
    managed_instances,
    ods_instance_contexts,
    ods_instance_derivatives,
    ods_instances,
    refreshes,
    snapshots,
    spares,
    sweeps,
    templates,
    tenant_view,
    tenants,
    trash,
    usage,
)
from api.security.grants import GrantRefusal
from api.security.limits import ConnectLimits
from api.security.oidc import IssuerTokens
from api.services import Services
from console import app as console
from logs import configure_logging
from registry.connection_strings.ods_connection_strings import connection_strings
from registry.storage.poolers import PoolerCheck
from settings import AnySettings, InvalidSettingsError, load_settings
from temporal import client
from tenants.tenant import open_tenants

_logger = logging.getLogger(__name__)


def create_app() -> FastAPI:
    """The API with the settings of the environment: the process's entry point."""
    _configure_logging()
    settings = _settings_of_environment()
    if settings.allowed_hosts is None:
        _logger.warning("ODS_ALLOWED_HOSTS is not set: requests are served whatever host they name.")
    app = app_with(settings)
    # What is loaded by now stays. To search it for garbage takes 100 ms, in which no request is served.
    gc.freeze()
    return app


def app_with(settings: AnySettings) -> FastAPI:
    """The API with `settings`."""
    app = _App(
        title="ODS instance management",
        description="Creates and deletes Ed-Fi ODS instances.",
        version=information.VERSION,
        lifespan=_lifespan,
        routes=[*_routes(issues_tokens=settings.oidc_issuer is None, has_console=settings.console)],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    problems.install(app)
    hosts = AllowedHosts(settings.allowed_hosts)
    app.add_middleware(ProtocolMiddleware, hosts=hosts, route_table=RouteTable(app.routes))
    return app


@cache
def _routes(*, issues_tokens: bool, has_console: bool) -> Sequence[BaseRoute]:
    """All endpoints. Made once: to analyse their parameters takes longer than all else of an application."""
    router = APIRouter()
    # `manage` comes before the ids of ODS instances, and so wins over them.
    for module in (
        *(information, documentation, bulk, instances, adoption, usage, managed_instances),
        *(ods_instances, ods_instance_contexts, ods_instance_derivatives, refreshes, tenants, tenant_view),
        *(backups, jobs, sweeps, drift, snapshots, spares, templates, trash, audit),
        *((connect,) if issues_tokens else ()),
        *((console,) if has_console else ()),
    ):
        router.include_router(module.router)
    return router.routes


class _App(FastAPI):
    """FastAPI, in two respects as this service wants it."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the audit middleware around everything, so that it records unforeseen faults as well."""
        return AuditMiddleware(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        """Describe what there is: no 422 of FastAPI's own, templates by their names, HEAD without a body."""
        description = super().openapi()
        schemas = description["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for model in (problems.Problem, GrantRefusal):
            schemas[model.__name__] = model.model_json_schema()
        for verbs in description["paths"].values():
            for verb, operation in verbs.items():
                if problems.MEDIA_TYPE not in operation["responses"].get("422", {}).get("content", {}):
                    operation["responses"].pop("422", None)
                for response in operation["responses"].values() if verb == "head" else ():
                    response.pop("content", None)
        document_templates(description, self.state.settings)
        return description


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: AnySettings = app.state.settings
    poolers = await _inspect_poolers(settings)
    # Lazily: the API starts, and accepts requests, while Temporal is away.
    temporal = await client.connect(settings, lazy=True)
    limits, issuer = ConnectLimits(enabled=settings.rate_limiting), IssuerTokens.from_settings(settings)
    async with open_tenants(settings) as composition:
        services = [Services.compose(tenant, temporal, limits, issuer) for tenant in composition]
        app.state.tenancy = Tenancy(services, multi_tenant=settings.multi_tenant)
        app.state.health = HealthMonitor(app.state.tenancy)
        background: list[asyncio.Task[Any]] = [
            asyncio.create_task(task)
            for one in services
            for task in (one.dispatcher.retry_missed(), one.recorder.keep())
        ]
        background.append(asyncio.create_task(_stop_if_refused(poolers)))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await asyncio.gather(*(one.dispatcher.drain() for one in services))
            await asyncio.gather(*(one.looks.close() for one in services))
            await asyncio.gather(app.state.health.close(), *(one.recorder.flush() for one in services))


async def _inspect_poolers(settings: AnySettings) -> PoolerCheck:
    poolers = PoolerCheck(settings)
    try:
        await poolers.check()
    except InvalidSettingsError as invalid:
        _logger.error("The API cannot start.\n%s", invalid)  # noqa: TRY400 - its stack says nothing
        raise
    return poolers


async def _stop_if_refused(poolers: PoolerCheck) -> None:
    """Inspect poolers whose server was away at the start; stop the process as the start would have."""
    try:
        await poolers.keep_checking()
    except InvalidSettingsError as invalid:
        _logger.error("The API cannot go on.\n%s", invalid)  # noqa: TRY400 - its stack says nothing
        signal.raise_signal(signal.SIGTERM)  # the server's own way to stop


def _settings_of_environment() -> AnySettings:
    """The settings; ends the process with one line for each that it cannot run with."""
    try:
        settings = load_settings(tenants_needed=False)
        connection_strings(settings)  # no worker could carry out what we would accept
        client.configuration()
    except InvalidSettingsError as invalid:
        sys.exit(f"The API cannot start.\n{invalid}")
    return settings


def _configure_logging() -> None:
    """Take over the server's own loggers too: they would print exceptions with their texts and stacks."""
    configure_logging()
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
