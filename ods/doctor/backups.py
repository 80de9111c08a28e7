"""Backups: whether the store is there, and is the known one; whether the programs suit the server."""

from collections.abc import Iterator, Sequence

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from ods.backups.errors import BackupFaultError
from ods.backups.readiness import require_programs
from ods.backups.store_identity import SHARED_WAY_OUT, WAY_OUT, OtherStoreError, SharedStoreError
from ods.databases.server import Server
from ods.doctor.findings import Finding, fault, ok, warning
from ods.registry.backups.stores import BackupStores
from ods.registry.storage.engine import create_registry_engine
from ods.settings.settings import Settings
from ods.tenants.backup_store import open_store
from ods.tenants.known_store import require_known, require_unshared

_PROBE = "doctor"
"""An object that is not there: the answer tells whether the store can be read."""
_TO_THIS_STORE = (
    "copy them into the store of ODS_BACKUP_URL, after which the pass `reconcile` records it; or `ods backup"
    " delete --forget` those whose store is gone. The pass logs how many are not here"
)


async def examine_backups(subject: str, settings: Settings, tenant: str) -> Sequence[Finding]:
    """What keeps backups from being made; nothing is written to the store, nor to the registry."""
    if settings.backup_url is None:
        return [ok(subject, "None are made: ODS_BACKUP_URL is not set")]
    return [
        *_schedule(f"{subject}: schedule", settings),
        await _store(subject, settings, tenant),
        await _programs(f"{subject}: programs", settings),
        *_encryption(f"{subject}: encryption", settings),
    ]


async def _store(subject: str, settings: Settings, tenant: str) -> Finding:
    engine = create_registry_engine(settings.admin_dsn.get_secret_value(), pool_size=1)
    try:
        store = await open_store(settings)
        await store.read(_PROBE)
        await require_known(store, BackupStores(engine))
        await require_unshared(store, BackupStores(engine), tenant)
        elsewhere = await BackupStores(engine).count_elsewhere(store.location())
    except OtherStoreError as other:
        return fault(subject, other.what.rstrip("."), WAY_OUT)
    except SharedStoreError as shared:
        return fault(subject, shared.what.rstrip("."), SHARED_WAY_OUT)
    except BackupFaultError as found:
        return fault(subject, found.reason.rstrip("."), "correct ODS_BACKUP_URL, or the credentials for it")
    except (SQLAlchemyError, asyncpg.PostgresError, OSError):
        return warning(subject, "Not examined: the registry cannot be asked which store this is")
    finally:
        await engine.dispose()
    if elsewhere:
        return warning(subject, f"{elsewhere} backups are recorded as stored elsewhere", _TO_THIS_STORE)
    return ok(subject, f"{settings.backup_url} can be read")


async def _programs(subject: str, settings: Settings) -> Finding:
    server = Server(settings.master_dsn.get_secret_value())
    try:
        version = await require_programs(server)
    except BackupFaultError as found:
        if found.outage:
            return warning(subject, "Not examined: the server cannot be asked")
        return fault(subject, found.reason.rstrip("."), "apt-get install postgresql-client")
    finally:
        await server.close()
    return ok(subject, f"pg_dump and pg_restore {version} suit the server")


def _schedule(subject: str, settings: Settings) -> Iterator[Finding]:
    if settings.backup_cron:
        kept = settings.backup_keep or "all"
        yield ok(subject, f"Backups are made at {settings.backup_cron}; what stays: {kept}")


def _encryption(subject: str, settings: Settings) -> Iterator[Finding]:
    if settings.stores_unencrypted:
        yield warning(
            subject,
            "Backups are stored unencrypted: who can read the store can read the records of students",
            "set ODS_BACKUP_RECIPIENTS to public keys of age, which `age-keygen` makes",
        )
    else:
        yield ok(subject, f"Backups are encrypted to {len(settings.recipients)} recipients")
