"""Which faults of PostgreSQL are tried again, and what a person is told about them."""

import traceback

import asyncpg
import pytest

from ods.databases.errors import DatabaseFaultError, NotOursError, translate_postgres_errors

RETRYABLE = [
    *("55006", "57P01", "57P03"),
    *("08000", "08001", "08003", "08004", "08006"),
    *("53000", "53100", "53200", "53300", "53400"),
    *("40001", "40P01", "40003"),
    *("57P02", "55P03", "57014", "XX000", "58030", "58P01", "28P01", "28000"),
]
FINAL = [
    *("42501", "3D000", "22023"),
    *("42P04", "23505", "55000", "42809", "42622", "42601", "57000"),
]


def fault(error: Exception, reasons: dict[str, str] | None = None) -> DatabaseFaultError:
    with pytest.raises(DatabaseFaultError) as caught, translate_postgres_errors(reasons or {}):
        raise error
    return caught.value


def postgres_error(sqlstate: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(
        {"C": sqlstate, "M": "hidden words", "D": "hidden"}
    )
    return error


@pytest.mark.parametrize("sqlstate", RETRYABLE)
def test_step_may_be_repeated_when_the_fault_passes_by_itself(sqlstate: str) -> None:
    assert fault(postgres_error(sqlstate)).retryable


@pytest.mark.parametrize("sqlstate", FINAL)
def test_step_is_not_repeated_when_a_person_must_act(sqlstate: str) -> None:
    assert not fault(postgres_error(sqlstate)).retryable


@pytest.mark.parametrize("sqlstate", [*RETRYABLE, *FINAL])
def test_server_words_are_not_told_when_a_fault_is_explained(sqlstate: str) -> None:
    explained = fault(postgres_error(sqlstate))
    assert "hidden" not in "".join(traceback.format_exception(explained))
    assert explained.reason.endswith((".", "max_connections."))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("hidden"),
        TimeoutError("hidden"),
        asyncpg.InterfaceError("hidden"),
        asyncpg.InternalClientError("hidden"),
        asyncpg.ConnectionDoesNotExistError("hidden"),
    ],
)
def test_step_may_be_repeated_when_the_connection_is_lost(error: Exception) -> None:
    explained = fault(error)
    assert explained.retryable
    assert "hidden" not in "".join(traceback.format_exception(explained))


def test_own_words_are_told_when_the_step_knows_better() -> None:
    explained = fault(postgres_error("42501"), {"42501": "Grant it CREATEDB, then retry."})
    assert explained.reason == "Grant it CREATEDB, then retry."
    assert not explained.retryable


@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [
        ("53100", "disk space"),
        ("53300", "connections"),
        ("28P01", "ODS_MASTER_DSN"),
        ("28000", "ODS_MASTER_DSN"),
        ("57P03", "starting"),
        ("08006", "ended the connection"),
        ("XX001", "XX001"),
    ],
)
def test_reason_tells_what_to_do_when_the_fault_is_a_known_one(sqlstate: str, words: str) -> None:
    assert words in fault(postgres_error(sqlstate)).reason


def test_fault_passes_unchanged_when_it_was_explained_before() -> None:
    explained = NotOursError("EdFi_Ods_Foo_Minimal")
    assert fault(explained) is explained
    assert not explained.retryable
    assert "'EdFi_Ods_Foo_Minimal'" in explained.reason
    assert "untouched" in explained.reason


def test_fault_passes_unchanged_when_it_is_none_of_the_database() -> None:
    with pytest.raises(ZeroDivisionError), translate_postgres_errors({}):
        raise ZeroDivisionError
