"""What the page *Health* shows: each part of the service, and what the doctor finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, assert_never

from fastapi import Depends, Request

from api.dependencies import TenantNameDep
from api.health import HealthMonitorDep, Part
from api.health_checks import HealthStatus
from api.routes.information import VERSION
from ods.console.texts import t
from ods.console.views.statuses import BAD, BUSY, GOOD, Badge
from ods.doctor.examination import examine_tenant
from ods.doctor.findings import Finding, Level


@dataclass(frozen=True)
class PartRow:
    """One part, and how it is."""

    part: Part
    badge: Badge


@dataclass(frozen=True)
class HealthPage:
    """What the page shows.

    Attributes:
        badge: how the service is.
        version: the service's version.
        at: when the parts were examined, in UTC.
        rows: the parts; those that are not well come first.
    """

    badge: Badge
    version: str
    at: datetime
    rows: Sequence[PartRow]


@dataclass(frozen=True)
class DoctorLine:
    """One finding of the doctor, and how bad it is."""

    finding: Finding
    badge: Badge


class HealthView:
    """Reads what the page shows."""

    def __init__(self, request: Request, monitor: HealthMonitorDep, tenant: TenantNameDep) -> None:
        self._settings = request.app.state.settings
        self._monitor = monitor
        self._tenant = tenant

    async def page(self) -> HealthPage:
        """How the service is, or was two seconds ago."""
        report = await self._monitor.report()
        rows = [PartRow(part, _badge(part.result.status)) for part in report.parts]
        rows.sort(key=lambda row: row.part.result.status is HealthStatus.HEALTHY)
        return HealthPage(_badge(report.health), VERSION, report.at, rows)

    async def doctor(self) -> list[DoctorLine]:
        """What the doctor finds now, of the client's tenant; the worst comes first."""
        order = list(reversed(Level))
        found = await examine_tenant(self._settings, self._tenant)
        found.sort(key=lambda finding: order.index(finding.level))
        return [DoctorLine(finding, _badge_of(finding.level)) for finding in found]


HealthViewDep = Annotated[HealthView, Depends()]


def _badge(status: HealthStatus) -> Badge:
    match status:
        case HealthStatus.HEALTHY:
            return Badge(status, *GOOD)
        case HealthStatus.DEGRADED | HealthStatus.UNHEALTHY:
            return Badge(status, *BAD)
        case _:
            assert_never(status)


def _badge_of(level: Level) -> Badge:
    match level:
        case Level.OK:
            return Badge(t("health.level.ok"), *GOOD)
        case Level.WARNING:
            return Badge(t("health.level.warning"), *BUSY)
        case Level.FAULT:
            return Badge(t("health.level.fault"), *BAD)
        case _:
            assert_never(level)
