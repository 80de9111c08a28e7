"""docker-compose.yml, as far as it can be judged without a container engine."""

import json
import os
import re
import shutil
import subprocess
from graphlib import TopologicalSorter
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from dotenv import dotenv_values
from temporalio.envconfig import ClientConfig, ClientConfigProfile

from ods.registry.connection_strings.ods_connection_strings import OdsConnectionStrings
from ods.settings.settings import Settings
from tests.deployment import compose

SCHEMA = Path(__file__).parent / "compose-spec" / "compose-spec.json"
SERVICES = compose.services(compose.made_dotenv())
OWN_SERVICES = compose.own_services()
JOBS = {
    dependency
    for service in SERVICES.values()
    for dependency, wait in service.get("depends_on", {}).items()
    if wait["condition"] == "service_completed_successfully"
}

each_service = pytest.mark.parametrize("name", SERVICES)
each_own_service = pytest.mark.parametrize("name", OWN_SERVICES)


def needs(name: str) -> set[str]:
    """Everything that is waited for, directly or not, before `name` starts."""
    direct = set(SERVICES[name].get("depends_on", {}))
    return direct.union(*map(needs, direct))


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr] # fails the test
    return int(number) * {"s": 1, "m": 60}[unit]


def repeated_keys(node: yaml.Node) -> list[str]:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        below = chain.from_iterable(repeated_keys(value) for _, value in node.value)
        return [*(key for key in set(keys) if keys.count(key) > 1), *below]
    if isinstance(node, yaml.SequenceNode):
        return list(chain.from_iterable(map(repeated_keys, node.value)))
    return []


@pytest.mark.parametrize("text", [compose.COMPOSE_FILE.read_text(), compose.documented("yaml")])
def test_schema_of_the_specification_holds_when_validated(text: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    faults = [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(yaml.safe_load(text))]
    assert faults == []


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="apt-get install docker-compose")
@pytest.mark.parametrize("profile", ["", "monitoring", "admin-api"])
def test_compose_itself_reads_the_file_when_env_example_was_followed(tmp_path: Path, profile: str) -> None:
    dotenv = tmp_path / "env"
    dotenv.write_text("".join(f"{name}='{value}'\n" for name, value in compose.made_dotenv().items()))
    shutil.copy(compose.ROOT / "deploy" / "proxy" / "admin-api.env.example", tmp_path / "admin-api.env")
    files = (
        "--file",
        str(compose.COMPOSE_FILE),
        "--env-file",
        str(dotenv),
        "--project-directory",
        str(tmp_path),
    )
    done = subprocess.run(  # noqa: S603 - Debian's program
        ["docker-compose", *files, "--profile", profile, "config", "--format", "json"],  # noqa: S607 - likewise
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    read = json.loads(done.stdout)["services"]
    assert set(read) == {name for name, it in SERVICES.items() if it.get("profiles", [profile]) == [profile]}


def test_no_key_is_repeated_when_parsed() -> None:
    root = yaml.compose(compose.COMPOSE_FILE.read_text())
    assert root is not None
    assert repeated_keys(root) == []


def test_env_example_names_exactly_the_variables_in_use_when_compared() -> None:
    assert set(compose.made_dotenv()) == compose.used_variables(compose.COMPOSE_FILE.read_text())


@pytest.mark.parametrize("name", compose.made_dotenv())
def test_compose_refuses_when_a_variable_is_missing(name: str) -> None:
    dotenv = compose.made_dotenv()
    del dotenv[name]
    with pytest.raises(LookupError):
        compose.services(dotenv)


def test_no_secret_has_a_value_when_env_example_is_merely_copied() -> None:
    given = re.findall(r"^(\w+)=.+$", compose.ENV_EXAMPLE.read_text(), re.MULTILINE)
    assert given == ["ODS_TEMPORAL_UI_URL"]


@each_service
def test_ods_variables_are_settings_when_set(name: str) -> None:
    known = {f"ODS_{key.upper()}" for key in Settings.model_fields}
    assert {variable for variable in environment(name) if variable.startswith("ODS_")} <= known


@each_own_service
def test_required_settings_are_there_when_the_image_is_ours(name: str) -> None:
    required = {f"ODS_{key.upper()}" for key, field in Settings.model_fields.items() if field.is_required()}
    assert required <= set(environment(name))


@each_own_service
def test_settings_are_accepted_when_env_example_was_followed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("ODS_")]:
        monkeypatch.delenv(variable)
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    OdsConnectionStrings.from_settings(Settings.load())


