"""Client programs of PostgreSQL are led to one database; passwords are in their environment alone."""

from pathlib import Path

import pytest

from programs.postgres import client_address, client_environment


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
