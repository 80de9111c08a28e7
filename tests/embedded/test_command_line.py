import base64
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ods.embedded import seeding
from ods.embedded.data_folder import DataFolder
from ods.embedded.polling import wait_until
from ods.embedded.ports import free_port

pytestmark = pytest.mark.long

Ods = Callable[..., subprocess.CompletedProcess[str]]

_numbers = count(1)


@pytest.fixture
def name() -> str:
    return f"Command line {next(_numbers)}"


@pytest.fixture
def instance(ods: Ods, stack: DataFolder) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `ods instance` against the stack."""
    return lambda *arguments: ods("instance", *arguments, "--data-dir", stack.path)


@pytest.fixture
async def foreign_database(
    stack: DataFolder, name: str
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session of the superuser, who has made a database in the place of that of the instance `name`."""
    running = stack.running_stack()
    assert running is not None
    session = await asyncpg.connect(running["postgres"]["master_dsn"])
    await session.execute(f'CREATE DATABASE "{database_of(name)}"')
    yield session
    await session.close()


@pytest.fixture
def settings_of_stack(stack: DataFolder) -> dict[str, str]:
    running = stack.running_stack()
    assert running is not None
    key = base64.b64encode(bytes(32)).decode()
    return {
        "ODS_ADMIN_DSN": running["postgres"]["admin_dsn"],
        "ODS_MASTER_DSN": running["postgres"]["master_dsn"],
        "ODS_INSTANCE_CONNECTION_STRING": "host=127.0.0.1;username=any;password=any",
        "ODS_ENCRYPTION_KEY": key,
        "ODS_TOKEN_SIGNING_KEY": key,
    }


def database_of(name: str) -> str:
    return f"EdFi_Ods_{name.replace(' ', '_')}_Minimal"


async def execute_as_superuser(stack: DataFolder, statement: str) -> None:
    running = stack.running_stack()
    assert running is not None
    session = await asyncpg.connect(running["postgres"]["master_dsn"])
    await session.execute(statement)
    await session.close()


async def comment_of(stack: DataFolder, database: str) -> str:
    running = stack.running_stack()
    assert running is not None
    session = await asyncpg.connect(running["postgres"]["master_dsn"])
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
    comment: str = await session.fetchval(query, database)
    await session.close()
    return comment


