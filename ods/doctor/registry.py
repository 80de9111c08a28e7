"""The registry: rights, tables, migrations, stored connection strings, and jobs that wait for too long."""

from collections.abc import Mapping, Sequence

import asyncpg

from ods.doctor.findings import Finding, Level, fault, ok, warning
from ods.doctor.postgres import Examine, one_row
from ods.registry.connection_strings.encryption import Keyring, UndecipherableError
from ods.registry.migrations import revisions
from ods.registry.rights.missing import missing_grants
from ods.registry.rights.needs import quoted, registry_needs
from ods.registry.rights.superusers import IS_SUPERUSER, superusers
from ods.registry.schedules.frequency import BACKUP_LABEL, SNAPSHOT_LABEL, Frequency
from ods.registry.storage.models import Base
from ods.settings.settings import Settings

_GRACE_SECONDS = 60
"""What a job may wait beyond the interval of the sweep, which starts what was not started at once."""
_NAMED_AT_MOST = 10

_TABLES = """
SELECT nspname || '.' || relname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v') AND nspname IN ('dbo', 'adminapi', 'public')
"""
_OTHER_PRODUCTS = {
    "the ODS/API": {"dbo.applications", "dbo.apiclients"},
    "an Admin API": {"public.DeployJournal", "adminapi.odsinstancemanages"},
}
"""Products that may have tables in the registry as well, by the names of some of these."""

_MAY_CHANGE_TRAIL = """
SELECT has_table_privilege(to_regclass('adminapi.audit'), 'UPDATE, DELETE, TRUNCATE')
"""
_AND_MORE = ', and may change the audit trail too: docs/production.md, "A role that owns nothing"'

_STRINGS = """
SELECT 'ODS instance ' || odsinstanceid AS name, connectionstring AS text FROM dbo.odsinstances
WHERE connectionstring IS NOT NULL
UNION ALL
SELECT 'derivative ' || odsinstancederivativeid, connectionstring FROM dbo.odsinstancederivatives
WHERE connectionstring IS NOT NULL
UNION ALL
SELECT 'derivative ' || (kept ->> 'id') || ' in the trash', kept ->> 'connectionString'
FROM adminapi.managed_instances, jsonb_array_elements(setaside -> 'derivatives') AS kept
WHERE kept ->> 'connectionString' IS NOT NULL
"""
_LABELS = """
SELECT id, label, labels ->> label AS value
FROM adminapi.managed_instances, unnest($1::text[]) AS label
WHERE state <> 'Deleted' AND labels ? label AND labels ->> label <> ALL ($2::text[])
ORDER BY id, label
"""
_WAITING = """
SELECT count(*) AS jobs, extract(epoch FROM max(timezone('utc', now()) - createdat))::int8 AS longest
FROM adminapi.jobstatuses
WHERE status = 'Pending' AND createdat < timezone('utc', now()) - make_interval(secs => $1)
"""


def registry_parts(subject: str, database: str, settings: Settings) -> list[tuple[str, Examine]]:
    """What there is to examine in a registry.

    Args:
        subject: what the registry is called.
        database: the name of its database.
        settings: those of the tenant.
    """

    async def rights(session: asyncpg.Connection) -> Sequence[Finding]:
        grants = await missing_grants(session, registry_needs(database))
        may_change = await session.fetchval(_MAY_CHANGE_TRAIL)
        return [
            *of_rights(f"{subject}: rights", grants, _AND_MORE if may_change else ""),
            *of_superusers(f"{subject}: role", await superusers(session), settings),
        ]

    async def tables(session: asyncpg.Connection) -> Sequence[Finding]:
        names = {row["name"] for row in await session.fetch(_TABLES)}
        return [_tables(f"{subject}: tables", names)]

    async def migrations(session: asyncpg.Connection) -> Sequence[Finding]:
        revision = await session.fetchval("SELECT version_num FROM adminapi.ods_migrations")
        return [_migrations(f"{subject}: migrations", revision)]

    async def strings(session: asyncpg.Connection) -> Sequence[Finding]:
        rows = {row["name"]: row["text"] for row in await session.fetch(_STRINGS)}
        return [_strings(f"{subject}: encryption", rows, Keyring(settings.encryption_keys))]

    async def waiting(session: asyncpg.Connection) -> Sequence[Finding]:
        row = await one_row(session, _WAITING, settings.sweep_interval + _GRACE_SECONDS)
        return [_waiting(f"{subject}: jobs", row)]

    async def labels(session: asyncpg.Connection) -> Sequence[Finding]:
        words = [word for word in Frequency if word]
        rows = await session.fetch(_LABELS, [BACKUP_LABEL, SNAPSHOT_LABEL], words)
        return _labels(f"{subject}: labels", rows, words)

    return [
        (f"{subject}: rights", rights),
        (f"{subject}: tables", tables),
        (f"{subject}: migrations", migrations),
        (f"{subject}: encryption", strings),
        (f"{subject}: jobs", waiting),
        (f"{subject}: labels", labels),
    ]


