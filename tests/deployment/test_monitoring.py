"""Alerts, their pages, and the dashboard: deploy/monitoring and docs/runbooks."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import compose, dashboard, metric_names

MONITORING = compose.ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules.yml"
TESTS = MONITORING / "rules.test.yml"
RUNBOOKS = compose.ROOT / "docs" / "runbooks"
SECTIONS = ["What it means", "How bad", "Look at", "Do", "Afterwards"]
PROGRAMS = {"ods", "temporal", "curl", "docker", "psql", "openssl"}
COMPOSE_COMMANDS = {"up", "ps", "logs", "restart", "stop"}

_USE = re.compile(
    r"\b(?P<metric>(?:ods|temporal|service|probe|node)[_:][a-z0-9_:]+|up)\b(?:\{(?P<matchers>[^}]*)\})?"
)
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install promtool")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
EXPRESSIONS = {
    **{rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard.dashboard()["panels"]
        for target in panel.get("targets", [])
    },
}

each_alert = pytest.mark.parametrize("alert", ALERTS)
each_expression = pytest.mark.parametrize("name", EXPRESSIONS)


def run(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - Debian's
    assert done.returncode == 0, done.stdout + done.stderr


def known(metric: str) -> set[str]:
    """The labels of a metric, which may be a part of a histogram."""
    name = metric if metric in metric_names.ALL else re.sub(r"_(bucket|sum|count)$", "", metric)
    assert name in metric_names.ALL, metric
    return metric_names.ALL[name]


@each_expression
def test_metrics_and_labels_are_told_when_an_expression_uses_them(name: str) -> None:
    expression = EXPRESSIONS[name]
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    labels = set(metric_names.ADDED_BY_PROMETHEUS)
    uses = list(_USE.finditer(without_texts))
    assert uses, expression
    for use in uses:
        own = known(use["metric"])
        labels |= own
        assert set(_LABEL.findall(use["matchers"] or "")) <= own | metric_names.ADDED_BY_PROMETHEUS, use[0]
    for grouping in _GROUPING.findall(without_texts):
        assert {label.strip() for label in grouping.split(",")} <= labels, grouping


@each_alert
def test_alert_says_how_urgent_it_is_and_where_its_page_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(ALERTS)
    assert set(re.findall(r"\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())) == pages


@each_alert
def test_page_has_its_sections_and_commands_of_programs_that_are_there(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for section in ("Look at", "Do"):
        assert list(commands(text, section)), section
        for command in commands(text, section):
            words = command.split()
            assert words[0] in PROGRAMS, command
            if words[0] == "docker":
                assert words[1] == "compose"
                assert words[2] in COMPOSE_COMMANDS, command
                named = {re.sub("=.*", "", word) for word in words[3:] if re.match(r"[a-z]+(=|$)", word)}
                assert named <= set(compose.services(compose.made_dotenv())), command


def commands(text: str, section: str) -> Iterator[str]:
    """The commands of a section of a page, without comments."""
    (block,) = re.findall(rf"^## {section}\n\n```sh\n(.+?)```", text, re.DOTALL | re.MULTILINE)
    return (line.partition("   #")[0].strip() for line in block.splitlines())


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    fired = {
        re.findall(r'alertname="(\w+)"', check["expr"])[0]
        for test in tests
        for check in test["promql_expr_test"]
        if check["exp_samples"]
    }
    assert fired == set(ALERTS)


@promtool
def test_alerts_fire_and_end_as_the_tests_say() -> None:
    run("check", "rules", "--lint-fatal", str(RULES))
    run("test", "rules", str(TESTS))


@promtool
def test_configuration_can_be_read_by_prometheus() -> None:
    run("check", "config", "--lint-fatal", str(MONITORING / "prometheus.yml"))


def test_processes_are_scraped_under_the_names_that_alerts_use() -> None:
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    services = compose.services(compose.made_dotenv())
    for job in jobs:
        (found,) = job["dns_sd_configs"]
        (service,) = found["names"]
        assert job["job_name"] == f"ods-{service}"
        environment = services[service]["environment"]
        port = environment.get("ODS_METRICS_PORT") or environment["PROMETHEUS_ENDPOINT"].rpartition(":")[2]
        assert str(found["port"]) == port
    used = {name for expr in EXPRESSIONS.values() for name in re.findall(r'job="(ods-(?:api|worker))"', expr)}
    assert used == {job["job_name"] for job in jobs} - {"ods-temporal"}


@promtool
def test_queries_of_the_dashboard_can_be_read_by_prometheus(tmp_path: Path) -> None:
    queries = [
        {"record": f"query{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(EXPRESSIONS.values())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    run("check", "rules", str(file))


def test_dashboard_is_the_one_that_the_code_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "make dashboard makes it anew"


def test_panels_have_distinct_numbers_and_do_not_overlap() -> None:
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # the columns of Grafana


@pytest.mark.parametrize("panel", dashboard.dashboard()["panels"], ids=lambda panel: panel["title"])
def test_legends_use_labels_that_the_series_have(panel: dict[str, Any]) -> None:
    for target in panel.get("targets", []):
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            grouped = ", ".join(_GROUPING.findall(target["expr"]))
            uses = [known(use["metric"]) for use in _USE.finditer(re.sub(r'"[^"]*"', '""', target["expr"]))]
            assert label in (re.findall(r"\w+", grouped) or set.union(*uses)), target["expr"]