def content(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def error(run: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command prints."""
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1
    return run.stderr.removeprefix("Error: ").strip()


def test_instance_lives_and_dies_when_commanded(instance: Ods, name: str) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    assert (created["name"], created["status"]) == (name, "Completed")
    assert content(instance("show", created["id"], "--json")) == created
    assert created in content(instance("list", "--json"))
    renamed = content(instance("rename", created["id"], f"{name} new", "--wait", "--json"))
    assert (renamed["id"], renamed["name"], renamed["status"]) == (created["id"], f"{name} new", "Completed")
    assert renamed["databaseName"] == database_of(f"{name} new")
    deleted = content(instance("delete", created["id"], "--wait", "--json"))
    assert (deleted["id"], deleted["status"]) == (created["id"], "Deleted")
    assert "Not found" in error(instance("show", created["id"]))


def test_usage_is_shown_when_the_instance_is_called_by_its_id_or_its_name(instance: Ods, name: str) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    by_id = content(instance("usage", created["id"], "--json"))
    by_name = content(instance("usage", name, "--json"))
    assert by_id["tables"] == by_name["tables"] > 10
    assert min(by_id["sizeBytes"], by_name["sizeBytes"]) > 1_000_000
    lines = [line.split() for line in instance("usage", name).stdout.splitlines()]
    assert ["tables", str(by_id["tables"])] in lines
    assert lines[-len(by_id["largestTables"]) - 1] == ["LARGEST", "TABLES", "BYTES", "ROWS"]
    assert [line[0] for line in lines[-10:]] == [table["name"] for table in by_id["largestTables"]]
    content(instance("delete", created["id"], "--wait", "--json"))
    unknown = f"There is no instance with the name '{name}"
    assert error(instance("usage", f"{name} else")) == f"{unknown} else'."
    by_its_id = "One in the trash is called by its id, which `ods trash` shows."
    assert error(instance("usage", name)) == f"{unknown}'. {by_its_id}"
    assert "Not found" in error(instance("usage", created["id"]))


def test_attributes_are_given_changed_and_found_when_commanded(instance: Ods, name: str) -> None:
    label = f"run={name.replace(' ', '-')}"
    created = content(
        instance(
            *("create", name, "--wait", "--json", "--protected", "--description", "A [pilot]"),
            *("--label", label, "--label", "stage=", "--context", f"name={name}"),
        )
    )
    attributes = {
        "protected": True,
        "description": "A [pilot]",
        "labels": {"run": name.replace(" ", "-"), "stage": ""},
        "contexts": [{"contextKey": "name", "contextValue": name}],
    }
    assert attributes.items() <= created.items()
    number = created["id"]
    shown = [line.split(maxsplit=1) for line in instance("show", number).stdout.splitlines()]
    assert ["protected", "True"] in shown
    assert ["labels.run", name.replace(" ", "-")] in shown
    assert ["contexts.name", name] in shown
    assert [row["id"] for row in content(instance("list", "--label", label, "--json"))] == [number]
    assert content(instance("list", "--label", label, "--label", "stage=x", "--json")) == []
    assert "each as key:value" in error(instance("list", "--label", "stage"))

    assert f"ods instance unprotect {number}" in error(instance("delete", number))
    assert content(instance("unprotect", number, "--json"))["protected"] is False
    assert content(instance("protect", number, "--json"))["protected"] is True
    labelled = content(instance("label", number, "run-", "stage=live", "new=1", "--json"))
    assert labelled["labels"] == {"stage": "live", "new": "1"}
    assert "must be a key and a value" in error(instance("label", number, "stage"))
    assert content(instance("unprotect", number, "--json"))["protected"] is False
    assert "OdsInstanceContexts" in error(instance("detach", number, "--yes"))
    assert "--none, which removes them" in error(instance("contexts", number))
    assert content(instance("contexts", number, "--none", "--json"))["contexts"] == []
    assert content(instance("delete", number, "--wait", "--json"))["status"] == "Deleted"


def test_instances_are_filtered_called_by_name_and_changed_together_when_commanded(
    instance: Ods, name: str
) -> None:
    def ids(*options: str) -> list[str]:
        return str(instance("list", "--label", label, "--ids", *options).stdout).split()

    label = f"group={name.replace(' ', '-')}"
    names = [f"{name} a", f"{name} b"]
    numbers = [
        str(content(instance("create", one, "--label", label, "--wait", "--json"))["id"]) for one in names
    ]
    assert sorted(ids()) == sorted(numbers)
    protected = instance("protect", names[0], "--json")
    assert content(protected)["protected"] is True
    assert ids("--protected") == numbers[:1]
    assert ids("--unprotected") == numbers[1:]
    assert instance("protect", *names).stdout.splitlines() == [
        f"{number} {one}: Completed" for number, one in zip(numbers, names, strict=True)
    ]
    assert content(instance("unprotect", names[1], "--json"))["protected"] is False

    told = instance("delete", *numbers, "--wait")
    assert told.returncode == 1
    assert f"Error: {numbers[0]}: " in told.stderr
    assert f"{numbers[1]} {names[1]}: Deleted" in told.stdout
    assert ids("--status", "Completed") == numbers[:1]
    assert ids("--status", "Deleted") == numbers[1:]
    assert ids("--status", "Error") == []
    assert numbers[0] in ids("--live")
    assert numbers[1] not in ids("--live")
    assert "Give --live or --status, not both." in instance("list", "--live", "--status", "Error").stderr
    content(instance("undelete", *numbers[1:], "--wait", "--json"))
    assert content(instance("show", names[1], "--json"))["id"] == int(numbers[1])


def test_snapshots_are_made_listed_and_deleted_when_the_instance_is_called_by_its_name(
    ods: Ods, stack: DataFolder, instance: Ods, name: str
) -> None:
    def snapshot(*arguments: str) -> subprocess.CompletedProcess[str]:
        return ods("snapshot", *arguments, "--data-dir", stack.path)

    created = content(instance("create", name, "--wait", "--json"))
    made = content(snapshot("create", name, "--wait", "--json"))
    assert (made["name"], made["status"], made["current"]) == (name, "Completed", True)
    (listed,) = content(snapshot("list", str(created["id"]), "--json"))
    assert made == {"name": name} | listed
    assert listed["odsInstanceId"] == created["odsInstanceId"]
    asked = snapshot("delete", name, str(listed["id"]))
    assert (asked.returncode, "Aborted" in asked.stderr) == (1, True)
    assert snapshot("delete", name, str(listed["id"]), "--yes").returncode == 0


def test_instance_comes_back_and_is_purged_when_commanded(
    instance: Ods, ods: Ods, stack: DataFolder, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    number = str(created["id"])
    told = instance("delete", number, "--wait").stdout
    assert f"`ods instance undelete {number}`" in told
    listed = json.loads(ods("trash", "--json", "--data-dir", stack.path).stdout)
    assert [one["name"] for one in listed if one["id"] == created["id"]] == [name]
    assert content(instance("undelete", number, "--wait", "--json"))["status"] == "Completed"
    assert "is not in the trash" in error(instance("purge", number, "--yes"))  # it has come back meanwhile
    for command in (["purge", "--live"], ["detach"]):  # the name is asked for, and no terminal can give it
        assert instance(*command, number).returncode == 1
    assert content(instance("show", number, "--json"))["status"] == "Completed"
    assert content(instance("delete", number, "--wait", "--json"))["status"] == "Deleted"
    assert instance("purge", number, "--wait", "--yes").returncode == 0
    assert instance("undelete", number).returncode == 1
    left = content(instance("create", f"{name} left", "--wait", "--json"))
    detached = content(instance("detach", str(left["id"]), "--yes", "--json"))
    assert detached["databaseName"] == left["databaseName"]


def test_instance_is_backed_up_and_purged_when_commanded(
    instance: Ods, ods: Ods, stack: DataFolder, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    purged = content(instance("purge", name, "--live", "--final-backup", "--yes", "--wait", "--json"))
    assert (purged["status"], purged["operation"]) == ("Deleted", "Purge")
    kept = ods("backup", "list", "--kind", "final", "--json", "--data-dir", stack.path)
    (backup,) = [one for one in json.loads(kept.stdout) if one["instanceId"] == created["id"]]
    assert (backup["name"], backup["verification"]) == (name, "Completed")


def test_answer_names_the_job_when_the_command_does_not_wait(instance: Ods, name: str) -> None:
    accepted = content(instance("create", name, "--template", "Sample", "--json"))
    assert accepted["jobId"].startswith("CreateInstanceJob-")
    assert accepted["location"] == f"/v2/jobs/{accepted['jobId']}"


def test_output_is_plain_lines_when_it_goes_to_no_terminal(instance: Ods, name: str) -> None:
    created = instance("create", name, "--wait").stdout
    listed = instance("list").stdout
    assert ["databaseName", database_of(name)] in [line.split() for line in created.splitlines()]
    assert any(name in line and "Completed" in line for line in listed.splitlines())
    assert "\x1b" not in created + listed
    assert "\r" not in created + listed


async def test_reason_and_exit_code_tell_when_the_job_fails(
    instance: Ods, foreign_database: "asyncpg.Connection[asyncpg.Record]", name: str
) -> None:
    failed = instance("create", name, "--wait", "--json")
    assert "ended in an error: " in error(failed)
    assert database_of(name) in error(failed)
    (row,) = [row for row in content(instance("list", "--json")) if row["name"] == name]
    assert row["status"] == "Error"
    await foreign_database.execute(f'DROP DATABASE "{database_of(name)}"')
    assert content(instance("retry", row["id"], "--wait", "--json"))["status"] == "Completed"


async def test_unmarked_database_is_no_drift_and_can_be_deleted_when_it_was_adopted(
    ods: Ods, instance: Ods, stack: DataFolder, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    await execute_as_superuser(stack, f'COMMENT ON DATABASE "{database_of(name)}" IS NULL')
    assert database_of(name) in ods("drift", "--data-dir", stack.path).stdout

    asked = instance("adopt", created["id"])
    assert (asked.returncode, "Aborted" in asked.stderr) == (1, True)
    shown = [line.split() for line in asked.stdout.splitlines()]
    assert ["owner", "ods_service"] in shown
    assert ["comment", "none"] in shown
    assert database_of(name) in asked.stderr
    assert database_of(name) in ods("drift", "--data-dir", stack.path).stdout

    assert content(instance("adopt", created["id"], "--yes", "--json"))["adopted"] is True
    assert content(instance("adopt", created["id"], "--json"))["adopted"] is True
    assert database_of(name) not in ods("drift", "--data-dir", stack.path).stdout
    assert content(instance("delete", created["id"], "--wait", "--json"))["status"] == "Deleted"


async def test_instance_is_led_to_its_database_when_it_is_recovered(
    ods: Ods, instance: Ods, stack: DataFolder, name: str
) -> None:
    """The server was put back to before a rename."""
    created = content(instance("create", name, "--wait", "--json"))
    before = await comment_of(stack, database_of(name))
    content(instance("rename", created["id"], f"{name} new", "--wait", "--json"))
    renamed = database_of(f"{name} new")
    await execute_as_superuser(stack, f'ALTER DATABASE "{renamed}" RENAME TO "{database_of(name)}"')
    await execute_as_superuser(stack, f"COMMENT ON DATABASE \"{database_of(name)}\" IS '{before}'")

    step = f"'{name}' is brought in step with its database '{database_of(name)}'."
    shown = ods("recover", "--data-dir", stack.path)
    assert (shown.returncode, f"To do: {step}" in shown.stdout.splitlines()) == (1, True)
    asked = ods("recover", "--apply", "--data-dir", stack.path)
    assert (asked.returncode, "Aborted" in asked.stderr) == (1, True)
    done = ods("recover", "--apply", "--yes", "--data-dir", stack.path)
    assert f"Done: {step}" in done.stdout.splitlines()
    again = json.loads(ods("recover", "--json", "--data-dir", stack.path).stdout)
    assert database_of(name) not in str(again["steps"])
    assert content(instance("delete", created["id"], "--wait", "--json"))["status"] == "Deleted"


async def test_instance_gets_what_its_backup_holds_when_its_database_is_lost(
    ods: Ods, instance: Ods, stack: DataFolder, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    others = content(instance("create", f"{name} b", "--wait", "--json"))
    made = ods("backup", "create", created["id"], "--wait", "--json", "--data-dir", stack.path)
    verified = ods("backup", "verify", content(made)["id"], "--wait", "--data-dir", stack.path)
    assert verified.returncode == 0
    for lost in (name, f"{name} b"):
        await execute_as_superuser(stack, f'DROP DATABASE "{database_of(lost)}"')
    assert "Add --apply" in error(ods("recover", "--restore-lost", "--data-dir", stack.path))
    done = ods("recover", "--apply", "--restore-lost", "--yes", "--data-dir", stack.path)
    assert f"Restored: '{name}' has the database '" in done.stdout
    assert f"'{name} b' has no backup that was verified" in done.stdout
    restored = content(instance("show", created["id"], "--json"))
    assert (restored["name"], restored["status"]) == (name, "Completed")
    assert restored["databaseName"] != database_of(name)
    assert (done.returncode, f"{others['id']} {name} b" in done.stdout) == (1, True)  # that is left
    for one in (created, others):
        content(instance("delete", one["id"], "--wait", "--json"))


async def test_obstacle_is_told_when_a_database_cannot_be_adopted(
    instance: Ods, stack: DataFolder, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    await execute_as_superuser(stack, f"COMMENT ON DATABASE \"{database_of(name)}\" IS 'District 9'")
    assert "has a comment" in error(instance("adopt", created["id"], "--yes"))


def test_refusal_is_one_line_when_the_state_forbids_the_request(instance: Ods, name: str) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    refusal = error(instance("retry", created["id"]))
    assert "Completed" in refusal


def test_every_fault_is_told_when_the_request_is_invalid(instance: Ods) -> None:
    told = error(instance("create", "not-a-name! and much too long for an ODS instance"))
    assert "letters" in told
    assert "46" in told


def test_jobs_are_listed_shown_and_not_cancelled_any_more_when_commanded(
    ods: Ods, stack: DataFolder, instance: Ods, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    job = created["jobId"]
    options = ("--instance", created["id"], "--operation", "create", "--status", "Completed")
    listed = ods("job", "list", *options, "--data-dir", stack.path)
    heading, line = listed.stdout.splitlines()
    assert heading.split()[:3] == ["JOB", "OPERATION", "INSTANCE"]
    assert line.split()[:4] == [job, "Create", str(created["id"]), "Completed"]
    rows = content(ods("job", "list", *options, "--limit", 1, "--json", "--data-dir", stack.path))
    shown = content(ods("job", "show", job, "--json", "--data-dir", stack.path))
    assert rows == [shown]
    assert "state Completed cannot be cancelled" in error(ods("job", "cancel", job, "--data-dir", stack.path))
    assert "only when it has failed" in error(ods("job", "abandon", job, "--data-dir", stack.path))
    assert "'Status' must be one" in error(ods("job", "list", "--status", "x", "--data-dir", stack.path))


def test_jobs_of_a_time_are_listed_when_it_is_named(
    ods: Ods, stack: DataFolder, instance: Ods, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    at = content(ods("job", "show", created["jobId"], "--json", "--data-dir", stack.path))["createdAt"]

    def listed(*options: str) -> list[str]:
        mine = ("--instance", created["id"], "--json", "--data-dir", stack.path)
        return [job["jobId"] for job in content(ods("job", "list", *options, *mine))]

    assert listed("--since", at) == [created["jobId"]]
    assert listed("--since", "2000-01-01T00:00+02:00", "--until", "2999-01-01") == [created["jobId"]]
    assert listed("--until", at) == listed("--since", "2999-01-01") == []
    refused = ods("job", "list", "--since", "yesterday", "--data-dir", stack.path)
    assert "Created From" in error(refused)


async def test_job_is_followed_to_its_end_when_it_is_cancelled(
    ods: Ods, stack: DataFolder, instance: Ods, name: str
) -> None:
    created = content(instance("create", name, "--wait", "--json"))
    running = stack.running_stack()
    assert running is not None
    options = ("--wait", "--data-dir", stack.path)
    session = await asyncpg.connect(running["postgres"]["master_dsn"])
    try:
        async with session.transaction():  # which the deletion waits for
            await session.execute(f'ALTER DATABASE "{database_of(name)}" CONNECTION LIMIT -1')
            deletion = content(instance("delete", created["id"], "--json"))["jobId"]

            async def runs() -> bool:
                told = content(ods("job", "show", deletion, "--json", "--data-dir", stack.path))
                return bool(told["status"] == "InProgress")

            await wait_until(runs, 20)
            cancelled = content(ods("job", "cancel", deletion, "--json", *options))
    finally:
        await session.close()
    assert (cancelled["jobId"], cancelled["status"]) == (deletion, "Error")
    assert cancelled["errorMessage"] == "The job was cancelled."
    assert content(instance("retry", created["id"], "--wait", "--json"))["status"] == "Deleted"
    assert "state Completed cannot be cancelled" in error(ods("job", "cancel", deletion, *options))


def test_sweep_is_requested_when_commanded(ods: Ods, stack: DataFolder) -> None:
    swept = ods("sweep", "--data-dir", stack.path)
    assert (swept.returncode, swept.stdout) == (0, "The sweep is under way.\n")


def test_spares_are_refilled_and_shown_when_commanded(ods: Ods, stack: DataFolder) -> None:
    found = content(ods("spares", "--refill", "--wait", "--json", "--data-dir", stack.path))
    assert [(it["wanted"], it["ready"], it["stale"]) for it in found["templates"]] == [(2, 2, 0)] * 2
    shown = ods("spares", "--data-dir", stack.path).stdout.splitlines()
    assert shown[0].split() == ["TEMPLATE", "READY", "WANTED", "STALE", "BYTES"]
    assert len(shown) == 3


def test_template_of_the_stack_is_replaced_and_listed_when_one_is_loaded(
    ods: Ods, instance: Ods, stack: DataFolder, name: str, tmp_path: Path
) -> None:
    scripts = Path(seeding.__file__).parent / "templates"
    file = tmp_path / "sample.sql"
    file.write_text("".join((scripts / script).read_text() for script in seeding.SAMPLE_SCRIPTS))
    loaded = ods("template", "load", "Sample", file, "--yes", "--data-dir", stack.path)
    assert loaded.returncode == 0, loaded.stderr
    *_, told, kept = loaded.stdout.splitlines()
    assert told.startswith("The template Sample is loaded (generation 1).")
    assert kept.startswith("The database before it, which no load had made, is kept as ods_template_")

    found = content(ods("template", "list", "--json", "--data-dir", stack.path))
    generations = {one["name"]: (one["ready"], one["generation"]) for one in found}
    assert generations == {"Minimal": (True, None), "Sample": (True, 1)}
    shown = ods("template", "list", "--data-dir", stack.path).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["NAME", "Minimal", "Sample"]
    created = content(instance("create", name, "--template", "Sample", "--wait", "--json"))
    assert created["status"] == "Completed"


def test_no_template_is_loaded_when_the_operator_does_not_agree(ods: Ods, stack: DataFolder) -> None:
    refused = ods("template", "load", "Sample", "sample.sql", "--data-dir", stack.path)
    assert refused.returncode == 1
    assert "Replace the database" in refused.stderr


def test_credentials_are_blamed_when_the_secret_is_wrong(ods: Ods, stack: DataFolder) -> None:
    told = error(ods("instance", "list", "--data-dir", stack.path, ODS_CLIENT_SECRET="wrong"))
    assert "does not accept the client" in told
    assert "ODS_CLIENT_SECRET" in told
    assert "wrong" not in told


def test_start_is_proposed_when_no_stack_runs(ods: Ods, tmp_path: Path) -> None:
    assert "`ods up` starts one" in error(ods("instance", "list", "--data-dir", tmp_path))


def test_start_is_proposed_when_no_server_listens(ods: Ods) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = error(ods("instance", "list", "--api-url", url, ODS_CLIENT_ID="a", ODS_CLIENT_SECRET="b"))
    assert told.startswith(f"No API answers at {url}; start the stack with `ods up`")


def test_credentials_are_asked_for_when_only_the_address_is_known(ods: Ods) -> None:
    told = error(ods("sweep", ODS_API_URL="http://127.0.0.1:1"))
    assert "ODS_CLIENT_ID and ODS_CLIENT_SECRET" in told


def test_no_api_is_called_when_another_one_is_named_beside_the_stack(ods: Ods, stack: DataFolder) -> None:
    told = error(ods("sweep", "--data-dir", stack.path, ODS_API_URL="http://127.0.0.1:1"))
    assert told.startswith(f"--data-dir names the stack in {stack.path}, but ODS_API_URL")


def test_scheme_is_asked_for_when_the_address_has_none(ods: Ods) -> None:
    told = error(ods("sweep", ODS_API_URL="ods.example.org:8000"))
    assert told.startswith("The address of an API begins with http:// or https://")


def test_variables_are_named_when_migrating_without_settings(ods: Ods) -> None:
    migrated = ods("migrate")
    assert migrated.returncode == 1
    assert "ODS_ADMIN_DSN: must be set\n" in migrated.stderr
    assert "docs/settings.md" in migrated.stderr


def test_registry_is_migrated_when_the_settings_name_it(ods: Ods, settings_of_stack: dict[str, str]) -> None:
    migrated = ods("migrate", **settings_of_stack)
    assert (migrated.returncode, migrated.stdout) == (0, "The registry database is up to date.\n")


def test_variable_is_blamed_when_the_registry_cannot_be_reached(
    ods: Ods, settings_of_stack: dict[str, str]
) -> None:
    unreachable = f"postgresql://service:a-secret@127.0.0.1:{free_port()}/EdFi_Admin"
    told = error(ods("migrate", **(settings_of_stack | {"ODS_ADMIN_DSN": unreachable})))
    assert "check ODS_ADMIN_DSN" in told
    assert "a-secret" not in told


def test_organizations_are_read_when_a_refresh_is_commanded(ods: Ods, stack: DataFolder) -> None:
    refreshed = content(ods("edorgs", "refresh", "--wait", "--json", "--data-dir", stack.path))
    assert refreshed["status"] == "Completed"
    assert "odsInstance with ID 987654" in error(
        ods("edorgs", "refresh", "--instance", 987654, "--data-dir", stack.path)
    )


def test_backup_is_made_verified_fetched_restored_and_deleted_when_the_commands_are_run(
    instance: Ods, ods: Ods, stack: DataFolder, tmp_path: Path, name: str
) -> None:
    def backup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return ods("backup", *arguments, "--data-dir", stack.path)

    created = content(instance("create", name, "--wait", "--json"))
    plain = backup("create", name, "--wait").stdout
    assert f"Backing up {name}: 100 %" in plain
    made = content(backup("create", str(created["id"]), "--wait", "--json"))
    assert made["status"] == "Completed"
    assert made["location"].startswith((stack.path / "backups").as_uri())
    listed = content(backup("list", "--instance", str(created["id"]), "--json"))
    assert listed[0]["id"] == made["id"]
    assert len(listed) == 2
    verifying = {"verification", "verifiedAt"}  # it may be under way
    shown = content(backup("show", made["id"], "--json"))
    assert {**shown, **dict.fromkeys(verifying)} == {**made, **dict.fromkeys(verifying)}
    assert content(backup("verify", made["id"], "--wait", "--json"))["verification"] == "Completed"

    file = tmp_path / "fetched.dump"
    fetched = backup("fetch", made["id"], file)
    assert "is whole" in fetched.stdout
    assert hashlib.sha256(file.read_bytes()).hexdigest() == made["sha256"]
    assert "is there already" in error(backup("fetch", made["id"], file))

    restored = content(backup("restore", made["id"], f"{name} back", "--wait", "--json"))
    assert (restored["status"], restored["backupId"]) == ("Completed", made["id"])
    again = content(instance("create", f"{name} too", "--backup", made["id"], "--wait", "--json"))
    assert again["backupId"] == made["id"]

    asked = backup("delete", made["id"])  # there is no terminal
    assert asked.returncode == 1
    assert f"The requested backup of {made['createdAt']} cannot come back." in asked.stderr
    assert backup("delete", made["id"], "--yes").returncode == 0
    assert "Not found" in error(backup("show", made["id"]))
