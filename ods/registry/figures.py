"""What a registry tells for a scrape of metrics, by one statement."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.model.operations import NOT_LIVE, InstanceStatus, JobStatus, Product, making, quoted
from ods.observability.metrics.catalog import (
    BACKUP_AGE,
    BACKUPS_UNVERIFIED,
    INSTANCES,
    PENDING_OLDEST,
    STUCK,
    WAITING_FOR,
)
from ods.observability.metrics.figures import Sample
from ods.registry.backups.rows import VERIFICATION_FAILED, VERIFICATION_RUNS, VERIFICATION_WAITS
from ods.registry.installation import CONFIRMS
from ods.registry.storage.sessions import RegistrySessions
from ods.settings.settings import Settings

_GRACE_SECONDS = 600
"""What a job may take beyond the time for which it waits: tries, and pauses between them."""
_COPYING_SECONDS = 86_400
"""What a job may take that copies a database through programs."""
_COPIES = f"""
    instance.operation IN ({quoted(making(Product.BACKUP) + making(Product.SNAPSHOT))})
    OR num_nonnulls(arguments #> '{{origin,instance_id}}', arguments #> '{{origin,backup_id}}') > 0
    OR instance.operation IN ({quoted(NOT_LIVE)}) AND arguments @> '{{"backup_first": true}}'
"""

# The first word that is in the reason counts: a disk is a server's.
_AWAY = {
    CONFIRMS: "operator",
    "registry": "registry",
    "disk": "disk",
    "store": "backup_store",
    "worker": "worker",
    "server": "server",
}
"""What a job waits for, by words of the reason that is recorded of it."""
_OTHER = "other"

_A_DAY_AGO = "(timezone('utc', now()) - interval '1 day')"

# Instances by status, and how many of them are stuck; then what jobs wait for, the oldest job that waits to
# begin, the newest backup, and how many backups are not known to be whole though they should be.
_STATEMENT = text(f"""
SELECT 'status' AS what, instance.state AS word, count(*)::float8 AS value,
       count(*) FILTER (WHERE job.id IS NULL AND lastmodifieddate < timezone('utc', now()) - make_interval(
           secs => CASE WHEN instance.state IN ('{InstanceStatus.PENDING}', '{InstanceStatus.PENDING_DELETE}')
                        THEN CAST(:waits AS float8)
                        WHEN instance.state <> '{InstanceStatus.IN_PROGRESS}' THEN NULL
                        WHEN {_COPIES} THEN CAST(:copies AS float8)
                        ELSE CAST(:runs AS float8) END))::float8 AS stuck
FROM adminapi.managed_instances AS instance
LEFT JOIN adminapi.jobstatuses AS job
    ON job.dbinstanceid = instance.id AND job.status = '{JobStatus.IN_PROGRESS}' AND waitingfor IS NOT NULL
GROUP BY instance.state
UNION ALL
SELECT 'waiting', waitingfor, count(*), 0 FROM adminapi.jobstatuses
WHERE status = '{JobStatus.IN_PROGRESS}' AND waitingfor IS NOT NULL GROUP BY waitingfor
UNION ALL
SELECT 'pending', NULL, extract(epoch FROM timezone('utc', now()) - min(createdat)), 0
FROM adminapi.jobstatuses WHERE status = '{JobStatus.PENDING}'
UNION ALL
(SELECT 'backup', NULL, extract(epoch FROM timezone('utc', now()) - finishedat), 0
 FROM adminapi.backups WHERE storedid IS NOT NULL ORDER BY createdat DESC, id DESC LIMIT 1)
UNION ALL
SELECT 'unverified', NULL, count(*), 0 FROM adminapi.backups
WHERE verification IN ('{VERIFICATION_WAITS}', '{VERIFICATION_RUNS}', '{VERIFICATION_FAILED}') -- its index
  AND storedid IS NOT NULL AND deletedat IS NULL
  AND (verification = '{VERIFICATION_FAILED}'
       OR finishedat < {_A_DAY_AGO}
          AND (unchangedat BETWEEN {_A_DAY_AGO} AND {_A_DAY_AGO} + interval '2 days') IS NOT TRUE)
""")  # noqa: S608 - constants


class RegistryFigures:
    """The figures of one tenant's registry."""

    def __init__(self, engine: AsyncEngine, tenant: str, settings: Settings) -> None:
        self._sessions = RegistrySessions(engine)
        self._tenant = tenant
        self._limits = {
            "waits": settings.sweep_interval + _GRACE_SECONDS,
            "runs": settings.outage_timeout + _GRACE_SECONDS,
            "copies": settings.outage_timeout + _COPYING_SECONDS,
        }

    async def read(self) -> list[Sample]:
        """What the registry tells: see `_STATEMENT`."""
        async with self._sessions.statement() as session:
            rows = (await session.execute(_STATEMENT, self._limits)).all()
        return list(self._samples(rows))

    def _samples(self, rows: Sequence[Row[Any]]) -> Iterator[Sample]:
        tenant = self._tenant
        statuses = {row.word: row for row in rows if row.what == "status"}
        for status in InstanceStatus:
            yield Sample(INSTANCES, (status, tenant), statuses[status].value if status in statuses else 0)
        yield Sample(STUCK, (tenant,), sum(row.stuck for row in statuses.values()))
        waiting: Counter[str] = Counter()
        for row in rows:
            if row.what == "waiting":
                waiting[what_is_away(row.word)] += row.value
        for what in (*_AWAY.values(), _OTHER):
            yield Sample(WAITING_FOR, (what, tenant), waiting[what])
        for row in rows:
            if row.what == "pending":
                yield Sample(PENDING_OLDEST, (tenant,), row.value or 0)
            elif row.what == "backup":
                yield Sample(BACKUP_AGE, (tenant,), row.value)
            elif row.what == "unverified":
                yield Sample(BACKUPS_UNVERIFIED, (tenant,), row.value)


def what_is_away(reason: str) -> str:
    """What a job waits for, as metrics call it: one of few words for any reason that is recorded of it."""
    return next((what for word, what in _AWAY.items() if word in reason), _OTHER)
