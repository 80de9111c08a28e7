"""Every metric of the service: its name, its labels, and what it tells.

Code that knows something counts it here. What must be asked for, of a registry or a server, is a `Figure`:
its values are read at a scrape (`ods.observability.metrics.figures`). The table of
`docs/operations/metrics.md` is made of it.

No label may have values that grow with what clients do: neither the id nor the name of an instance, of a job
or of a client. The names of tenants and templates are the operator's, and few.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.process_collector import ProcessCollector

from ods.observability.metrics.expiring import ExpiringGauge

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_JOB_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 28_800)
"""Seconds: a spare is published in milliseconds, a backup may take hours."""

INSTRUMENTS = CollectorRegistry()
"""What this process has counted and measured."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that is of no use
ProcessCollector(registry=INSTRUMENTS)


class Source(StrEnum):
    """Which process tells a metric."""

    API = "API"
    WORKER = "worker"
    BOTH = "both"


@dataclass(frozen=True)
class Definition:
    """A metric as the documentation has it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    source: Source
    help: str


@dataclass(frozen=True)
class Figure:
    """A gauge whose values are asked for at a scrape."""

    name: str
    help: str
    labels: tuple[str, ...]


DEFINITIONS: list[Definition] = []
"""Every metric, in the order of this module."""


def _define(name: str, kind: str, labels: tuple[str, ...], source: Source, tells: str) -> None:
    DEFINITIONS.append(Definition(name, kind, labels, source, tells))


def _counter(name: str, labels: tuple[str, ...], source: Source, tells: str) -> Counter:
    _define(name, "counter", labels, source, tells)
    return Counter(name, tells, labels, registry=INSTRUMENTS)


def _histogram(
    name: str, labels: tuple[str, ...], source: Source, tells: str, buckets: tuple[float, ...]
) -> Histogram:
    _define(name, "histogram", labels, source, tells)
    return Histogram(name, tells, labels, registry=INSTRUMENTS, buckets=buckets)


def _gauge(name: str, labels: tuple[str, ...], source: Source, tells: str) -> Gauge:
    _define(name, "gauge", labels, source, tells)
    return Gauge(name, tells, labels, registry=INSTRUMENTS)


def _expiring(name: str, labels: tuple[str, ...], source: Source, tells: str) -> ExpiringGauge:
    _define(name, "gauge", labels, source, tells)
    gauge = ExpiringGauge(name, tells, labels)
    INSTRUMENTS.register(gauge)
    return gauge


def _figure(name: str, labels: tuple[str, ...], source: Source, tells: str) -> Figure:
    _define(name, "gauge", labels, source, tells)
    return Figure(name, tells, labels)


HTTP_REQUESTS = _counter(
    "ods_http_requests_total",
    ("route", "method", "status"),
    Source.API,
    "Requests that were answered; `route` is the template of the path, `none` if there is no such path.",
)
HTTP_SECONDS = _histogram(
    "ods_http_request_duration_seconds",
    ("route", "method"),
    Source.API,
    "Seconds from the arrival of a request to the end of its answer.",
    _REQUEST_BUCKETS,
)

REQUESTS_IN_WORK = _gauge(
    "ods_http_requests_in_work",
    ("class",),
    Source.API,
    "Requests that are being served: `costly` ones, which have a place (`ODS_COSTLY_REQUESTS`), `waiting`"
    " ones, which will have one, and `cheap` ones, which need none; open streams are among these.",
)
REQUESTS_SHED = _counter(
    "ods_http_requests_shed_total",
    ("limit", "tenant"),
    Source.API,
    "Costly requests that were answered 503 because no place was free within five seconds; `limit` is the one"
    " that was reached, of the `tenant` or of the `process`.",
)

JOBS = _counter(
    "ods_jobs_total",
    ("operation", "outcome", "tenant"),
    Source.BOTH,
    "Jobs of instances that have ended, `completed` or `failed`, in the process that recorded it: the worker,"
    " or the API if a client cancelled a job that waited.",
)
JOB_SECONDS = _histogram(
    "ods_job_duration_seconds",
    ("operation", "phase"),
    Source.WORKER,
    "Seconds of a job: `queue` from the request to the beginning, `clone`, `publish`, `verify` (on the ODS"
    " server), `record` (the last write to the registry), and `total` from the request to the end, but for"
    " what it waited for.",
    _JOB_BUCKETS,
)
BACKUPS = _counter(
    "ods_backups_total",
    ("kind", "outcome", "tenant"),
    Source.BOTH,
    "Backups that have ended, `completed` or `failed`; `kind` says why they were made.",
)
DDL_SLOTS = _gauge(
    "ods_ddl_slots",
    ("state", "tenant"),
    Source.WORKER,
    "Places for work on databases (`ODS_DDL_CONCURRENCY`): `busy`, `free`; and how much work is `waiting` for"
    " one.",
)
DRIFT = _expiring(
    "ods_drift",
    ("kind", "tenant"),
    Source.WORKER,
    "Contradictions of registry and server that the last look of this process has found; absent if that is"
    " older than three reconcile intervals.",
)

INSTANCES = _figure(
    "ods_instances", ("status", "tenant"), Source.API, "Instances that the registry has, by status."
)
PENDING_OLDEST = _figure(
    "ods_pending_oldest_seconds",
    ("tenant",),
    Source.API,
    "Age of the oldest job that waits to begin; 0 if none waits.",
)
STUCK = _figure(
    "ods_stuck_instances",
    ("tenant",),
    Source.API,
    "Instances whose job waits for longer than a sweep takes to start it, or runs for longer than any outage"
    " is waited for (a day, if it copies a database), and waits for no outage.",
)
WAITING_FOR = _figure(
    "ods_waiting_for",
    ("what", "tenant"),
    Source.API,
    "Running jobs that wait for the end of an outage, by what is away; or for the operator to confirm the"
    " installation.",
)
SPARES_READY = _figure(
    "ods_spares_ready", ("template", "tenant"), Source.API, "Spare databases that a create can claim now."
)
SPARES_WANTED = _figure(
    "ods_spares_wanted",
    ("template", "tenant"),
    Source.API,
    "Spare databases that the settings and the limits ask for.",
)
TRASH_BYTES = _figure(
    "ods_trash_bytes",
    ("tenant",),
    Source.API,
    "Bytes of the databases in the trash, as the ODS server tells them.",
)
DATABASE_BYTES = _figure(
    "ods_database_bytes",
    ("tenant",),
    Source.API,
    "Bytes of all databases that carry a mark of the tenant's, those in the trash and snapshots included.",
)
BACKUP_AGE = _figure(
    "ods_backup_age_seconds",
    ("tenant",),
    Source.API,
    "Seconds since a backup was stored last, of any instance; absent if there is none.",
)
BACKUPS_UNVERIFIED = _figure(
    "ods_backups_unverified",
    ("tenant",),
    Source.API,
    "Stored backups that were found not to be whole or to be gone from the store, or whose verification has"
    " not ended a day after they were stored or their instances last found unchanged.",
)
SCHEDULE_AGE = _figure(
    "ods_schedule_age_seconds",
    ("schedule", "tenant"),
    Source.API,
    "Seconds since a pass of the schedule ended well; absent if none has, as far as Temporal remembers.",
)
POOL_CONNECTIONS = _figure(
    "ods_pool_connections",
    ("pool", "state", "tenant"),
    Source.BOTH,
    "Connections to PostgreSQL of this process that are `in_use` or `idle`; the pools are `registry`,"
    " `refresh` and `server`.",
)
POOL_LIMIT = _figure(
    "ods_pool_limit", ("pool", "tenant"), Source.BOTH, "Connections that the pool opens at most."
)
SCRAPE_ERRORS = _counter(
    "ods_scrape_errors_total",
    ("source",),
    Source.BOTH,
    "What could not be asked for a scrape, so that its gauges are absent: a `registry`, the ODS `server`,"
    " `temporal`, or the metrics of its `sdk`.",
)
BUILD_INFO = _gauge("ods_build_info", ("version",), Source.BOTH, "Always 1; the version of the service.")
BUILD_INFO.labels(version("ods-instance-management")).set(1)
