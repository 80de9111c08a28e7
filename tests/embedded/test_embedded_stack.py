import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from ods.embedded.data_folder import DataFolder, Secrets, StackFile
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port, free_ports
from tests.embedded.conftest import port_options
from tests.servers import POSTGRES_VERSION

Ods = Callable[..., subprocess.CompletedProcess[str]]


def published(folder: DataFolder) -> StackFile:
    stack = folder.running_stack()
    assert stack is not None
    return stack


def pid_of(folder: DataFolder, part: str) -> int:
    entry: dict[str, int] = json.loads(folder.stack_file.read_text())[part]
    return entry["pid"]


async def healthy(stack: StackFile) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"{stack['api']['url']}/health")
        except httpx.TransportError:
            return False
    return answer.is_success and answer.json()["status"] == "Healthy"


async def test_everything_is_healthy_when_the_stack_file_appears(stack: DataFolder) -> None:
    assert await healthy(published(stack))


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("[::1]", 200), ("evil.example", 400)],
)
async def test_only_names_of_this_machine_are_served_when_the_stack_serves(
    stack: DataFolder, host: str, status: int
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(published(stack)["api"]["url"], headers={"Host": host})
    assert answer.status_code == status


async def test_web_ui_knows_where_payloads_are_decrypted_when_the_stack_encrypts_them(
    stack: DataFolder,
) -> None:
    serving = published(stack)
    api, ui = serving["api"]["url"], serving["temporal"]["ui"]
    async with httpx.AsyncClient(trust_env=False) as client:
        codec = (await client.get(f"{ui}/api/v1/settings")).json()["Codec"]
        assert codec["Endpoint"] == f"{api}/codec"
        assert not codec["IncludeCredentials"]  # as docs/temporal.md says
        allowed = await client.options(f"{api}/codec/decode", headers={"Origin": ui})
        assert allowed.headers["Access-Control-Allow-Origin"] == ui
        assert (await client.post(f"{api}/codec/decode", json={"payloads": []})).status_code == 401


async def test_forwarded_address_is_not_believed_when_no_proxy_was_named(stack: DataFolder) -> None:
    serving = published(stack)
    grant = {
        "grant_type": "client_credentials",
        "scope": "edfi_admin_api/full_access",
        "client_id": serving["client"]["id"],
        "client_secret": serving["client"]["secret"],
    }
    async with httpx.AsyncClient(base_url=serving["api"]["url"], trust_env=False) as client:
        forged = {"X-Forwarded-For": "192.0.2.77"}
        assert (await client.post("/connect/token", data=grant, headers=forged)).is_success
        token = (await client.post("/connect/token", data=grant)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"

        async def addresses() -> list[str]:
            return [entry["address"] for entry in (await client.get("/v2/audit", params={"limit": 2})).json()]

        async def are_written() -> bool:
            return len(await addresses()) == 2

        await wait_until(are_written, 10)
        assert await addresses() == ["127.0.0.1"] * 2


def test_stack_file_is_private_and_complete_when_the_stack_serves(stack: DataFolder) -> None:
    content = json.loads(stack.stack_file.read_text())
    assert stack.stack_file.stat().st_mode & 0o777 == 0o600
    assert content.pop("settings")["TEMPORAL_ADDRESS"] == content["temporal"]["address"]
    assert {part: set(entry) for part, entry in content.items()} == {
        "api": {"url", "metrics", "pid"},
        "worker": {"metrics", "pid"},
        "temporal": {"address", "ui", "namespace", "pid"},
        "postgres": {"admin_dsn", "master_dsn", "pid"},
        "backups": {"url"},
        "client": {"id", "secret"},
    }


async def test_dsns_are_the_superusers_when_the_stack_serves(stack: DataFolder) -> None:
    postgres = published(stack)["postgres"]
    for dsn, database in ((postgres["admin_dsn"], "EdFi_Admin"), (postgres["master_dsn"], "postgres")):
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT current_database()") == database
        assert await connection.fetchval("SHOW is_superuser") == "on"
        await connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are asked in Linux's own way")
def test_worker_and_temporal_step_back_when_the_processor_is_short(stack: DataFolder) -> None:
    steps = {
        part: os.getpriority(os.PRIO_PROCESS, pid_of(stack, part))
        for part in ("postgres", "api", "temporal", "worker")
    }
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert steps == {"postgres": own, "api": own, "temporal": own + 5, "worker": own + 5}
    autogroup = Path(f"/proc/{pid_of(stack, 'worker')}/autogroup")
    if autogroup.exists():
        assert autogroup.read_text().endswith(" nice 5\n")


async def test_postgresql_is_of_the_version_that_was_chosen_when_the_stack_serves(stack: DataFolder) -> None:
    connection = await asyncpg.connect(published(stack)["postgres"]["master_dsn"])
    assert (await connection.fetchval("SHOW server_version")).startswith(f"{POSTGRES_VERSION}.")
    await connection.close()


def test_stack_is_refused_with_what_to_do_when_another_version_made_the_data(
    folder: DataFolder, ods: Ods
) -> None:
    folder.postgres.mkdir(parents=True)
    folder.store_secrets(Secrets.generate(free_port()))
    (folder.postgres / "cluster").mkdir()
    (folder.postgres / "cluster" / "PG_VERSION").write_text("17\n")
    refused = ods("up", "--data-dir", folder.path, *port_options())
    assert refused.returncode == 1
    assert "start with --postgres-version 17, or choose another folder" in refused.stderr


def test_nothing_is_begun_anew_when_only_the_disk_of_the_databases_is_away(
    folder: DataFolder, ods: Ods
) -> None:
    folder.temporal.mkdir(parents=True)
    folder.store_secrets(Secrets.generate(free_port()))
    folder.postgres.mkdir()
    refused = ods("up", "--data-dir", folder.path, *port_options())
    assert refused.returncode == 1
    assert f"The data of {folder.postgres} are not in {folder.postgres} any more" in refused.stderr
    assert not list(folder.postgres.iterdir())


async def test_durability_is_on_when_the_stack_serves(stack: DataFolder) -> None:
    connection = await asyncpg.connect(published(stack)["postgres"]["master_dsn"])
    assert await connection.fetchval("SHOW fsync") == "on"
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await connection.close()


@pytest.mark.parametrize("part", ["worker", "api", "temporal", "postgres"])
async def test_part_is_restarted_and_the_stack_file_follows_when_it_is_killed(
    stack: DataFolder, part: str
) -> None:
    killed = pid_of(stack, part)
    os.kill(killed, signal.SIGKILL)

    async def follows() -> bool:
        return pid_of(stack, part) != killed and await healthy(published(stack))

    await wait_until(follows, 30)
    os.kill(pid_of(stack, part), 0)


def test_second_stack_is_refused_when_one_runs_in_the_folder(stack: DataFolder, ods: Ods) -> None:
    before = stack.stack_file.read_text()
    refused = ods("up", "--data-dir", stack.path, *port_options())
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: A stack already runs in {stack.path} (process ")
    assert refused.stderr.count("\n") == 1
    assert stack.stack_file.read_text() == before


def test_start_is_refused_naming_the_option_when_a_port_is_taken(
    stack: DataFolder, ods: Ods, tmp_path: Path
) -> None:
    port = published(stack)["api"]["url"].rpartition(":")[2]
    refused = ods("up", "--data-dir", tmp_path / "other", "--api-port", port)
    assert refused.returncode == 1
    assert refused.stderr == f"Error: Port {port} is taken; choose another one with --api-port.\n"


def test_start_is_refused_naming_the_variable_when_a_setting_is_unusable(ods: Ods, tmp_path: Path) -> None:
    refused = ods("up", "--data-dir", tmp_path / "data", *port_options(), ODS_SWEEP_INTERVAL="often")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ODS_SWEEP_INTERVAL: ")
    assert not (tmp_path / "data" / "postgres").exists()


def test_user_is_told_what_leads_to_the_former_port_when_postgresql_gets_another_one(
    folder: DataFolder, ods: Ods
) -> None:
    earlier, port = free_ports(2)
    folder.create()
    folder.store_secrets(Secrets.generate(earlier))
    options = ("--data-dir", folder.path, "--postgres-port", port, *port_options(besides=[earlier, port]))
    told = ods("up", *options, ODS_SWEEP_INTERVAL="often").stdout
    assert f"PostgreSQL listens on port {port} from now on." in told
    assert f"still lead to port {earlier}" in told
    assert "listens on port" not in ods("up", *options, ODS_SWEEP_INTERVAL="often").stdout


async def test_nothing_is_left_running_when_the_start_is_interrupted(folder: DataFolder) -> None:
    port = free_port()
    options = ("--data-dir", str(folder.path), "--postgres-port", str(port), *port_options(besides=[port]))
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ods.cli", "up", *options, stdout=asyncio.subprocess.PIPE
    )
    assert up.stdout is not None
    await up.stdout.readuntil(b"Preparing the databases")
    up.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(up.wait(), 30) == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert not folder.stack_file.exists()
