"""What an endpoint works with, each part by its name: an endpoint declares those that it uses.

Each is the part that belongs to the tenant of the request.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection
from temporalio.client import Client

from api.instance_descriptions import InstanceDescriptions
from api.job_dispatcher import JobDispatcher
from api.security.clients import ApiClients
from api.security.grants import TokenGrants
from api.security.registration import ClientRegistration
from api.server_looks import ServerLooks
from api.tenant_services import Services, services_of
from ods.databases.server import Server
from ods.databases.templates.reports import TemplateInspector
from ods.databases.templates.spare_pool import SparePool
from ods.recovery.adoption import DatabaseAdoption
from ods.recovery.compare.detector import DriftDetector
from ods.recovery.recovery import Recovery
from ods.registry.audit import AuditTrail
from ods.registry.backups.records import BackupRecords
from ods.registry.education_organizations.refreshes import RefreshJobs
from ods.registry.education_organizations.tenant_view import TenantView
from ods.registry.instances.cancelling import JobCancellations
from ods.registry.instances.job_list import JobList, RecentChanges
from ods.registry.instances.queries import InstanceQueries
from ods.registry.instances.sizes import SizeHistory
from ods.registry.instances.store import InstanceStore
from ods.registry.ods_instances.parts import Contexts, Derivatives
from ods.registry.ods_instances.store import OdsInstances
from ods.registry.snapshots.store import SnapshotStore
from ods.settings.settings import Settings
from ods.temporal.job_canceller import JobCanceller
from ods.temporal.job_executions import JobExecutions
from ods.temporal.verification_starter import VerificationStarter
from ods.tenants.cancelling import CancelledDrops
from ods.tenants.kept_databases import KeptDatabases
from ods.tenants.tenant import Tenant
from ods.tenants.usage import InstanceUsage


def _part(choose: Callable[[Services], object]) -> Any:  # noqa: ANN401 - as FastAPI types its dependencies
    async def read(connection: HTTPConnection) -> object:
        return choose(services_of(connection))

    return Depends(read)


async def _obstacle(connection: HTTPConnection) -> str | None:
    return await services_of(connection).tenant.instances.installation.obstacle()


ObstacleDep = Annotated[str | None, Depends(_obstacle)]
"""Why no job of an instance goes on: the registry is not confirmed. None if jobs go on."""

TenantDep = Annotated[Tenant, _part(lambda services: services.tenant)]
TenantNameDep = Annotated[str, _part(lambda services: services.tenant.name)]
SettingsDep = Annotated[Settings, _part(lambda services: services.tenant.settings)]
InstanceStoreDep = Annotated[InstanceStore, _part(lambda services: services.tenant.instances)]
SizeHistoryDep = Annotated[SizeHistory, _part(lambda services: services.tenant.sizes)]
InstanceQueriesDep = Annotated[InstanceQueries, _part(lambda services: services.tenant.queries)]
JobListDep = Annotated[JobList, _part(lambda services: services.job_list)]
JobCancellationsDep = Annotated[JobCancellations, _part(lambda services: services.tenant.cancellations)]
CancelledDropsDep = Annotated[CancelledDrops, _part(lambda services: CancelledDrops(services.tenant.jobs))]
KeptDatabasesDep = Annotated[KeptDatabases, _part(lambda services: KeptDatabases(services.tenant))]
InstanceDescriptionsDep = Annotated[InstanceDescriptions, _part(lambda services: services.descriptions)]
DatabaseAdoptionDep = Annotated[DatabaseAdoption, _part(lambda services: services.adoption)]
InstanceUsageDep = Annotated[InstanceUsage, _part(lambda services: services.usage)]
RecoveryDep = Annotated[Recovery, _part(lambda services: Recovery(services.tenant))]
DriftDetectorDep = Annotated[DriftDetector, _part(lambda services: DriftDetector(services.tenant))]
BackupRecordsDep = Annotated[BackupRecords, _part(lambda services: services.tenant.backups)]
ServerDep = Annotated[Server, _part(lambda services: services.tenant.server)]
TemplateInspectorDep = Annotated[TemplateInspector, _part(lambda services: services.tenant.templates)]
ServerLooksDep = Annotated[ServerLooks, _part(lambda services: services.looks)]
SparePoolDep = Annotated[SparePool, _part(lambda services: services.tenant.spares)]

SnapshotStoreDep = Annotated[SnapshotStore, _part(lambda services: services.tenant.snapshots.store)]

OdsInstancesDep = Annotated[OdsInstances, _part(lambda services: services.ods_instances)]
ContextsDep = Annotated[Contexts, _part(lambda services: services.contexts)]
DerivativesDep = Annotated[Derivatives, _part(lambda services: services.derivatives)]
RefreshJobsDep = Annotated[RefreshJobs, _part(lambda services: services.tenant.refreshes)]
TenantViewDep = Annotated[TenantView, _part(lambda services: services.tenant_view)]
RecentChangesDep = Annotated[RecentChanges, _part(lambda services: services.changes)]
AuditTrailDep = Annotated[AuditTrail, _part(lambda services: services.audit)]

TemporalDep = Annotated[Client, _part(lambda services: services.temporal)]
JobDispatcherDep = Annotated[JobDispatcher, _part(lambda services: services.dispatcher)]
JobCancellerDep = Annotated[JobCanceller, _part(lambda services: services.canceller)]
JobExecutionsDep = Annotated[JobExecutions, _part(lambda services: services.executions)]
VerificationStarterDep = Annotated[VerificationStarter, _part(lambda services: services.verifications)]
SweepDep = Annotated[Callable[[], Awaitable[None]], _part(lambda services: services.sweep)]
"""Has the pass over pending instances begin now."""
RefillDep = Annotated[Callable[[], Awaitable[None]], _part(lambda services: services.refill)]
"""Has the pass that makes missing spares begin now."""

ApiClientsDep = Annotated[ApiClients, _part(lambda services: services.clients)]
ClientRegistrationDep = Annotated[ClientRegistration, _part(lambda services: services.registration)]
TokenGrantsDep = Annotated[TokenGrants, _part(lambda services: services.grants)]
