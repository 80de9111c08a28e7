"""`ods client` and `ods registration`, against a running stack and with settings of the environment."""

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ods.embedded.data_folder import DataFolder, StackFile
from ods.embedded.ports import free_port
from ods.registry.clients.credentials import STRONG_SECRET

Run = subprocess.CompletedProcess[str]
Ods = Callable[..., Run]

_numbers = count(1)


@pytest.fixture
def running(stack: DataFolder) -> StackFile:
    found = stack.running_stack()
    assert found is not None
    return found


@pytest.fixture
def client(ods: Ods, stack: DataFolder) -> Callable[..., Run]:
    """Runs `ods client` against the stack."""
    return lambda *arguments: ods("client", *arguments, "--data-dir", stack.path)


@pytest.fixture
def name() -> str:
    return f"client-{next(_numbers)}"


@pytest.fixture
async def registry(running: StackFile) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    session = await asyncpg.connect(running["postgres"]["admin_dsn"])
    yield session
    await session.close()


def content(run: Run) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def error(run: Run) -> str:
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1
    return run.stderr.removeprefix("Error: ").strip()


def log_in(running: StackFile, name: str, secret: str, scope: str = "full_access") -> httpx.Response:
    form = {
        "grant_type": "client_credentials",
        "client_id": name,
        "client_secret": secret,
        "scope": f"edfi_admin_api/{scope}",
    }
    return httpx.post(f"{running['api']['url']}/connect/token", data=form)


def listed(client: Callable[..., Run], name: str) -> dict[str, Any]:
    rows = {row["clientId"]: row for row in content(client("list", "--json"))}
    found: dict[str, Any] = rows[name]
    return found


def test_client_can_be_used_as_long_as_the_operator_lets_it(
    client: Callable[..., Run], running: StackFile, name: str
) -> None:
    added = content(client("add", name, "--display-name", "An app", "--json"))
    secret = added["clientSecret"]
    assert STRONG_SECRET.fullmatch(secret)
    assert (added["clientId"], added["displayName"], added["scope"]) == (name, "An app", "full_access")
    assert log_in(running, name, secret).status_code == 200

    assert client("disable", name).stdout == f"{name} is disabled; its tokens are refused within 5 seconds.\n"
    assert listed(client, name)["enabled"] is False
    assert log_in(running, name, secret).status_code == 401
    assert client("enable", name).stdout == f"{name} is enabled.\n"
    assert log_in(running, name, secret).status_code == 200

    rotated = content(client("rotate", name, "--json"))["clientSecret"]
    assert log_in(running, name, secret).status_code == 401
    assert log_in(running, name, rotated).status_code == 200

    assert content(client("remove", name, "--json"))["clientId"] == name
    assert log_in(running, name, rotated).status_code == 401
    assert "`ods client list` shows all" in error(client("remove", name))


def test_secret_is_shown_once_when_a_client_is_added(client: Callable[..., Run], name: str) -> None:
    added = client("add", name)
    lines = dict(line.split(maxsplit=1) for line in added.stdout.splitlines())
    secret = lines["clientSecret"]
    assert STRONG_SECRET.fullmatch(secret)
    assert added.stdout.endswith("Keep the secret now: it is not shown again.\n")
    for again in (client("list"), client("list", "--json"), client("disable", name, "--json")):
        assert again.returncode == 0
        assert secret not in again.stdout
        assert "argon2" not in again.stdout
        assert name in again.stdout


def test_what_is_known_of_a_client_is_listed_when_it_was_used(
    client: Callable[..., Run], running: StackFile, name: str
) -> None:
    added = content(client("add", name, "--scope", "read_only", "--expires", "2093-06-30", "--json"))
    row = listed(client, name)
    assert (row["clientId"], row["displayName"], row["enabled"]) == (name, name, True)
    assert (row["scope"], row["expires"], row["lastUsed"]) == ("read_only", "2093-06-30T00:00:00Z", None)
    assert not row["backupDownload"]
    assert content(client("change", name, "--backup-download", "--json"))["backupDownload"]
    assert listed(client, name)["backupDownload"]
    assert row["created"].endswith("Z")
    answer = log_in(running, name, added["clientSecret"], "readonly_access")
    assert answer.status_code == 200
    heading, *lines = client("list").stdout.splitlines()
    assert heading.split() == [
        "CLIENT",
        "DISPLAY",
        "NAME",
        "SCOPE",
        "BACKUP",
        "DOWNLOAD",
        "ENABLED",
        "CREATED",
        "LAST",
        "USED",
        "EXPIRES",
    ]
    assert any(line.startswith(name) and "read_only" in line for line in lines)
    assert listed(client, name)["lastUsed"] is not None


