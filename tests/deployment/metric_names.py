"""The metrics that alerts and diagrams may use, with the labels that they have."""

from ods.observability.metrics.catalog import DEFINITIONS

SERVICE = {metric.name: set(metric.labels) for metric in DEFINITIONS}

SDK = {
    "temporal_num_pollers": {"task_queue", "poller_type"},
    "temporal_workflow_task_execution_failed_total": {"workflow_type", "failure_reason"},
    "temporal_workflow_task_schedule_to_start_latency_seconds": {"task_queue"},
    "temporal_activity_schedule_to_start_latency_seconds": {"task_queue"},
}
"""As Temporal's SDK tells them with units in their names."""

OTHERS: dict[str, set[str]] = {
    "up": set(),
    "service_error_with_type": {"error_type", "namespace", "operation"},
    "service_error_with_type_total": {"error_type", "namespace", "operation"},
    "probe_ssl_earliest_cert_expiry": set(),
    "node_filesystem_avail_bytes": {"fstype", "mountpoint"},
    "node_filesystem_size_bytes": {"fstype", "mountpoint"},
}
"""Of Prometheus itself, Temporal's server, the blackbox exporter and the node exporter."""

RECORDED = {"ods:jobs:increase1h": {"operation", "outcome", "tenant"}}
"""Made by rules."""

ALL = SERVICE | SDK | OTHERS | RECORDED

ADDED_BY_PROMETHEUS = {"job", "instance", "le"}
