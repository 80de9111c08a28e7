"""How pg_restore and psql are told where to load."""

from pathlib import Path

import pytest

from cli.restore_programs import Destination, restore_environment


@pytest.mark.parametrize(
    ("dsn", "address", "password"),
    [
        (
            "postgresql://u:p%40@h:5432,i:5433/postgres?dbname=EdFi_Admin&database=x&sslmode=require",
            "postgresql://u@h:5432,i:5433/ods_x?sslmode=require",
            "p@",
        ),
        (
            "postgres://h/p?user=a%40b&password=secret&options=-c%20lock_timeout%3D1&application_name=x%20y",
            "postgres://a%40b@h/ods_x?application_name=x%20y",
            "secret",
        ),
        ("postgresql://u@[::1]:5433/postgres?user=other", "postgresql://u@[::1]:5433/ods_x", None),
    ],
)
def test_programs_are_led_to_the_private_database_when_the_address_names_others(
    dsn: str, address: str, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PGHOSTADDR", "192.0.2.1"), ("PGSERVICE", "other"), ("PGSSLMODE", "require")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert Destination(dsn, "ods_x", 1, Path("log")).address == address
    environment = restore_environment(dsn)
    assert environment.get("PGPASSWORD") == password
    assert environment["PGSSLMODE"] == "require"
    assert environment.keys().isdisjoint({"PGHOSTADDR", "PGSERVICE"})
