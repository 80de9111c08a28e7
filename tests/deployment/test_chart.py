"""The Helm chart, deploy/helm: rendered by Helm itself and held against the schemas of Kubernetes.

No cluster has seen it. What other operators define (PodMonitor, PrometheusRule, ScaledObject) is held against
no schema.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import jsonschema
import pytest
import yaml

from ods.settings.settings import SECRETS, Settings
from tests.deployment import compose

CHART = compose.ROOT / "deploy" / "helm"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OLDEST, NEWEST = "1.27", "1.34"
OF_OTHER_OPERATORS = {"monitoring.coreos.com", "keda.sh"}

LEAST: dict[str, Any] = {"secretName": "ods", "migrate": {"secretName": "ods-owner"}}
MOST: dict[str, Any] = {
    "secretName": "ods",
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccountName": "backups",
    "settings": {"ODS_SPARES": "3", "ODS_TASK_QUEUE": "other"},
    "migrate": {"secretName": "ods-owner", "serviceRole": "ods_service"},
    "image": {"digest": f"sha256:{'0a' * 32}"},
    "api": {"autoscaling": {"enabled": True}, "forwardedAllowIps": "10.0.0.0/8"},
    "worker": {"deploymentVersion": "1.5.0", "shutdownSeconds": 60, "autoscaling": {"enabled": True}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "ods.example.org",
        "tlsSecretName": "tls",
        "annotations": {"a": "b"},
    },
    "metrics": {"podMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "enabled": True,
        "clients": [{"namespaceSelector": {}}],
        "monitoring": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
}
REFUSED: dict[str, dict[str, Any]] = {
    "no secret": {"migrate": {"enabled": False}},
    "no owner of the tables": {"secretName": "ods"},
    "a digest of another form": LEAST | {"image": {"digest": "0a0a"}},
    "a misspelt value": LEAST | {"worker": {"replica": 2}},
    "a secret among the settings": LEAST | {"settings": {"ODS_ADMIN_DSN": "postgresql://…"}},
    "what has a value of its own": LEAST | {"settings": {"ODS_METRICS_PORT": "1"}},
    "an ingress without a host": LEAST | {"ingress": {"enabled": True, "host": ""}},
    "a version that no worker may have": LEAST | {"worker": {"deploymentVersion": "1:5"}},
}

each_size = pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
needs_helm = pytest.mark.skipif(
    find_spec("helm_python") is None, reason="make test-chart installs Helm and the schemas"
)


def problems(values: dict[str, Any]) -> list[str]:
    """What the schema says of these values, put over the chart's own."""
    merged = {
        name: {**own, **values.get(name, {})} if isinstance(own, dict) else values.get(name, own)
        for name, own in VALUES.items()
    } | {name: value for name, value in values.items() if name not in VALUES}
    return [fault.message for fault in jsonschema.Draft7Validator(SCHEMA).iter_errors(merged)]


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Helm makes of the chart, by kind and name."""
    import helm_python  # noqa: PLC0415 - is not there unless it was asked for

    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name="ods", namespace="ods")
    found = [
        one for path, text in texts.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text)
    ]
    return {f"{one['kind']} {one['metadata']['name']}": one for one in found if one}


def pods(objects: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (
        one["spec"]["template"]["spec"] for one in objects.values() if one["kind"] in {"Deployment", "Job"}
    )


def test_versions_are_those_of_the_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_files_of_the_chart_are_those_of_monitoring() -> None:
    for name in ("rules.yml", "grafana-dashboard.json"):
        assert (CHART / "files" / name).resolve() == compose.ROOT / "deploy" / "monitoring" / name


@each_size
def test_values_are_accepted_when_they_can_be_used(values: dict[str, Any]) -> None:
    assert problems(values) == []


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_values_are_refused_when_they_cannot_be_used(values: dict[str, Any]) -> None:
    assert problems(values)


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_may_be_among_the_settings(name: str) -> None:
    assert problems(LEAST | {"settings": {f"ODS_{name.upper()}": "any"}})


def test_variables_of_the_templates_are_settings() -> None:
    text = "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
    known = {f"ODS_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bODS_[A-Z_]+", text)) <= known


@needs_helm
def test_helm_finds_nothing_to_complain_about() -> None:
    import helm_python  # noqa: PLC0415 - likewise

    report = helm_python.lint(CHART, LEAST, strict=True, kube_version=f"v{NEWEST}.0")
    assert [it["error"] for it in report["messages"]] == ["icon is recommended"]
    assert report["errors"] == []


@needs_helm
@each_size
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects_are_as_kubernetes_defines_them(values: dict[str, Any], version: str) -> None:
    import kubernetes_validate  # noqa: PLC0415 - likewise

    for found in rendered(values).values():
        if found["apiVersion"].split("/")[0] not in OF_OTHER_OPERATORS:
            kubernetes_validate.validate(found, version, strict=True)


@needs_helm
@each_size
def test_containers_have_no_more_rights_than_they_need(values: dict[str, Any]) -> None:
    for pod in pods(rendered(values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@needs_helm
def test_kinds_are_there_when_they_are_wanted() -> None:
    least, most = rendered(LEAST), rendered(MOST)
    assert {one["kind"] for one in least.values()} == {
        *("Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service")
    }
    assert {one["kind"] for one in most.values()} - {one["kind"] for one in least.values()} == {
        *("ConfigMap", "HorizontalPodAutoscaler", "Ingress"),
        *("PodMonitor", "PrometheusRule", "ScaledObject"),
    }
    # An autoscaler decides alone.
    assert all("replicas" not in one["spec"] for one in most.values() if one["kind"] == "Deployment")


@needs_helm
def test_rules_and_dashboard_arrive_unchanged() -> None:
    objects = rendered(MOST)
    monitoring = compose.ROOT / "deploy" / "monitoring"
    assert objects["PrometheusRule ods"]["spec"] == yaml.safe_load((monitoring / "rules.yml").read_text())
    told = json.loads(objects["ConfigMap ods-dashboard"]["data"]["ods-instance-management.json"])
    assert told == json.loads((monitoring / "grafana-dashboard.json").read_text())
    jobs = {
        relabeling["replacement"]
        for one in objects.values()
        if one["kind"] == "PodMonitor"
        for endpoint in one["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint["relabelings"]
    }
    assert jobs == {"ods-api", "ods-worker"}


@needs_helm
@each_size
def test_selectors_find_the_pods_that_they_are_for(values: dict[str, Any]) -> None:
    objects = rendered(values)
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for name, one in objects.items()
        if one["kind"] == "Deployment"
    }
    for one in objects.values():
        spec = one.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        found = {name for name, own in labels.items() if wanted.items() <= own.items()}
        assert found == {f"Deployment ods-{wanted['app.kubernetes.io/component']}"}


@needs_helm
def test_commands_are_those_of_compose() -> None:
    objects, services = rendered(LEAST), compose.services(compose.made_dotenv())
    for kind, name in (("Deployment", "worker"), ("Deployment", "api"), ("Job", "migrate")):
        (container,) = objects[f"{kind} ods-{name}"]["spec"]["template"]["spec"]["containers"]
        said, wanted = shlex.join(container["command"]), shlex.join(services[name]["command"])
        timeout = r" --timeout-graceful-shutdown \d+"
        assert re.sub(timeout, "", said) == re.sub(timeout, "", wanted)


@needs_helm
def test_worker_may_finish_what_it_does_when_stopped() -> None:
    spec = rendered(MOST)["Deployment ods-worker"]["spec"]["template"]["spec"]
    variables = {one["name"]: one["value"] for one in spec["containers"][0]["env"]}
    assert spec["terminationGracePeriodSeconds"] > int(variables["ODS_SHUTDOWN_TIMEOUT"])
    assert variables["ODS_WORKER_DEPLOYMENT_VERSION"] == "1.5.0"


@needs_helm
def test_metrics_are_reached_by_monitoring_alone_when_nothing_is_said() -> None:
    policies = {name: one["spec"] for name, one in rendered(LEAST).items() if one["kind"] == "NetworkPolicy"}
    assert policies.keys() == {"NetworkPolicy ods-api", "NetworkPolicy ods-worker"}
    for spec in policies.values():
        assert spec["policyTypes"] == ["Ingress"]
        (to_metrics,) = [rule for rule in spec["ingress"] if rule["ports"] == [{"port": "metrics"}]]
        assert to_metrics["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]


@needs_helm
def test_api_answers_to_the_name_of_the_ingress_alone_when_there_is_one() -> None:
    def allowed(values: dict[str, Any]) -> list[str]:
        (container,) = rendered(values)["Deployment ods-api"]["spec"]["template"]["spec"]["containers"]
        return [one["value"] for one in container["env"] if one["name"] == "ODS_ALLOWED_HOSTS"]

    assert allowed(LEAST) == []
    assert allowed(MOST) == ["ods.example.org,127.0.0.1"]
    assert allowed(MOST | {"settings": {"ODS_ALLOWED_HOSTS": "other.example.org"}}) == ["other.example.org"]


@needs_helm
def test_image_is_that_of_the_digest_when_there_is_one() -> None:
    images = {pod["containers"][0]["image"] for pod in pods(rendered(MOST))}
    assert images == {f"ods-instance-management@sha256:{'0a' * 32}"}


@needs_helm
def test_migrations_run_as_the_owner_of_the_tables() -> None:
    (container,) = rendered(LEAST)["Job ods-migrate"]["spec"]["template"]["spec"]["containers"]
    assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["ods", "ods-owner"]