def of_rights(subject: str, grants: Sequence[str], beyond: str = "") -> list[Finding]:
    """A finding for each right that is missing.

    Args:
        subject: what is examined.
        grants: the statements that give what is missing.
        beyond: what is said of a role that lacks nothing.
    """
    if not grants:
        return [ok(subject, f"The service's role has all that it needs{beyond}")]
    return [fault(subject, "The service's role lacks a right", f"{grant};") for grant in grants]


def of_superusers(subject: str, found: Mapping[str, str], settings: Settings) -> list[Finding]:
    """A finding for each login that may do more than the service needs.

    Args:
        subject: what the findings are about.
        found: as from `superusers`.
        settings: those of the tenant.
    """
    level = Level.WARNING if settings.allow_superuser else Level.FAULT
    return [
        Finding(level, subject, f"The role {quoted(role)} {IS_SUPERUSER}", f"{remedy};")
        for role, remedy in found.items()
    ] or [ok(subject, "The service's role is no superuser")]


def _tables(subject: str, names: set[str]) -> Finding:
    missing = sorted(Base.metadata.tables.keys() - names)
    if missing:
        words = f"{len(missing)} are missing: {', '.join(missing[:_NAMED_AT_MOST])}"
        return fault(subject, words, "ods migrate")
    products = [product for product, marks in _OTHER_PRODUCTS.items() if marks & names]
    beside = " and ".join(products) or "no other product"
    return ok(subject, f"All {len(Base.metadata.tables)} are there, beside those of {beside}")


def _migrations(subject: str, revision: str | None) -> Finding:
    known = revisions()
    if revision == known[0]:
        return ok(subject, f"The tables are up to date, at revision {revision}")
    if revision is not None and revision not in known:
        words = f"A newer version of the service has migrated the registry, to revision {revision}"
        return fault(subject, words, "install that version, or a newer one")
    pending = len(known) if revision is None else known.index(revision)
    return fault(subject, f"{pending} migrations are pending, up to revision {known[0]}", "ods migrate")


def _strings(subject: str, rows: Mapping[str, str], keys: Keyring) -> Finding:
    earlier, unreadable = 0, []
    for name, text in rows.items():
        try:
            earlier += keys.renewed(text) is not None
        except UndecipherableError:
            unreadable.append(name)
    if unreadable:
        words = (
            f"{len(unreadable)} of {len(rows)} connection strings cannot be read with any key:"
            f" {', '.join(unreadable[:_NAMED_AT_MOST])}"
        )
        return fault(subject, words, "ODS_ENCRYPTION_KEY_PREVIOUS=<the key before> ods keys rotate")
    if earlier:
        return warning(subject, f"{earlier} of {len(rows)} have an earlier key", "ods keys rotate")
    return ok(subject, f"ODS_ENCRYPTION_KEY reads all {len(rows)} connection strings")


def _labels(subject: str, rows: Sequence[asyncpg.Record], words: Sequence[str]) -> Sequence[Finding]:
    """A warning for each label of schedules whose value says nothing: its instance takes part each time."""
    return [
        warning(
            subject,
            f"{row['label']}={row['value']} of instance {row['id']} says nothing: {', '.join(words)} do",
            f"ods instance label {row['id']} {row['label']}={Frequency.DAILY}",
        )
        for row in rows[:_NAMED_AT_MOST]
    ] or [ok(subject, "Those for schedules of backups and snapshots have values that are known")]


def _waiting(subject: str, row: asyncpg.Record) -> Finding:
    if not row["jobs"]:
        return ok(subject, "None has waited for longer than a sweep takes to start it")
    words = f"{row['jobs']} have waited to be started, the longest for {row['longest']} s"
    return fault(subject, words, "ods sweep")
