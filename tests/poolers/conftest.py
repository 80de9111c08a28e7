"""Tests that need a program which no wheel brings: `make test-pgbouncer` runs them, `make test` does not."""

import pytest

from tests.pgbouncer import PROGRAM


@pytest.fixture(scope="session", autouse=True)
def _pgbouncer() -> None:
    if PROGRAM is None:
        pytest.fail("PgBouncer is not installed: apt-get install pgbouncer")
