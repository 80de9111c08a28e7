"""What endpoints work with, composed once for a process."""

import base64
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self
from urllib.parse import quote

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.drift import DriftDetector
from api.auth import Tokens
from api.clients import ApiClients
from api.launch import Launcher
from api.limits import ConnectLimits
from api.trail import Recorder
from databases.server import Server
from instances.audit import AuditTrail
from instances.catalog import Catalog
from instances.jobs import ExecutionPolicy, workflow_id
from instances.registry import Registry
from settings import DEFAULT_TENANT, Settings
from workflows import schedules
from workflows.start import JobStarter


@dataclass(frozen=True)
class Services:
    """The parts of the service that endpoints call."""

    settings: Settings
    temporal: Client
    registry: Registry
    catalog: Catalog
    drift: DriftDetector
    launcher: Launcher
    clients: ApiClients
    tokens: Tokens
    limits: ConnectLimits
    audit: AuditTrail
    recorder: Recorder

    @classmethod
    def compose(cls, settings: Settings, engine: AsyncEngine, temporal: Client) -> Self:
        """Put the parts together."""
        catalog, audit = Catalog(engine), AuditTrail(engine)
        return cls(
            settings=settings,
            temporal=temporal,
            registry=Registry(engine, ExecutionPolicy.from_settings(settings)),
            catalog=catalog,
            drift=DriftDetector.from_settings(
                settings, Server(settings.master_dsn.get_secret_value()), catalog
            ),
            launcher=Launcher(
                JobStarter(temporal, settings.registry_queue),
                partial(schedules.trigger, temporal, schedules.PENDING_SWEEP),
                settings.trigger,
            ),
            clients=ApiClients(engine),
            tokens=Tokens(
                base64.b64decode(settings.token_signing_key.get_secret_value()), settings.token_lifetime
            ),
            limits=ConnectLimits(enabled=settings.rate_limiting),
            audit=audit,
            recorder=Recorder(audit.record),
        )

    def workflow_url(self, ods_instance_id: int) -> str | None:
        """Page of an instance's workflow in the Temporal Web UI, if its address is known."""
        if not self.settings.temporal_ui_url:
            return None
        workflow = quote(workflow_id(DEFAULT_TENANT, ods_instance_id), safe="")
        ui = self.settings.temporal_ui_url.rstrip("/")
        return f"{ui}/namespaces/{quote(self.temporal.namespace, safe='')}/workflows/{workflow}"


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Serving = Annotated[Services, Depends(_services)]
