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
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Lifespan
from temporalio.client import Client

from api.health import HealthMonitor
from api.http import problems
from api.middleware.admission import ProtocolMiddleware
from api.middleware.audit import AuditMiddleware
from api.middleware.correlation import CorrelationMiddleware
from api.middleware.hosts import AllowedHosts
from api.middleware.metrics import MetricsMiddleware
from api.middleware.protection import ProtectionMiddleware
from api.middleware.route_table import RouteTable
from api.middleware.shedding import CostlyRequests, Downloads
from api.middleware.tenancy import Tenancy
from api.readiness import Readiness
from api.routes import (
    adoption,
    audit,
    backups,
    bulk,
    codec,
    connect,
    documentation,
    drift,
    education_organizations,
    information,
    instances,
    jobs,
    managed_instances,
    ods_instance_contexts,
    ods_instance_derivatives,
    ods_instances,
    probes,
    recovery,
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
from api.security.limits import ProcessLimits
from api.security.oidc import IssuerTokens
from api.services.instances import document_templates
from api.tenant_services import Services
from ods.console import app as console
from ods.console.issuer import SignInIssuer
from ods.console.known_fragments import KnownFragmentsMiddleware
from ods.console.session import signed_in_client
from ods.observability.logs import configure_logging, switch_debug_on_hangup
from ods.observability.loop_watchdog import watched_loop
from ods.observability.metrics import server as metrics_server
from ods.observability.metrics.exposition import Exposition
from ods.observability.metrics.figures import Figures, Question
from ods.observability.tracing import provider
from ods.registry.connection_strings.ods_connection_strings import connection_strings
from ods.registry.storage.dsn_check import DsnCheck
from ods.settings.settings import (
    AnySettings,
    InvalidSettingsError,
    LogFormat,
    load_settings,
    warn_of_unknown_variables,
)
from ods.temporal import client
from ods.temporal.figures import ScheduleAges
from ods.temporal.sdk_metrics import SdkText, measuring_runtime
from ods.tenants import figures
from ods.tenants.tenant import Tenant, open_tenants

_GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""After how many new objects, and how many smaller searches, each generation is searched for garbage."""

_logger = logging.getLogger(__name__)


def create_app() -> FastAPI:
    """The API with the settings of the environment: the process's entry point."""
    _configure_logging()
    settings = _settings_of_environment()
    _configure_logging(settings)
    warn_of_unknown_variables(_logger)
    if settings.allowed_hosts is None:
        _logger.warning("ODS_ALLOWED_HOSTS is not set: requests are served whatever host they name.")
    app = app_with(settings, _watched_lifespan)
    # While garbage is searched for, no request is served. What is loaded by now stays, and to search it takes
    # 100 ms; to search what many requests and open pages hold, 50 to 90 ms, by default every few seconds.
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    return app


def app_with(settings: AnySettings, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """The API with `settings`. `lifespan` starts and stops what its requests need, by default `_lifespan`."""
    app = _App(
        title="ODS instance management",
        description="Creates and deletes Ed-Fi ODS instances.",
        version=information.VERSION,
        lifespan=lifespan or _lifespan,
        routes=[
            *_routes(
                issues_tokens=settings.oidc_issuer is None,
                has_console=settings.console,
                has_codec=settings.codec_server,
            )
        ],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.signed_in_client = signed_in_client if settings.console else None
    app.state.sign_in_issuer = SignInIssuer.from_settings(settings)
    problems.install(app)
    hosts = AllowedHosts(settings.allowed_hosts)
    app.state.route_table = RouteTable(app.routes)
    app.state.costly_requests = CostlyRequests(settings)
    app.state.downloads = Downloads(settings.downloads)
    if settings.console:
        app.add_middleware(KnownFragmentsMiddleware)
    app.add_middleware(ProtocolMiddleware, hosts=hosts, route_table=app.state.route_table)
    return app


@cache
def _routes(*, issues_tokens: bool, has_console: bool, has_codec: bool) -> Sequence[BaseRoute]:
    """All endpoints. Made once: to analyse their parameters takes longer than all else of an application."""
    router = APIRouter()
    # `manage` and `edOrgs` come before the ids of ODS instances, and so win over them.
    for module in (
        *(information, probes, documentation, bulk, instances, adoption, usage, managed_instances),
        *(education_organizations, ods_instances, ods_instance_contexts, ods_instance_derivatives),
        *(tenants, tenant_view),
        *(backups, jobs, sweeps, drift, recovery, snapshots, spares, templates, trash, audit),
        *((connect,) if issues_tokens else ()),
        *((codec,) if has_codec else ()),
        *((console,) if has_console else ()),
    ):
        router.include_router(module.router)
    return router.routes


class _App(FastAPI):
    """FastAPI, in two respects as this service wants it."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put these around everything: unforeseen faults are recorded, counted and answered as well."""
        counted = MetricsMiddleware(AuditMiddleware(super().build_middleware_stack()), self.state.route_table)
        return CorrelationMiddleware(ProtectionMiddleware(counted))

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
    dsns = await _checked_dsns(settings)
    # Lazily: the API starts, and accepts requests, while Temporal is away.
    runtime, sdk = measuring_runtime(settings)
    temporal = await client.connect(settings, lazy=True, runtime=runtime)
    limits, issuer = ProcessLimits(enabled=settings.rate_limiting), IssuerTokens.from_settings(settings)
    async with open_tenants(settings) as composition:
        services = [Services.compose(tenant, temporal, limits, issuer) for tenant in composition]
        app.state.tenancy = Tenancy(services, multi_tenant=settings.multi_tenant)
        app.state.health = HealthMonitor(app.state.tenancy)
        app.state.readiness = Readiness(app.state.tenancy, temporal)
        background: list[asyncio.Task[Any]] = [
            asyncio.create_task(task)
            for one in services
            for task in (one.dispatcher.retry_missed(), one.recorder.keep())
        ]
        background.append(asyncio.create_task(_stop_if_refused(dsns)))
        try:
            async with _observed(settings, composition, temporal, sdk, app.state.readiness):
                yield
        except InvalidSettingsError as invalid:
            _logger.error("The API cannot start.\n%s", invalid)  # noqa: TRY400 - its stack says nothing
            raise
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await asyncio.gather(*(one.dispatcher.drain() for one in services))
            await asyncio.gather(*(one.looks.close() for one in services))
            await asyncio.gather(app.state.health.close(), *(one.recorder.flush() for one in services))
            provider.stop()


@asynccontextmanager
async def _observed(
    settings: AnySettings, tenants: Sequence[Tenant], temporal: Client, sdk: SdkText, readiness: Readiness
) -> AsyncIterator[None]:
    """Serve metrics and probes on their own port, if there is one, until the process has stopped."""
    ages = ScheduleAges(temporal, settings.tenants)
    asked = Figures([*figures.questions(tenants), Question("temporal", ages.read)])
    exposition = Exposition(asked, partial(figures.pool_samples, tenants), sdk)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(readiness.close)
        stack.push_async_callback(asked.close)
        await stack.enter_async_context(metrics_server.serving(settings, exposition.text, readiness))
        stack.enter_context(readiness.stopped_by_signals())
        yield


@asynccontextmanager
async def _watched_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The same, in a process that ends if its event loop hangs."""
    async with watched_loop(), _lifespan(app):
        yield


async def _checked_dsns(settings: AnySettings) -> DsnCheck:
    dsns = DsnCheck(settings)
    try:
        await dsns.check()
    except InvalidSettingsError as invalid:
        _logger.error("The API cannot start.\n%s", invalid)  # noqa: TRY400 - its stack says nothing
        raise
    return dsns


async def _stop_if_refused(dsns: DsnCheck) -> None:
    """Check the DSNs whose server was away at the start; stop the process as the start would have."""
    try:
        await dsns.keep_checking()
    except InvalidSettingsError as invalid:
        _logger.error("The API cannot go on.\n%s", invalid)  # noqa: TRY400 - its stack says nothing
        signal.raise_signal(signal.SIGTERM)  # the server's own way to stop


def _settings_of_environment() -> AnySettings:
    """The settings; ends the process with one line for each that it cannot run with."""
    try:
        settings = load_settings(tenants_needed=False)
        connection_strings(settings)  # no worker could carry out what we would accept
        client.configuration()
        provider.start("ods-api")
    except InvalidSettingsError as invalid:
        sys.exit(f"The API cannot start.\n{invalid}")
    return settings


def _configure_logging(settings: AnySettings | None = None) -> None:
    """Take over the server's own loggers too: they would print exceptions with their texts and stacks.

    Args:
        settings: say how lines are written, once they are known.
    """
    if settings is None:
        configure_logging()
    else:
        configure_logging(settings.log_level.number, as_json=settings.log_format is LogFormat.JSON)
        switch_debug_on_hangup(settings.log_level.number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
