"""Client programs of PostgreSQL are led to one database; passwords are in their environment alone."""

from pathlib import Path

import pytest

from ods.backups.client_programs import find_program
from ods.programs import process
from ods.programs.postgres import client_address, client_environment
from ods.programs.process import Command
from tests.secret_search import as_secret


@pytest.mark.parametrize(
    ("dsn", "address", "password"),
    [
        (
            "postgresql://u:p%40@h:5432,i:5433/postgres?dbname=EdFi_Admin&database=x&sslmode=require",
            "postgresql://u@h:5432,i:5433/my%20db?sslmode=require",
            "p@",
        ),
        (
            "postgres://h/p?user=a%40b&password=secret&options=-c%20lock_timeout%3D1&application_name=x%20y",
            "postgres://a%40b@h/my%20db?application_name=x%20y",
            "secret",
        ),
        ("postgresql://me@a:1/postgres?password=p%2Bss", "postgresql://me@a:1/my%20db", "p+ss"),
        ("postgresql://u@[::1]:5433/postgres?user=other", "postgresql://u@[::1]:5433/my%20db", None),
    ],
)
def test_program_is_led_to_the_database_when_the_dsn_names_others(
    dsn: str, address: str, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PGHOSTADDR", "192.0.2.1"), ("PGSERVICE", "other"), ("PGSSLMODE", "require")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert client_address(dsn, "my db") == address
    environment = client_environment(dsn, {"lock_timeout": "1s"})
    assert environment.get("PGPASSWORD") == password
    assert environment["PGOPTIONS"] == "-c lock_timeout=1s"
    assert environment["PGSSLMODE"] == "require"
    assert environment.keys().isdisjoint({"PGHOSTADDR", "PGSERVICE"})


def test_secrets_are_led_to_by_the_environment_when_libpq_has_no_variable_for_them() -> None:
    dsn = "postgresql://u:p@h/postgres?sslkey=/k&sslpassword=s%20=%25cret&sslmode=require"
    assert client_address(dsn, "ods", "pg_dump x").partition("?")[2] == (
        "sslkey=%2Fk&sslmode=require&application_name=pg_dump%20x"
    )
    for _ in range(2):
        environment = client_environment(dsn, {})
        assert environment["PGSERVICE"] == "ods"
        assert Path(environment["PGSERVICEFILE"]).read_text() == "[ods]\nsslpassword=s =%cret\n"


async def test_programs_see_no_secret_of_the_service_when_it_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = as_secret("a-secret-of-the-service-not-for-programs")
    for name in ("ODS_ENCRYPTION_KEY", "ODS_MASTER_DSN", "AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_KEY"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("PGSSLMODE", "require")
    seen = tmp_path / "seen"
    stub = tmp_path / "pg_dump"
    stub.write_text(f"#!/bin/sh\nenv >> {seen}\necho 'pg_dump (PostgreSQL) 18.1'\n")
    stub.chmod(0o700)
    monkeypatch.setattr("ods.backups.client_programs.client_program", lambda *_: str(stub))

    program = await find_program("pg_dump", 18)
    own = client_environment("postgresql://u:p@h/postgres", {})
    running = await process.start(Command("pg_dump", (program.path,), own), tmp_path / "log")
    assert await running.wait() == 0

    lines = seen.read_text().splitlines()
    assert lines.count("PGSSLMODE=require") == 2
    assert lines.count("PGPASSWORD=p") == 1
    assert not [line for line in lines if secret in line or line.startswith(("ODS_", "AWS_"))]
