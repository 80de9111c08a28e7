"""One tenant as the API serves it: the tenant itself, and the parts that only the API needs."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Self
from urllib.parse import quote

from starlette.requests import HTTPConnection
from temporalio.client import Client

from api.audit_recorder import AuditRecorder
from api.instance_descriptions import InstanceDescriptions
from api.job_dispatcher import JobDispatcher
from api.security.admin_api_tokens import AdminApiTokens
from api.security.client_states import Standings
from api.security.client_tokens import ClientTokens
from api.security.clients import ApiClients
from api.security.grants import TokenGrants
from api.security.limits import ConnectLimits, ProcessLimits
from api.security.registration import ClientRegistration
from api.security.session_states import SessionStates
from api.security.tokens import Tokens, TokenVerifier
from api.server_looks import ServerLooks
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.registry.attempt_counts import AttemptCounts
from ods.registry.audit import AuditTrail
from ods.registry.clients.registration import RegistrationWindow
from ods.registry.clients.store import ClientStore
from ods.registry.console_sessions import ConsoleSessions
from ods.registry.education_organizations.refreshes import RefreshPolicy
from ods.registry.education_organizations.tenant_view import TenantView
from ods.registry.idempotency_keys import IdempotencyKeys
from ods.registry.instances.job_list import JobList, RecentChanges
from ods.registry.instances.jobs import workflow_id
from ods.registry.ods_instances.parts import Contexts, Derivatives
from ods.registry.ods_instances.store import OdsInstances
from ods.registry.sign_in_attempts import SignInAttempts
from ods.registry.sign_in_links import SignInLinks
from ods.temporal import schedules
from ods.temporal.job_canceller import JobCanceller
from ods.temporal.job_executions import JobExecutions
from ods.temporal.job_starter import JobStarter, started_jobs
from ods.temporal.refresh_starter import RefreshStarter
from ods.temporal.verification_starter import VerificationStarter
from ods.tenants.tenant import Tenant
from ods.tenants.usage import InstanceUsage


@dataclass(frozen=True)
class Services:
    """A tenant, and what the API has for it. Endpoints take the parts by name (`api.dependencies`).

    `bulk_lock` is held by the request for several instances that this process carries out.
    """

    tenant: Tenant
    temporal: Client
    adoption: DatabaseAdoption
    usage: InstanceUsage
    looks: ServerLooks
    descriptions: InstanceDescriptions
    ods_instances: OdsInstances
    contexts: Contexts
    derivatives: Derivatives
    tenant_view: TenantView
    job_list: JobList
    canceller: JobCanceller
    executions: JobExecutions
    verifications: VerificationStarter
    sweep: Callable[[], Awaitable[None]]
    refill: Callable[[], Awaitable[None]]
    dispatcher: JobDispatcher
    clients: ApiClients
    registration: ClientRegistration
    grants: TokenGrants
    verifier: TokenVerifier
    standings: Standings
    console_sessions: ConsoleSessions
    session_states: SessionStates
    sign_in_links: SignInLinks
    sign_in_attempts: SignInAttempts
    changes: RecentChanges
    idempotency_keys: IdempotencyKeys
    audit: AuditTrail
    recorder: AuditRecorder
    bulk_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def compose(
        cls, tenant: Tenant, temporal: Client, process: ProcessLimits, issuer: TokenVerifier | None
    ) -> Self:
        """Put the parts of one tenant together; without an issuer of tokens, it issues them itself."""
        settings, audit = tenant.settings, AuditTrail(tenant.engine)
        sweep = partial(schedules.trigger, temporal, tenant.name, schedules.PENDING_SWEEP)
        tokens = Tokens(settings.token_signing_keys, settings.token_lifetime, tenant.name)
        store = ClientStore(tenant.engine, shared=settings.shares_clients)
        clients = ApiClients(store, process.hashes, shared=settings.shares_clients)
        standings = Standings(store.standing)
        limits = ConnectLimits(process, AttemptCounts(tenant.engine))
        console_sessions = ConsoleSessions(tenant.engine, settings.console_sessions)
        return cls(
            tenant=tenant,
            temporal=temporal,
            adoption=DatabaseAdoption(tenant),
            usage=InstanceUsage(tenant),
            looks=ServerLooks(
                DriftDetector(tenant),
                tenant.spares,
                partial(started_jobs, temporal, tenant.name),
                partial(tenant.installation.known_obstacle, tenant.server),
            ),
            descriptions=InstanceDescriptions(
                tenant.queries, tenant.instances, partial(_workflow_url, tenant, temporal)
            ),
            ods_instances=OdsInstances(tenant.engine, tenant.instances, tenant.connection_strings),
            contexts=Contexts(tenant.engine),
            derivatives=Derivatives(tenant.engine, tenant.connection_strings),
            tenant_view=TenantView(tenant.engine),
            job_list=JobList(tenant.engine),
            canceller=JobCanceller(temporal),
            executions=JobExecutions(temporal),
            verifications=VerificationStarter(temporal, tenant.name, settings),
            sweep=sweep,
            refill=partial(schedules.trigger, temporal, tenant.name, schedules.SPARE_REFILL),
            dispatcher=JobDispatcher(
                JobStarter(temporal, settings.registry_queue),
                RefreshStarter(temporal, settings.registry_queue, RefreshPolicy.from_settings(settings)),
                sweep,
                settings.trigger,
            ),
            clients=clients,
            registration=ClientRegistration(
                clients, RegistrationWindow(tenant.engine), limits, always_open=settings.registration
            ),
            grants=TokenGrants(clients, tokens, limits),
            verifier=_verifier(tenant, standings, issuer or ClientTokens(tokens, standings)),
            standings=standings,
            console_sessions=console_sessions,
            session_states=SessionStates(
                console_sessions.find, console_sessions.find_all, process.admit_session
            ),
            sign_in_links=SignInLinks(tenant.engine),
            sign_in_attempts=SignInAttempts(tenant.engine),
            changes=RecentChanges(tenant.engine),
            idempotency_keys=IdempotencyKeys(tenant.engine),
            audit=audit,
            recorder=AuditRecorder(audit.record, _pruning(tenant, audit), tenant.name),
        )


def services_of(connection: HTTPConnection) -> Services:
    """The services of the tenant that the request is for."""
    services: Services = connection.scope["state"]["services"]
    return services


def _verifier(tenant: Tenant, standings: Standings, others: TokenVerifier) -> TokenVerifier:
    """Verifies the tokens of an Admin API as well, if the settings name one."""
    if not tenant.settings.admin_api_issuers:
        return others
    return AdminApiTokens(tenant.settings, tenant.name, standings, others)


def _pruning(tenant: Tenant, audit: AuditTrail) -> Callable[[], Awaitable[bool]]:
    """Removes some entries that are too old; whether there may be more of them."""
    retention = timedelta(days=tenant.settings.audit_retention)

    async def prune() -> bool:
        return await tenant.clock.is_steady() and await audit.prune(retention)

    return prune


def _workflow_url(tenant: Tenant, temporal: Client, ods_instance_id: int) -> str | None:
    """Page of an instance's workflow in the Temporal Web UI, if its address is known."""
    if not tenant.settings.temporal_ui_url:
        return None
    workflow = quote(workflow_id(tenant.name, ods_instance_id), safe="")
    ui = tenant.settings.temporal_ui_url.rstrip("/")
    return f"{ui}/namespaces/{quote(temporal.namespace, safe='')}/workflows/{workflow}"