@each_own_service
def test_temporal_variables_are_known_to_the_client_when_set(name: str) -> None:
    nothing = ClientConfigProfile.load(disable_file=True, override_env_vars={})
    for variable in (variable for variable in environment(name) if variable.startswith("TEMPORAL_")):
        with_it = ClientConfigProfile.load(disable_file=True, override_env_vars={variable: "probe"})
        assert with_it != nothing, variable


@each_own_service
def test_client_finds_the_temporal_service_when_configured(name: str) -> None:
    config = ClientConfig.load_client_connect_config(disable_file=True, override_env_vars=environment(name))
    assert config["target_host"] == "temporal:7233"
    made_namespace = environment("temporal-namespace")["TEMPORAL_NAMESPACE"]
    assert config["namespace"] == made_namespace


def environment(name: str) -> dict[str, str]:
    variables = SERVICES[name].get("environment", {})
    assert all(isinstance(value, str) for value in variables.values()), "quote it: Compose takes strings"
    return dict(variables)


def test_services_can_be_started_in_an_order_when_sorted() -> None:
    order = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert set(TopologicalSorter(order).static_order()) == set(SERVICES)


@each_service
def test_each_condition_can_come_true_when_waited_for(name: str) -> None:
    for dependency, wait in SERVICES[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[dependency], dependency
        else:
            assert wait["condition"] == "service_completed_successfully", dependency


@each_service
def test_jobs_end_and_services_go_on_when_they_exit(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in JOBS else "unless-stopped")


def test_jobs_are_the_migrations_and_the_preparation_of_temporal_when_listed() -> None:
    assert {"migrate", "temporal-schema", "temporal-namespace"} == JOBS


def test_worker_waits_for_all_it_needs_when_started() -> None:
    assert needs("worker") == {"postgres", "migrate", "temporal-schema", "temporal", "temporal-namespace"}


def test_api_waits_for_the_registry_alone_when_started() -> None:
    assert needs("api") == {"postgres", "migrate"}


def test_worker_may_finish_what_it_does_when_stopped() -> None:
    timeout = float(environment("worker")["ODS_SHUTDOWN_TIMEOUT"])
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > timeout


@each_service
def test_container_has_no_more_rights_than_it_needs_when_run(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name not in {"temporal-ui", "admin-api"})
    assert ("cap_add" in service) is (name == "postgres")
    assert "privileged" not in service
    assert "user" not in service


@each_service
def test_container_cannot_take_all_memory_and_processes_when_run(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])
    assert 100 <= SERVICES[name]["pids_limit"] <= 500


def test_migrations_alone_own_the_tables_when_run() -> None:
    users = {name: urlsplit(environment(name)["ODS_ADMIN_DSN"]).username for name in OWN_SERVICES}
    assert users == {"migrate": "ods_owner", "api": "ods_service", "worker": "ods_service"}


@each_service
def test_image_has_a_version_when_published(name: str) -> None:
    image = SERVICES[name]["image"]
    if name in OWN_SERVICES:
        assert SERVICES[name]["pull_policy"] == "build"
    else:
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d[\w.-]*", image)


def test_admin_tools_are_of_the_servers_version_when_compared() -> None:
    versions = {SERVICES[name]["image"].split(":")[1] for name in ("temporal", *JOBS - {"migrate"})}
    assert len(versions) == 1


