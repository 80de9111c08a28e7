"""Everything that the doctor examines, of all tenants, at once."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from pydantic import SecretStr

from ods.doctor.backups import examine_backups
from ods.doctor.checks import Check, run_all
from ods.doctor.environment import examine_settings
from ods.doctor.findings import Finding
from ods.doctor.installation import examine_installation
from ods.doctor.ods_login import examine_login
from ods.doctor.postgres import Target
from ods.doctor.registry import registry_parts
from ods.doctor.server import server_parts
from ods.doctor.temporal_server import examine_temporal
from ods.registry.storage.engine import POOL_SIZE
from ods.settings.settings import Address, AnySettings, Settings, login_of, other_registries

_REQUESTS_ON_SERVER = 8
"""Sessions on the ODS server that an API process opens about, for health, drift, adoption and usage."""
_SESSIONS_OF_A_STEP = 2
"""A rename takes a second session, which ends those of others."""


async def examine(settings: AnySettings) -> list[Finding]:
    """The findings about an installation with these settings; nothing is changed."""
    return [*examine_settings(settings), *await run_all(list(_checks(settings, settings.tenants)))]


async def examine_tenant(settings: AnySettings, tenant: str) -> list[Finding]:
    """The findings about what one tenant works with, without the settings; nothing is changed."""
    return await run_all(list(_checks(settings, [tenant])))


def _checks(settings: AnySettings, tenants: Iterable[str]) -> Iterator[Check]:
    for tenant in tenants:
        own = settings.tenants[tenant]
        of = f"{tenant}: " if settings.multi_tenant else ""
        registry = _target(settings, f"{of}registry", "admin_dsn", own)
        server = _target(settings, f"{of}server", "master_dsn", own)
        parts = registry_parts(registry.subject, registry.address.database, own)
        yield Check(registry.subject, partial(registry.examine, parts))
        yield Check(registry.subject, registry.examine_pooler)
        parts = server_parts(server.subject, own, _sessions(settings, own.master_dsn))
        yield Check(server.subject, partial(server.examine, parts))
        yield Check(server.subject, server.examine_pooler)
        if own.restore_dsn is not None:
            login = _target(settings, f"{of}login that restores", "restore_dsn", own)
            yield Check(login.subject, login.examine_login)
        subject = f"{of}installation"
        others = other_registries(settings, tenant)
        yield Check(subject, partial(examine_installation, subject, own, tenant, others))
        subject = f"{of}backups"
        yield Check(subject, partial(examine_backups, subject, own, tenant))
        subject = f"{of}connection string of the ODS/API"
        yield Check(subject, partial(examine_login, subject, own))
    yield Check("temporal", partial(examine_temporal, settings))


def _target(settings: AnySettings, subject: str, field: str, own: Settings) -> Target:
    dsn: SecretStr = getattr(own, field)
    variable = f"{field} in ODS_TENANTS" if settings.multi_tenant else f"ODS_{field.upper()}"
    return Target(subject, variable, dsn.get_secret_value(), Address.of(dsn), login_of(dsn))


def _sessions(settings: AnySettings, dsn: SecretStr) -> int:
    """How many sessions an API process and a worker open at most on the server that `dsn` names."""
    place = Address.of(dsn)[:2]
    return sum(_sessions_of(own, place) for own in settings.tenants.values())


def _sessions_of(own: Settings, place: Sequence[str]) -> int:
    """Those of one tenant, whose registry or ODS databases may be elsewhere."""
    registry = 2 * POOL_SIZE + own.refresh_concurrency
    steps = own.ddl_concurrency + own.ddl_prefetch
    server = _REQUESTS_ON_SERVER + _SESSIONS_OF_A_STEP * steps
    return registry * (Address.of(own.admin_dsn)[:2] == place) + server * (
        Address.of(own.master_dsn)[:2] == place
    )
