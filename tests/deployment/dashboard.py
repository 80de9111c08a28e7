"""Makes `deploy/monitoring/grafana-dashboard.json`, which Grafana imports: `make dashboard`.

A panel is a line below: its title, its unit, its queries and what each of their series is called.
"""

import json
from typing import Any, NamedTuple

from tests.deployment.compose import ROOT

FILE = ROOT / "deploy" / "monitoring" / "grafana-dashboard.json"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TENANT = 'tenant=~"$tenant"'


class Query(NamedTuple):
    """What is asked of Prometheus, and the name of each series of the answer."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A diagram; `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: tuple[Query, ...]


def _stored(metric: str, *labels: str) -> str:
    """A gauge that every API process tells alike: counted once."""
    return f"max by ({', '.join(labels)}) ({metric}{{{_TENANT}}})"


def _quantile(share: float, metric: str, *labels: str, where: str = "") -> str:
    by = ", ".join((*labels, "le"))
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "How it is": (
        Panel("Processes that answer", "short", (Query('sum by (job) (up{job=~"ods-.*"})', "{{job}}"),)),
        Panel(
            "Instances",
            "short",
            (Query(_stored("ods_instances", "status", "tenant"), "{{tenant}} {{status}}"),),
        ),
        Panel(
            "What needs a person",
            "short",
            (
                Query(_stored("ods_stuck_instances", "tenant"), "{{tenant}} stuck"),
                Query(_stored("ods_waiting_for", "tenant", "what"), "{{tenant}} waits for {{what}}"),
                Query(_stored("ods_drift", "tenant", "kind") + " > 0", "{{tenant}} {{kind}}"),
            ),
        ),
    ),
    "Requests": (
        Panel(
            "Requests by status",
            "reqps",
            (Query("sum by (status) (rate(ods_http_requests_total[$__rate_interval]))", "{{status}}"),),
        ),
        Panel(
            "Time to answer, 95 %",
            "s",
            (
                Query(
                    _quantile(0.95, "ods_http_request_duration_seconds", "method", "route"),
                    "{{method}} {{route}}",
                ),
            ),
        ),
        Panel(
            "Requests in work, and refused",
            "short",
            (
                Query("sum by (class) (ods_http_requests_in_work)", "{{class}}"),
                Query(
                    "sum by (tenant, limit)"
                    f" (rate(ods_http_requests_shed_total{{{_TENANT}}}[$__rate_interval]))",
                    "{{tenant}} refused each second, limit of the {{limit}}",
                ),
            ),
        ),
        Panel(
            "Connections in use",
            "percentunit",
            (
                Query(
                    'sum by (job, instance, pool) (ods_pool_connections{state="in_use"})'
                    " / sum by (job, instance, pool) (ods_pool_limit)",
                    "{{job}} {{instance}} {{pool}}",
                ),
            ),
        ),
    ),
    "Jobs": (
        Panel(
            "Jobs that ended within an hour",
            "short",
            (Query(f"ods:jobs:increase1h{{{_TENANT}}}", "{{tenant}} {{operation}} {{outcome}}"),),
        ),
        Panel(
            "Time of a create by phase, 95 %",
            "s",
            (
                Query(
                    _quantile(0.95, "ods_job_duration_seconds", "phase", where='operation="Create"'),
                    "{{phase}}",
                ),
            ),
        ),
        Panel(
            "Waiting",
            "s",
            (Query(_stored("ods_pending_oldest_seconds", "tenant"), "{{tenant}} oldest job"),),
        ),
        Panel(
            "Places for work on databases",
            "short",
            (Query(f"sum by (tenant, state) (ods_ddl_slots{{{_TENANT}}})", "{{tenant}} {{state}}"),),
        ),
        Panel(
            "Spares that are missing",
            "short",
            (
                Query(
                    f"{_stored('ods_spares_wanted', 'tenant', 'template')}"
                    f" - {_stored('ods_spares_ready', 'tenant', 'template')}",
                    "{{tenant}} {{template}}",
                ),
            ),
        ),
    ),
    "Data": (
        Panel(
            "Databases and trash",
            "bytes",
            (
                Query(_stored("ods_database_bytes", "tenant"), "{{tenant}} all"),
                Query(_stored("ods_trash_bytes", "tenant"), "{{tenant}} trash"),
            ),
        ),
        Panel(
            "Since the last backup", "s", (Query(_stored("ods_backup_age_seconds", "tenant"), "{{tenant}}"),)
        ),
        Panel(
            "Backups per hour",
            "short",
            (
                Query(
                    f"sum by (kind, outcome) (increase(ods_backups_total{{{_TENANT}}}[1h]))",
                    "{{kind}} {{outcome}}",
                ),
            ),
        ),
    ),
    "Temporal": (
        Panel(
            "Since the last pass",
            "s",
            (Query(_stored("ods_schedule_age_seconds", "tenant", "schedule"), "{{tenant}} {{schedule}}"),),
        ),
        Panel(
            "Wait of tasks for a worker, 95 %",
            "s",
            (
                Query(
                    _quantile(0.95, "temporal_workflow_task_schedule_to_start_latency_seconds", "task_queue"),
                    "{{task_queue}} workflow",
                ),
                Query(
                    _quantile(0.95, "temporal_activity_schedule_to_start_latency_seconds", "task_queue"),
                    "{{task_queue}} activity",
                ),
            ),
        ),
        Panel(
            "What fails",
            "short",
            (
                Query(
                    "sum by (failure_reason) (increase(temporal_workflow_task_execution_failed_total[1h]))",
                    "task: {{failure_reason}}",
                ),
                Query(
                    "sum by (error_type) (increase(service_error_with_type[1h])"
                    " or increase(service_error_with_type_total[1h]))",
                    "Temporal: {{error_type}}",
                ),
                Query("sum by (source) (increase(ods_scrape_errors_total[1h]))", "scrape: {{source}}"),
            ),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON has it."""
    return {
        "uid": "ods-instance-management",
        "title": "ODS instance management",
        "tags": ["ods"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _tenants()]},
        "panels": list(_panels()),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _tenants() -> dict[str, Any]:
    query = "label_values(ods_instances, tenant)"
    return {
        "name": "tenant",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": "tenant"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": top, "w": _WIDTH * _COLUMNS, "h": 1}
        made.append({"id": len(made) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(panels):
            row, column = divmod(number, _COLUMNS)
            place = {"x": column * _WIDTH, "y": top + row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            made.append(_panel(panel, len(made) + 1, place))
        top += _HEIGHT * -(-len(panels) // _COLUMNS)
    return made


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """The content of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