@each_service
def test_ports_are_open_to_this_host_alone_when_published(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@each_service
def test_mounts_exist_and_are_read_only_when_they_come_from_the_repository(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, mode = volume.split(":") if volume.startswith("./") else (".", "", "ro")
        assert (compose.ROOT / source).is_dir(), volume
        assert mode == "ro", volume


@each_service
def test_files_named_in_commands_exist_when_mounted(name: str) -> None:
    service = SERVICES[name]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in service.get("volumes", []))
    words = [*service.get("command", []), *environment(name).values()]
    for word in (word for word in words if word.startswith("/deploy/")):
        assert (compose.ROOT / mounts["/deploy"] / Path(word).relative_to("/deploy")).is_file(), word


def test_data_outlive_the_container_when_postgres_is_replaced() -> None:
    # From version 18 on, the image keeps its data below this folder, in one named after the version.
    assert "postgres:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]
    assert "postgres" in yaml.safe_load(compose.COMPOSE_FILE.read_text())["volumes"]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_documented_override_names_known_variables_when_temporal_is_elsewhere(name: str) -> None:
    override: dict[str, Any] = yaml.safe_load(compose.documented("yaml"))["services"][name]["environment"]
    nothing = ClientConfigProfile.load(disable_file=True, override_env_vars={})
    for variable in override:
        with_it = ClientConfigProfile.load(disable_file=True, override_env_vars={variable: "probe"})
        assert with_it != nothing, variable


def test_proxy_alone_is_believed_and_no_other_container_can_have_its_address() -> None:
    address = SERVICES["proxy"]["networks"]["proxied"]["ipv4_address"]
    assert environment("api")["FORWARDED_ALLOW_IPS"] == address
    ((pool,),) = [
        network["ipam"]["config"]
        for name, network in yaml.safe_load(compose.COMPOSE_FILE.read_text())["networks"].items()
        if name == "proxied"
    ]
    subnet, given = ip_network(pool["subnet"]), ip_network(pool["ip_range"])
    assert ip_address(address) in subnet
    assert ip_address(address) not in given
    assert ip_address(address) != subnet[1]  # Docker's own, from which published ports are reached
    assert given.subnet_of(subnet)  # type: ignore[arg-type] # both are of IPv4


def test_proxy_finds_both_services_where_its_file_looks() -> None:
    site = (compose.ROOT / "deploy" / "proxy" / "nginx.conf").read_text()
    (ods,), (admin_api,) = (re.findall(rf"set \${name} http://(\S+);", site) for name in ("ods", "admin_api"))
    api = SERVICES["api"]["command"]
    assert ods == f"api:{api[api.index('--port') + 1]}"
    assert admin_api == f"admin-api:{environment('admin-api')['ASPNETCORE_HTTP_PORTS']}"
    for name in ("api", "admin-api"):
        assert SERVICES[name]["networks"] == ["default", "proxied"]


def test_admin_api_shares_the_encryption_and_leaves_instances_alone_when_its_profile_is_on() -> None:
    assert environment("admin-api")["AppSettings__EncryptionKey"] == environment("api")["ODS_ENCRYPTION_KEY"]
    sweeps = {name: value for name, value in environment("admin-api").items() if "Sweep" in name}
    assert set(sweeps.values()) == {""}
    page = (compose.ROOT / "docs" / "operations" / "beside-an-admin-api.md").read_text()
    for name in sweeps:
        assert name.replace("__", ":") in page


def test_secrets_of_the_admin_api_have_no_value_when_the_example_is_merely_copied() -> None:
    given = dotenv_values(compose.ROOT / "deploy" / "proxy" / "admin-api.env.example")
    assert {name for name, value in given.items() if value} == {"Authentication__AllowRegistration"}
    assert not set(given) & set(environment("admin-api"))
