"""What endpoints work with: the services of the tenant that a request is for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Annotated, Self
from urllib.parse import quote

from fastapi import Depends
from starlette.requests import HTTPConnection
from temporalio.client import Client

from api.job_dispatcher import JobDispatcher
from api.middleware.audit import AuditRecorder
from api.security.client_states import Standings
from api.security.client_tokens import ClientTokens
from api.security.clients import ApiClients
from api.security.limits import ConnectLimits
from api.security.tokens import Tokens, TokenVerifier
from databases.server import Server
from databases.spare_pool import SparePool
from registry.audit import AuditTrail
from registry.clients.registration import RegistrationWindow
from registry.clients.store import ClientStore
from registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from registry.education_organizations.refreshes import RefreshJobs, RefreshPolicy
from registry.education_organizations.tenant_view import TenantView
from registry.instances.jobs import workflow_id
from registry.instances.queries import InstanceQueries
from registry.instances.store import InstanceStore
from registry.ods_instances.parts import Contexts, Derivatives
from registry.ods_instances.store import OdsInstances
from settings import Settings
from temporal import schedules
from temporal.job_starter import JobStarter
from temporal.refresh_starter import RefreshStarter
from tenants.drift import DriftDetector
from tenants.installation_check import InstallationCheck
from tenants.tenant import Tenant


@dataclass(frozen=True)
class Services:
    """The parts of the service that endpoints call, as one tenant has them."""

    tenant: str
    settings: Settings
    temporal: Client
    instances: InstanceStore
    installation: InstallationCheck
    queries: InstanceQueries
    ods_instances: OdsInstances
    contexts: Contexts
    derivatives: Derivatives
    server: Server
    connection_strings: OdsConnectionStrings
    drift: DriftDetector
    spares: SparePool
    sweep: Callable[[], Awaitable[None]]
    refreshes: RefreshJobs
    tenant_view: TenantView
    refill: Callable[[], Awaitable[None]]
    dispatcher: JobDispatcher
    clients: ApiClients
    registration: RegistrationWindow
    tokens: Tokens
    verifier: TokenVerifier
    limits: ConnectLimits
    audit: AuditTrail
    recorder: AuditRecorder

    @classmethod
    def compose(
        cls, tenant: Tenant, temporal: Client, limits: ConnectLimits, issuer: TokenVerifier | None
    ) -> Self:
        """Put the parts of one tenant together; without an issuer of tokens, it issues them itself."""
        settings, audit = tenant.settings, AuditTrail(tenant.engine)
        sweep = partial(schedules.trigger, temporal, tenant.name, schedules.PENDING_SWEEP)
        tokens = Tokens(settings.token_signing_keys, settings.token_lifetime, tenant.name)
        clients = ClientStore(tenant.engine)
        return cls(
            tenant=tenant.name,
            settings=settings,
            temporal=temporal,
            instances=tenant.instances,
            installation=tenant.installation,
            queries=tenant.queries,
            ods_instances=OdsInstances(tenant.engine, tenant.instances, tenant.connection_strings),
            contexts=Contexts(tenant.engine),
            derivatives=Derivatives(tenant.engine, tenant.connection_strings),
            server=tenant.server,
            connection_strings=tenant.connection_strings,
            drift=tenant.drift,
            spares=tenant.spares,
            sweep=sweep,
            refill=partial(schedules.trigger, temporal, tenant.name, schedules.SPARE_REFILL),
            refreshes=tenant.refreshes,
            tenant_view=TenantView(tenant.engine),
            dispatcher=JobDispatcher(
                JobStarter(temporal, settings.registry_queue),
                RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings)),
                sweep,
                settings.trigger,
            ),
            clients=ApiClients(clients, limits.hashes),
            registration=RegistrationWindow(tenant.engine),
            tokens=tokens,
            verifier=issuer or ClientTokens(tokens, Standings(clients.standing)),
            limits=limits,
            audit=audit,
            recorder=AuditRecorder(
                audit.record, partial(audit.prune, timedelta(days=settings.audit_retention))
            ),
        )

    def workflow_url(self, ods_instance_id: int) -> str | None:
        """Page of an instance's workflow in the Temporal Web UI, if its address is known."""
        if not self.settings.temporal_ui_url:
            return None
        workflow = quote(workflow_id(self.tenant, ods_instance_id), safe="")
        ui = self.settings.temporal_ui_url.rstrip("/")
        return f"{ui}/namespaces/{quote(self.temporal.namespace, safe='')}/workflows/{workflow}"


def services_of(connection: HTTPConnection) -> Services:
    """The services of the tenant that the request is for."""
    services: Services = connection.scope["state"]["services"]
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