def test_command_line_reads_and_is_refused_the_rest_when_its_client_may_only_read(
    ods: Ods, client: Callable[..., Run], stack: DataFolder, name: str
) -> None:
    secret = content(client("add", name, "--scope", "read_only", "--json"))["clientSecret"]
    as_reader = {"ODS_CLIENT_ID": name, "ODS_CLIENT_SECRET": secret}
    assert ods("instance", "list", "--json", "--data-dir", stack.path, **as_reader).returncode == 0
    told = error(ods("sweep", "--data-dir", stack.path, **as_reader))
    assert "may only read" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--expires", "2001-01-01"], "must be in the future"),
        (["--expires", "2093-01-01", "--expires-in-days", "3"], "either --expires or --expires-in-days"),
        (["--display-name", " "], "'Display name' must not be empty."),
    ],
)
def test_client_is_not_added_when_an_option_makes_no_sense(
    client: Callable[..., Run], name: str, arguments: list[str], told: str
) -> None:
    assert told in error(client("add", name, *arguments))
    assert name not in client("list").stdout


def test_client_is_not_added_when_its_id_is_taken(client: Callable[..., Run], name: str) -> None:
    assert client("add", name).returncode == 0
    assert "already exists" in error(client("add", name))


def test_client_is_not_added_when_its_id_looks_like_the_name_of_a_person(
    client: Callable[..., Run], name: str
) -> None:
    assert "must not begin with oidc:" in error(client("add", f"oidc:{name}"))


async def test_changes_are_in_the_audit_trail_when_the_operator_makes_them(
    ods: Ods, client: Callable[..., Run], stack: DataFolder, name: str
) -> None:
    added = content(client("add", name, "--json"))
    client("disable", name)
    ods("registration", "open", "--minutes", "1", "--data-dir", stack.path)
    listing = ods("audit", "--limit", "50", "--json", "--data-dir", stack.path)
    changes = [entry for entry in content(listing) if entry["method"] == "CLI"]
    assert [entry["path"] for entry in changes[:3]] == [
        "ods registration open --minutes 1",
        f"ods client disable {name}",
        f"ods client add {name} --scope full_access",
    ]
    assert {entry["client"] for entry in changes} == {"command line"}
    assert added["clientSecret"] not in listing.stdout


def test_registration_is_told_to_be_open_when_the_stack_admits_clients(ods: Ods, stack: DataFolder) -> None:
    found = content(ods("registration", "status", "--json", "--data-dir", stack.path))
    assert (found["open"], found["always"]) == (True, True)


async def test_terminal_obeys_no_client_when_its_name_is_listed(
    client: Callable[..., Run], registry: "asyncpg.Connection[asyncpg.Record]", name: str
) -> None:
    await registry.execute(
        "INSERT INTO adminapi.applications (clientid, displayname) VALUES ($1, E'\\x1b]0;owned\\x07')", name
    )
    assert "\x1b" not in client("list").stdout


@pytest.fixture
def settings_of_stack(running: StackFile) -> dict[str, str]:
    """The environment of an installation elsewhere, whose registry is the stack's."""
    key = base64.b64encode(bytes(32)).decode()
    return {
        "ODS_ADMIN_DSN": running["postgres"]["admin_dsn"],
        "ODS_MASTER_DSN": running["postgres"]["master_dsn"],
        "ODS_INSTANCE_CONNECTION_STRING": "host=127.0.0.1;username=any;password=any",
        "ODS_ENCRYPTION_KEY": key,
        "ODS_TOKEN_SIGNING_KEY": key,
    }


def test_registry_of_the_environment_is_used_when_its_settings_are_there(
    ods: Ods, running: StackFile, settings_of_stack: dict[str, str], name: str
) -> None:
    added = content(ods("client", "add", name, "--json", **settings_of_stack))
    assert log_in(running, name, added["clientSecret"]).status_code == 200

    def registration(*words: str) -> Any:
        return content(ods("registration", *words, "--json", **settings_of_stack))

    opened = registration("open", "--minutes", "5")
    assert (opened["open"], opened["always"]) == (True, False)
    assert registration("status") == opened
    assert registration("close") == {"open": False, "always": False, "until": None}
    assert registration("status")["open"] is False


def test_next_step_is_told_when_there_is_no_registry(ods: Ods, tmp_path: Path) -> None:
    for words in (("client", "list"), ("registration", "status")):
        told = error(ods(*words, "--data-dir", tmp_path))
        assert "`ods up` starts one" in told
        assert "ODS_ADMIN_DSN" in told


def test_variable_is_blamed_when_the_registry_cannot_be_reached(
    ods: Ods, settings_of_stack: dict[str, str]
) -> None:
    unreachable = f"postgresql://service:a-secret@127.0.0.1:{free_port()}/EdFi_Admin"
    told = error(ods("client", "list", **(settings_of_stack | {"ODS_ADMIN_DSN": unreachable})))
    assert "check ODS_ADMIN_DSN" in told
    assert "a-secret" not in told


def test_migration_is_proposed_when_the_registry_was_never_migrated(
    ods: Ods, settings_of_stack: dict[str, str]
) -> None:
    bare = settings_of_stack | {"ODS_ADMIN_DSN": settings_of_stack["ODS_MASTER_DSN"]}
    assert "`ods migrate`" in error(ods("client", "list", **bare))
