"""Backups: whether the store can be read, and whether the client programs suit the server."""

from collections.abc import Iterator, Sequence

from backups.errors import BackupFaultError
from backups.readiness import require_programs
from databases.server import Server
from doctor.findings import Finding, fault, ok, warning
from settings import Settings
from tenants.backup_store import open_store

_PROBE = "doctor"
"""An object that is not there: the answer tells whether the store can be read."""


async def examine_backups(subject: str, settings: Settings) -> Sequence[Finding]:
    """What keeps backups from being made; nothing is written to the store."""
    if settings.backup_url is None:
        return [ok(subject, "None are made: ODS_BACKUP_URL is not set")]
    return [
        *_schedule(f"{subject}: schedule", settings),
        await _store(subject, settings),
        await _programs(f"{subject}: programs", settings),
        *_encryption(f"{subject}: encryption", settings),
    ]


async def _store(subject: str, settings: Settings) -> Finding:
    try:
        await open_store(settings).read(_PROBE)
    except BackupFaultError as found:
        return fault(subject, found.reason.rstrip("."), "correct ODS_BACKUP_URL, or the credentials for it")
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
    if settings.recipients:
        yield ok(subject, f"Backups are encrypted to {len(settings.recipients)} recipients")
