"""Connection strings get the new key: in batches, beside other sessions, and again after a kill."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ods.embedded.postgres import EmbeddedPostgres
from ods.registry.connection_strings import key_rotation
from ods.registry.connection_strings.encryption import Keyring, decrypt, encrypt
from ods.registry.connection_strings.key_rotation import Rotation, rotate
from ods.registry.instances.job_store import JobStore
from ods.registry.instances.store import InstanceStore
from ods.settings.settings import Settings
from tests import preloaded
from tests.postgres.instance_states import bring_to
from tests.servers import environment, make_settings, make_tenant_settings

OLD, NEW, LOST = (bytes([number]) * 32 for number in (1, 2, 3))
KEYS = Keyring([NEW, OLD])
COMMAND = (Path(sys.executable).with_name("ods"), "keys", "rotate")


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


async def add(rows: asyncpg.Connection, strings: Iterable[str | None]) -> list[int]:
    """ODS instances with these encrypted connection strings; returns their ids."""
    return [
        await rows.fetchval(
            "INSERT INTO dbo.odsinstances (name, connectionstring) VALUES (gen_random_uuid(), $1)"
            " RETURNING odsinstanceid",
            string,
        )
        for string in strings
    ]


async def add_derivative(rows: asyncpg.Connection, ods_instance: int, string: str) -> int:
    identifier: int = await rows.fetchval(
        "INSERT INTO dbo.odsinstancederivatives (odsinstance_odsinstanceid, derivativetype, connectionstring)"
        " VALUES ($1, 'Snapshot', $2) RETURNING odsinstancederivativeid",
        ods_instance,
        string,
    )
    return identifier


async def stored(rows: asyncpg.Connection) -> list[str | None]:
    query = "SELECT connectionstring FROM dbo.odsinstances ORDER BY odsinstanceid"
    return [row[0] for row in await rows.fetch(query)]


async def texts(rows: asyncpg.Connection, key: bytes) -> list[str]:
    return [decrypt(string or "", key) for string in await stored(rows)]


async def test_each_string_gets_the_new_key_when_it_has_an_old_one(
    engine: AsyncEngine, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_rotation, "_BATCH", 3)
    said = [f"host=h;database={number}" for number in range(10)]
    first, *_ = await add(rows, [encrypt(text, OLD) for text in said])
    await add_derivative(rows, first, encrypt("host=replica", OLD))
    assert await rotate(engine, KEYS) == Rotation(renewed=11)
    assert await texts(rows, NEW) == said
    derivative = await rows.fetchval("SELECT connectionstring FROM dbo.odsinstancederivatives")
    assert decrypt(derivative, NEW) == "host=replica"

    before = await stored(rows)
    assert await rotate(engine, KEYS) == Rotation(current=11)
    assert await stored(rows) == before


async def test_string_of_a_derivative_in_the_trash_gets_the_new_key(
    engine: AsyncEngine, rows: asyncpg.Connection, instances: InstanceStore, job_store: JobStore, name: str
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await add_derivative(rows, job.ods_instance_id, encrypt("host=replica", OLD))
    lost = await bring_to(instances, job_store, "Pending_Delete", f"{name} lost")
    unreadable = await add_derivative(rows, lost.ods_instance_id, encrypt("host=replica", LOST))
    for deletion in (job, lost):
        await job_store.begin(deletion)
        await job_store.finish_delete(deletion)
    assert await rotate(engine, KEYS) == Rotation(1, 0, [f"derivative {unreadable} in the trash"])
    assert await rotate(engine, KEYS) == Rotation(0, 1, [f"derivative {unreadable} in the trash"])
    undelete = (await instances.request_undelete(job.instance_id)).job
    await job_store.begin(undelete)
    assert await job_store.finish_undelete(undelete, encrypt("host=h", NEW))
    derivative = await rows.fetchval("SELECT connectionstring FROM dbo.odsinstancederivatives")
    assert decrypt(derivative, NEW) == "host=replica"


@pytest.mark.parametrize("moves", ["out of the trash", "into the trash"])
async def test_string_of_a_derivative_gets_the_new_key_when_it_moves_between_the_parts_of_a_rotation(
    engine: AsyncEngine,
    rows: asyncpg.Connection,
    instances: InstanceStore,
    job_store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    moves: str,
) -> None:
    job = await bring_to(instances, job_store, "Pending_Delete", name)
    await add_derivative(rows, job.ods_instance_id, encrypt("host=replica", OLD))
    pages = key_rotation._pages  # noqa: SLF001 - the moment between its parts

    async def move() -> None:
        if moves == "into the trash":
            await job_store.begin(job)
            await job_store.finish_delete(job)
            return
        undelete = (await instances.request_undelete(job.instance_id)).job
        await job_store.begin(undelete)
        assert await job_store.finish_undelete(undelete, encrypt("host=h", NEW))

    async def pages_and_a_move(session: Any, strings: Any) -> Any:
        async for page in pages(session, strings):
            yield page
        if (strings.name == "derivative") is (moves == "out of the trash"):
            await move()

    if moves == "out of the trash":
        await job_store.begin(job)
        await job_store.finish_delete(job)
    monkeypatch.setattr(key_rotation, "_pages", pages_and_a_move)
    await rotate(engine, KEYS)
    kept = await rows.fetchval(
        "SELECT setaside -> 'derivatives' -> 0 ->> 'connectionString' FROM adminapi.dbinstances"
    )
    derivative = kept or await rows.fetchval("SELECT connectionstring FROM dbo.odsinstancederivatives")
    assert decrypt(derivative, NEW) == "host=replica"


async def test_string_stays_as_it_is_and_its_row_is_named_when_no_key_fits(
    engine: AsyncEngine, rows: asyncpg.Connection
) -> None:
    strings = [
        encrypt("host=h", LOST),
        "host=h;password=plain",
        None,
        encrypt("host=h", NEW),
        "",
        encrypt("host=h", OLD),
    ]
    ids = await add(rows, strings)
    derivative = await add_derivative(rows, ids[0], "iv|text|hmac")
    done = await rotate(engine, KEYS)
    unreadable = [f"ODS instance {ids[number]}" for number in (0, 1, 4)]
    assert done == Rotation(1, 1, [*unreadable, f"derivative {derivative}"])
    assert (await stored(rows))[:5] == strings[:5]


async def test_string_is_not_overwritten_when_another_session_changes_it_meanwhile(
    engine: AsyncEngine, rows: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await add(rows, [encrypt(f"host={number}", OLD) for number in range(3)])
    write = key_rotation._write  # noqa: SLF001 - the moment between reading and writing
    changes = iter([encrypt("host=changed", OLD), encrypt("host=changed twice", OLD)])

    async def interrupted(*arguments: Any) -> set[int]:
        """Another session is faster, twice."""
        if (change := next(changes, None)) is not None:
            change_row = "UPDATE dbo.odsinstances SET connectionstring = $1 WHERE odsinstanceid = $2"
            await rows.execute(change_row, change, ids[0])
            await rows.execute("DELETE FROM dbo.odsinstances WHERE odsinstanceid = $1", ids[1])
        return await write(*arguments)

    monkeypatch.setattr(key_rotation, "_write", interrupted)
    assert await rotate(engine, KEYS) == Rotation(renewed=2)
    assert await texts(rows, NEW) == ["host=changed twice", "host=2"]


async def test_strings_are_readable_and_the_next_run_does_the_rest_when_a_run_is_killed(
    settings: Settings, rows: asyncpg.Connection, admin: asyncpg.Connection, engine: AsyncEngine
) -> None:
    count = 1000
    said = [f"host=h;database={number}" for number in range(count)]
    await rows.execute(
        "INSERT INTO dbo.odsinstances (name, connectionstring)"
        " SELECT gen_random_uuid(), string FROM unnest($1::text[]) AS string",
        [encrypt(text, OLD) for text in said],
    )
    blocked = "SELECT pid FROM pg_stat_activity WHERE $1 = any(pg_blocking_pids(pid))"
    async with rows.transaction():  # the run waits for this session in the middle of its work
        middle = await rows.fetchval("SELECT odsinstanceid FROM dbo.odsinstances ORDER BY 1 OFFSET 500")
        await rows.execute("SELECT FROM dbo.odsinstances WHERE odsinstanceid = $1 FOR UPDATE", middle)
        run = await asyncio.create_subprocess_exec(*COMMAND, env=variables(settings))
        async with asyncio.timeout(20):
            while (pid := await admin.fetchval(blocked, rows.get_server_pid())) is None:
                await asyncio.sleep(0.01)
        run.kill()
        await run.wait()
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    assert [KEYS.decrypt(string or "") for string in await stored(rows)] == said
    done = await rotate(engine, KEYS)
    assert done.renewed + done.current == count
    assert done.current == 400
    assert await texts(rows, NEW) == said


def variables(settings: Any, **changes: str) -> dict[str, str]:
    keys = {
        "ODS_ENCRYPTION_KEY": encoded(NEW),
        "ODS_ENCRYPTION_KEY_PREVIOUS": f"{encoded(LOST)},{encoded(OLD)}",
    }
    return environment(settings) | keys | {"PATH": os.defpath} | changes


async def ods_keys_rotate(settings: Any, *options: str, **changes: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    env = variables(settings, **changes)
    run = await asyncio.to_thread(preloaded.run, "ods.cli", "keys", "rotate", *options, env=env)
    return run.returncode, run.stdout + run.stderr


async def test_command_says_what_it_did_and_succeeds_when_nothing_is_left(
    settings: Settings, rows: asyncpg.Connection
) -> None:
    await add(rows, [encrypt("host=h", OLD), encrypt("host=h", NEW), encrypt("host=h", LOST)])
    assert await ods_keys_rotate(settings) == (0, "2 re-encrypted, 1 had the key already.\n")
    assert await texts(rows, NEW) == ["host=h"] * 3


async def test_command_fails_and_names_rows_but_no_values_when_some_are_left(
    settings: Settings, rows: asyncpg.Connection
) -> None:
    lost = encrypt("host=hidden", bytes(32))
    (identifier,) = await add(rows, [lost])
    code, output = await ods_keys_rotate(settings)
    assert code == 1
    assert output.splitlines() == [
        "0 re-encrypted, 0 had the key already.",
        f"1 cannot be read with any key, and stay as they are: ODS instance {identifier}.",
    ]
    code, output = await ods_keys_rotate(settings, "--json")
    assert code == 1
    assert json.loads(output) == {
        "default": {"renewed": 0, "current": 0, "unreadable": [f"ODS instance {identifier}"]}
    }


async def test_other_tenants_are_done_when_the_registry_of_one_is_away(
    postgres: EmbeddedPostgres, settings: Settings, rows: asyncpg.Connection
) -> None:
    away = make_settings(postgres, "postgresql://u:hidden@127.0.0.1:1/EdFi_Admin")
    several = make_tenant_settings({"one": away, "two": settings})
    tenants = json.loads(environment(several)["ODS_TENANTS"])
    for own in tenants.values():
        own |= {"encryption_key": encoded(NEW), "encryption_key_previous": encoded(OLD)}
    await add(rows, [encrypt("host=h", OLD)])
    code, output = await ods_keys_rotate(several, ODS_TENANTS=json.dumps(tenants))
    assert code == 1
    assert "Tenant two: 1 re-encrypted, 0 had the key already." in output
    assert "Error: Tenant one: The connection strings cannot be re-encrypted" in output
    assert "hidden" not in output
    done = (0, "Tenant two: 0 re-encrypted, 1 had the key already.\n")
    assert await ods_keys_rotate(several, "--tenant", "two", ODS_TENANTS=json.dumps(tenants)) == done
    code, output = await ods_keys_rotate(several, "--tenant", "three", ODS_TENANTS=json.dumps(tenants))
    assert (code, output) == (1, "Error: There is no tenant three; there are one, two.\n")
